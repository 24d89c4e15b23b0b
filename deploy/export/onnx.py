"""Export a trained network to the files of a bundle, and make its serving graph in other precisions for engines that need it.

``f32`` is the bundle's own ``model.onnx``. ``f16`` is exported from the bundle's weights, which needs the network's package and
PyTorch (``oddsight[train]``); ``int8`` is quantized from ``model.onnx`` with calibration frames, which are not in the bundle: its
golden sequences validate the result. Both are made when first needed and cached, as in ``engines/graph-f16/model.onnx``.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from deploy.bundle import ONNX_NAME, Bundle, replace_file, sha256
from deploy.engine import Precision
from deploy.errors import ConfigError, EngineFailed, EngineRefused, EngineUnavailable
from deploy.files import read_inside
from deploy.records import CalibrationInfo, record_folder
from deploy.sequences import CalibrationFrames
from deploy.spec import ClipSpec

if TYPE_CHECKING:
    from torch import nn

OPSET = 20  # supported by ONNX Runtime 1.20, OpenVINO 2025 and TensorRT 10; pinned, so that a newer PyTorch does not raise it
_FOLDED_BYTES = 1 << 20
_RECORD_NAME = "graph.json"


class GraphRecord(BaseModel):
    """``graph.json``: what a cached graph was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_sha256: str
    sha256: str
    calibration: CalibrationInfo | None = None  # for int8 only


@dataclass(frozen=True, slots=True)
class ServingGraph:
    """An ONNX graph, and for ``int8`` the frames that it was calibrated with."""

    content: bytes
    calibration: CalibrationInfo | None = None


def export_onnx(network: "nn.Module", spec: ClipSpec, *, half: bool = False) -> bytes:
    """Export a network on the CPU as ``model.onnx``; the same bytes for the same network and weights.

    ``network.forward`` takes uint8 (N, T, H, W, C) and returns score (N,) and heat map (N, h, w), both float32. The graph's
    input is ``clips``, its outputs are ``score`` and ``heatmap``; N is free, the other sizes are those of ``spec``. If the spec
    has a state, ``forward(clips, state)`` also takes float32 (N, *state_shape) and returns the next state as its third value:
    the input ``state`` and the output ``next_state``. With profiles it takes the input ``profile`` last, float32 (N, P).

    ``half``: convolutions and matrix products in float16 (:mod:`deploy.engines.torch`), for engines that take precision from the
    graph. Inputs and outputs are the same.
    """
    import onnx

    was_training = network.training
    network.eval()
    try:
        with _quiet():
            graph = _export_half(network, spec) if half else _export(network, spec)
    finally:
        network.train(was_training)
    onnx.checker.check_model(graph, full_check=True)
    content: bytes = graph.SerializeToString(deterministic=True)
    return content


def save_weights(network: "nn.Module") -> bytes:
    """Content of ``weights.safetensors``: all parameters and buffers of a network."""
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()})


def serving_graph(
    bundle: Bundle,
    precision: Precision,
    calibration: CalibrationFrames | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> ServingGraph:
    """The graph in ``f32``, ``f16`` or ``int8``, from the cache or newly made.

    ``calibration`` is needed for a new ``int8`` graph; without it, a cached one is used. ``on_progress`` gets the number of
    finished trials of quantization and of all.

    Raises:
        ConfigError: there is no graph of that precision.
        EngineUnavailable: a library that makes the graph is not installed.
        BundleIncompatible: the network's package is not installed.
        EngineFailed: the new graph is not in the precision.
        EngineRefused: no convolution can be computed in ``int8``, or calibration frames are missing.
    """
    if precision == "f32":
        return ServingGraph(bundle.file(ONNX_NAME).read_bytes())
    if precision not in ("f16", "int8"):
        raise ConfigError(f"graphs are made in f32, f16 and int8, got {precision!r}")
    cached = _read(bundle, precision)
    if cached is not None and (calibration is None or cached.calibration == calibration.info):
        return cached
    graph = _half_graph(bundle) if precision == "f16" else _quantize(bundle, calibration, on_progress)
    folder = record_folder(bundle, "graph", precision)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / ONNX_NAME, graph.content)
    replace_file(folder / _RECORD_NAME, (_record(bundle, graph).model_dump_json(indent=2, exclude_none=True) + "\n").encode())
    return graph


def _export(network: "nn.Module", spec: ClipSpec) -> Any:
    import onnx_ir.passes.common as passes
    import onnxscript.optimizer
    import torch

    # Two clips, because torch.export treats a size of one as a constant.
    inputs = {name: torch.zeros((2, *shape)) for name, shape in spec.input_shapes.items()}
    inputs["clips"] = inputs["clips"].to(torch.uint8)
    outputs = ["score", "heatmap", *(["next_state"] if spec.state_shape is not None else [])]
    with torch.no_grad():
        program: Any = torch.onnx.export(
            network,
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("clips_n", min=1)},) * len(inputs),
            input_names=list(inputs),
            output_names=outputs,
            opset_version=OPSET,
            verbose=False,
            optimize=False,
        )
    # Two thirds of the nodes are constants or unused: without them, trying all rules on each node takes a tenth of the time.
    # Folding also computes what depends on weights alone: not every engine treats the results as constants.
    limits: Any = {"input_size_limit": _FOLDED_BYTES, "output_size_limit": _FOLDED_BYTES}
    onnxscript.optimizer.fold_constants(program.model, **limits)
    for clean in (passes.RemoveUnusedNodesPass(), passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)):
        clean(program.model)
    onnxscript.optimizer.optimize(program.model, num_iterations=1, **limits)  # a second round finds nothing more
    passes.IdentityEliminationPass()(program.model)
    passes.RemoveUnusedNodesPass()(program.model)
    # The exporter stores stack traces with paths of this machine.
    passes.ClearMetadataAndDocStringPass()(program.model)
    return program.model_proto


def _export_half(network: "nn.Module", spec: ClipSpec) -> Any:
    import torch

    from deploy.engines.torch import HalfPrecisionNetwork

    with torch.autocast("cpu", dtype=torch.float16):
        return _export(HalfPrecisionNetwork(network), spec)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings of its own deprecated calls and of packages that no network here needs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _half_graph(bundle: Bundle) -> ServingGraph:
    from deploy.engines.torch import load_network

    graph = export_onnx(load_network(bundle), bundle.spec, half=True)
    if (share := half_share(graph)) < 1:
        raise EngineFailed(f"{bundle.path}: only {share:.0%} of the exported convolutions and products are in half precision")
    return ServingGraph(graph)


def half_share(graph: bytes) -> float:
    """Share, 0 to 1, of an ONNX graph's convolutions and matrix products whose output is float16.

    A strongly typed engine built from a graph that is float32 by mistake gives right scores, only slowly; so check first.
    """
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(graph)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.value_info, *model.output)}
    products = [node for node in model.node if node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"}]
    in_half = [node for node in products if types.get(node.output[0]) == onnx.TensorProto.FLOAT16]
    return len(in_half) / max(1, len(products))


def _quantize(bundle: Bundle, calibration: CalibrationFrames | None, on_progress: Callable[[int, int], None]) -> ServingGraph:
    if calibration is None:
        raise EngineRefused(
            f"{bundle.path}: no int8 graph of this model was made yet, and the bundle's own footage cannot calibrate it, since "
            "it validates it; give oddsight-deploy build pictures of your cameras: --calibration-data FOLDER"
        )
    try:
        from deploy.export.int8 import quantize_graph

        return ServingGraph(quantize_graph(bundle, calibration, on_progress), calibration.info)
    except ImportError as error:
        raise EngineUnavailable(f"no graph can be made in int8: {error}; install it: pip install 'oddsight[train]'") from error


def _record(bundle: Bundle, graph: ServingGraph) -> GraphRecord:
    sums = {"model_sha256": bundle.manifest.files[ONNX_NAME], "sha256": sha256(graph.content)}
    return GraphRecord(**sums, calibration=graph.calibration)


def _read(bundle: Bundle, precision: Precision) -> ServingGraph | None:
    """The cached graph, if it was made from this very model and is unchanged."""
    folder = record_folder(bundle, "graph", precision)
    try:
        content = read_inside(folder, ONNX_NAME)
        record = GraphRecord.model_validate_json(read_inside(folder, _RECORD_NAME))
    except (OSError, ValueError, RecursionError):
        return None
    graph = ServingGraph(content, record.calibration)
    valid = record == _record(bundle, graph) and (graph.calibration is not None) == (precision == "int8")
    return graph if valid else None
