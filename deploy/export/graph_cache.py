"""The serving graph in each precision: an engine that takes types from the graph is given one made for it.

``f32`` is the bundle's own ``model.onnx``. The others are made when they are first asked for, and then kept, as in
``engines/graph-f16/model.onnx``: ``f16`` from the bundle's weights, which needs the network's own package and PyTorch, ``int8``
from ``model.onnx`` and footage, which is not in the bundle: by the golden sequences it is judged.
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
    """``graph.json``: what a graph that is kept was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_sha256: str
    sha256: str
    footage: CalibrationInfo | None = None
    """For ``int8`` only."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A serving graph."""

    content: bytes
    footage: CalibrationInfo | None = None
    """What it was made from besides the model; None: nothing."""


def graph_of(
    bundle: Bundle,
    precision: Precision,
    footage: CalibrationFrames | None = None,
    tell: Callable[[int, int], None] = lambda _done, _total: None,
) -> Graph:
    """The graph for ``f32``, ``f16`` or ``int8``. ``footage``: what one in ``int8`` is made from; a kept one does without.

    ``tell`` is told of the trials that ``int8`` takes.

    Raises:
        ConfigError: there is no graph of that precision.
        EngineUnavailable: it must be made, and what it is made with is not installed.
        BundleIncompatible: it must be made, and the network is not installed.
        EngineFailed: it was made, and is not in that precision.
        EngineRefused: no convolution can be computed in ``int8``, or it must be made and there is no footage.
    """
    if precision == "f32":
        return Graph(bundle.file(ONNX_NAME).read_bytes())
    if precision not in ("f16", "int8"):
        raise ConfigError(f"graphs are made in f32, f16 and int8, got {precision!r}")
    kept = _kept(bundle, precision)
    if kept is not None and (footage is None or kept.footage == footage.info):
        return kept
    made = _in_half(bundle) if precision == "f16" else _in_int8(bundle, footage, tell)
    _keep(bundle, precision, made)
    return made


def _in_half(bundle: Bundle) -> Graph:
    from deploy.export.onnx import export_onnx
    from deploy.network import half_share, load_network

    graph = export_onnx(load_network(bundle), bundle.spec, half=True)
    share = half_share(graph)
    if share < 1:
        raise EngineFailed(f"{bundle.path}: only {share:.0%} of the exported convolutions and products are in half precision")
    return Graph(graph)


def _in_int8(bundle: Bundle, footage: CalibrationFrames | None, tell: Callable[[int, int], None]) -> Graph:
    if footage is None:
        raise EngineRefused(
            f"{bundle.path}: no graph in int8 was made of this model yet, and the bundle's own footage cannot make one, since it "
            "judges it; give oddsight-deploy build some of your cameras' pictures: --calibration-data FOLDER"
        )
    try:
        from deploy.export.int8 import quantize_graph

        return Graph(quantize_graph(bundle, footage, tell), footage.info)
    except ImportError as error:
        raise EngineUnavailable(f"no graph can be made in int8: {error}; install it: pip install 'oddsight[train]'") from error


def _keep(bundle: Bundle, precision: Precision, graph: Graph) -> None:
    folder = record_folder(bundle, "graph", precision)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / ONNX_NAME, graph.content)
    replace_file(folder / _RECORD_NAME, (_record(bundle, graph).model_dump_json(indent=2, exclude_none=True) + "\n").encode())


def _record(bundle: Bundle, graph: Graph) -> GraphRecord:
    return GraphRecord(model_sha256=bundle.manifest.files[ONNX_NAME], sha256=sha256(graph.content), footage=graph.footage)


def _kept(bundle: Bundle, precision: Precision) -> Graph | None:
    """A graph that was made from this very model and is as it was written; anything else is made anew."""
    folder = record_folder(bundle, "graph", precision)
    try:
        content = (folder / ONNX_NAME).read_bytes()
        record = GraphRecord.model_validate_json((folder / _RECORD_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    graph = Graph(content, record.footage)
    return graph if record == _record(bundle, graph) and (graph.footage is not None) == (precision == "int8") else None
