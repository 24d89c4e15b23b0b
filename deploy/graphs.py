"""The serving graph in each precision: an engine that takes types from the graph is given one made for it.

``f32`` is the bundle's own ``model.onnx``. The others are made when they are first asked for, and then kept, as in
``engines/graph-f16/model.onnx``: ``f16`` from the bundle's weights, which needs the network's own package and PyTorch, ``int8``
from ``model.onnx`` and the golden sequences.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from deploy.bundle import ONNX_NAME, SEQUENCES_NAME, Bundle, replace_file, sha256
from deploy.engine import Precision
from deploy.engines.torch import load_network
from deploy.errors import ConfigError, EngineFailed, EngineUnavailable
from deploy.variants import variant_folder

_RECORD_NAME = "graph.json"


def graph_of(bundle: Bundle, precision: Precision) -> bytes:
    """The graph for ``f32``, ``f16`` or ``int8``.

    Raises:
        ConfigError: there is no graph of that precision.
        EngineUnavailable: it must be made, and what it is made with is not installed.
        BundleIncompatible: it must be made, and the network is not installed, or there are no golden sequences to calibrate by.
        EngineFailed: it was made, and is not in that precision.
        EngineRefused: no convolution can be computed in ``int8``.
    """
    if precision == "f32":
        return bundle.file(ONNX_NAME).read_bytes()
    if precision not in _MADE:
        raise ConfigError(f"graphs are made in f32, {' and '.join(_MADE)}, got {precision!r}")
    folder = variant_folder(bundle, "graph", precision)
    kept = _kept(folder, bundle, precision)
    if kept is not None:
        return kept
    graph = _MADE[precision](bundle)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / ONNX_NAME, graph)
    replace_file(folder / _RECORD_NAME, (json.dumps(_record(bundle, precision, graph), indent=2) + "\n").encode())
    return graph


def _in_half(bundle: Bundle) -> bytes:
    from deploy.export import export_onnx
    from deploy.half import half_share

    graph = export_onnx(load_network(bundle), bundle.spec, half=True)
    share = half_share(graph)
    if share < 1:
        raise EngineFailed(f"{bundle.path}: only {share:.0%} of the exported convolutions and products are in half precision")
    return graph


def _in_int8(bundle: Bundle) -> bytes:
    try:
        from deploy.quantise import quantised_graph

        return quantised_graph(bundle)
    except ImportError as error:
        raise EngineUnavailable(f"no graph can be made in int8: {error}; install it: pip install 'oddsight[train]'") from error


_MADE: Final[Mapping[Precision, Callable[[Bundle], bytes]]] = {"f16": _in_half, "int8": _in_int8}


def _record(bundle: Bundle, precision: Precision, graph: bytes) -> dict[str, str | None]:
    record = {"model_sha256": bundle.manifest.files[ONNX_NAME], "sha256": sha256(graph)}
    return {**record, "sequences_sha256": bundle.manifest.files.get(SEQUENCES_NAME)} if precision == "int8" else {**record}


def _kept(folder: Path, bundle: Bundle, precision: Precision) -> bytes | None:
    """A graph that was made from this very model and is as it was written; anything else is made anew."""
    try:
        graph = (folder / ONNX_NAME).read_bytes()
        record = json.loads((folder / _RECORD_NAME).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return graph if record == _record(bundle, precision, graph) else None
