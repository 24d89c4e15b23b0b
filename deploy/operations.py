"""How much there is to compute in a serving graph. Needs the onnx package (``oddsight[train]``)."""

from math import prod
from typing import Any

from deploy.bundle import ONNX_NAME, Bundle

_PRODUCTS = {"Conv", "ConvTranspose", "MatMul", "Gemm"}


def gflop_per_clip(bundle: Bundle) -> float | None:
    """Multiplications and additions of all convolutions and matrix products for one clip, in 1e9; None without onnx."""
    try:
        import onnx
    except ImportError:
        return None
    graph = onnx.shape_inference.infer_shapes(onnx.load(bundle.file(ONNX_NAME))).graph
    known = [*graph.value_info, *graph.input, *graph.output]
    shapes = {value.name: _shape(value) for value in known} | {part.name: list(part.dims) for part in graph.initializer}
    return sum(_operations(node, shapes) for node in graph.node if node.op_type in _PRODUCTS) / 1e9


def _operations(node: Any, shapes: dict[str, list[int]]) -> int:
    given, weights, result = shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]
    if node.op_type == "Conv":
        return 2 * prod(result) * prod(weights[1:])
    if node.op_type == "ConvTranspose":
        return 2 * prod(given) * prod(weights[1:])
    return 2 * prod(result) * given[-1]


def _shape(value: Any) -> list[int]:
    """Sizes; a free one, the number of clips, is 1."""
    return [size.dim_value or 1 for size in value.type.tensor_type.shape.dim]
