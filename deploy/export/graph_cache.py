"""The serving graph in each precision, for engines that take types from the graph.

``f32`` is the bundle's own ``model.onnx``. ``f16`` is exported from the bundle's weights, which needs the network's package and
PyTorch; ``int8`` is quantized from ``model.onnx`` with calibration frames, which are not in the bundle: its golden sequences
validate the result. Both are made when first needed and kept, as in ``engines/graph-f16/model.onnx``.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from deploy.bundle import ONNX_NAME, Bundle, replace_file, sha256
from deploy.engine import Precision
from deploy.errors import ConfigError, EngineFailed, EngineRefused, EngineUnavailable
from deploy.export.calibration_frames import CalibrationFrames
from deploy.records import CalibrationInfo, record_folder

_RECORD_NAME = "graph.json"


class GraphRecord(BaseModel):
    """``graph.json``: what a cached graph was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_sha256: str
    sha256: str
    calibration: CalibrationInfo | None = None
    """For ``int8`` only."""


@dataclass(frozen=True, slots=True)
class ServingGraph:
    """An ONNX graph, and for ``int8`` the frames that it was calibrated with."""

    content: bytes
    calibration: CalibrationInfo | None = None


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
    graph = _export_f16(bundle) if precision == "f16" else _quantize(bundle, calibration, on_progress)
    _write(bundle, precision, graph)
    return graph


def _export_f16(bundle: Bundle) -> ServingGraph:
    from deploy.export.onnx import export_onnx
    from deploy.network import half_share, load_network

    graph = export_onnx(load_network(bundle), bundle.spec, half=True)
    share = half_share(graph)
    if share < 1:
        raise EngineFailed(f"{bundle.path}: only {share:.0%} of the exported convolutions and products are in half precision")
    return ServingGraph(graph)


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


def _write(bundle: Bundle, precision: Precision, graph: ServingGraph) -> None:
    folder = record_folder(bundle, "graph", precision)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / ONNX_NAME, graph.content)
    replace_file(folder / _RECORD_NAME, (_record(bundle, graph).model_dump_json(indent=2, exclude_none=True) + "\n").encode())


def _record(bundle: Bundle, graph: ServingGraph) -> GraphRecord:
    sums = {"model_sha256": bundle.manifest.files[ONNX_NAME], "sha256": sha256(graph.content)}
    return GraphRecord(**sums, calibration=graph.calibration)


def _read(bundle: Bundle, precision: Precision) -> ServingGraph | None:
    """The cached graph, if it was made from this very model and is unchanged."""
    folder = record_folder(bundle, "graph", precision)
    try:
        content = (folder / ONNX_NAME).read_bytes()
        record = GraphRecord.model_validate_json((folder / _RECORD_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    graph = ServingGraph(content, record.calibration)
    valid = record == _record(bundle, graph) and (graph.calibration is not None) == (precision == "int8")
    return graph if valid else None
