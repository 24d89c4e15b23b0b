"""The serving graph in each precision: an engine that takes types from the graph is given one made for it.

``f32`` is the bundle's own ``model.onnx``. ``f16`` is exported from the bundle's weights when it is first asked for, which needs
the network's own package and PyTorch, and then kept: ``engines/graph-f16/model.onnx``.
"""

import hashlib
import json
from pathlib import Path

from deploy.bundle import ONNX_NAME, Bundle, replace_file
from deploy.engine import Precision
from deploy.engines.torch import load_network
from deploy.errors import ConfigError, EngineFailed

_RECORD_NAME = "graph.json"


def graph_of(bundle: Bundle, precision: Precision) -> bytes:
    """The graph for ``f32`` or ``f16``.

    Raises:
        ConfigError: there is no graph of that precision.
        EngineUnavailable: it must be made, and PyTorch is not installed.
        BundleIncompatible: it must be made, and the network is not installed.
        EngineFailed: it was made, and is not in that precision.
    """
    if precision == "f32":
        return bundle.file(ONNX_NAME).read_bytes()
    if precision != "f16":
        raise ConfigError(f"graphs are made in f32 and f16, got {precision!r}")
    folder = bundle.path / "engines" / f"graph-{precision}"
    kept = _kept(folder, bundle)
    if kept is not None:
        return kept
    graph = _in_half(bundle)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / ONNX_NAME, graph)
    replace_file(folder / _RECORD_NAME, (json.dumps(_record(bundle, graph), indent=2) + "\n").encode())
    return graph


def sha256(content: bytes) -> str:
    """As in ``bundle.json``."""
    return hashlib.sha256(content).hexdigest()


def _in_half(bundle: Bundle) -> bytes:
    from deploy.export import export_onnx
    from deploy.half import half_share

    graph = export_onnx(load_network(bundle), bundle.spec, half=True)
    share = half_share(graph)
    if share < 1:
        raise EngineFailed(f"{bundle.path}: only {share:.0%} of the exported convolutions and products are in half precision")
    return graph


def _record(bundle: Bundle, graph: bytes) -> dict[str, str]:
    return {"model_sha256": bundle.manifest.files[ONNX_NAME], "sha256": sha256(graph)}


def _kept(folder: Path, bundle: Bundle) -> bytes | None:
    """A graph that was made from this very model and is as it was written; anything else is made anew."""
    try:
        graph = (folder / ONNX_NAME).read_bytes()
        record = json.loads((folder / _RECORD_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return graph if record == _record(bundle, graph) else None
