"""Roofline of this machine: measured peaks of arithmetic and memory bandwidth, and the operations that one clip needs.

A graph cannot run faster than its operations at peak arithmetic, nor than its memory traffic at peak bandwidth (Williams et al.,
"Roofline: an insightful visual performance model", 2009).
"""

import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from deploy.bundle import ONNX_NAME, Bundle
from deploy.gpu.driver import import_torch

_REPEATS = 5
_CPU_SIDE = 1536
_CPU_COPY_BYTES = 1 << 27
_GPU_SIDE = 8192
_GPU_COPY_BYTES = 1 << 30
_TORCH_TYPES = {"f32": "float32", "f16": "float16"}  # PyTorch's matrix products of other types do not reach the GPU's peak
_PRODUCTS = {"Conv", "ConvTranspose", "MatMul", "Gemm"}


@dataclass(frozen=True, slots=True)
class Roofline:
    """Measured peaks of a processor, all cores together, or of a GPU."""

    flop_per_s: dict[str, float]  # precision -> multiplications and additions a second of a large matrix product
    bytes_per_s: float  # read and written by a copy larger than the caches

    def s_per_clip(self, precision: str, flop: float, moved_bytes: float) -> float | None:
        """The least time for so many operations and bytes; None for a precision whose peak was not measured."""
        peak = self.flop_per_s.get(precision)
        return None if peak is None else max(flop / peak, moved_bytes / self.bytes_per_s)


def measure_cpu(precisions: AbstractSet[str]) -> Roofline:
    """Measure the processor in a second or two; precisions other than f32 need OpenVINO."""
    left = np.random.default_rng(0).normal(size=(_CPU_SIDE, _CPU_SIDE)).astype(np.float32)

    def product(precision: str) -> Callable[[], object]:
        if precision == "f32":
            return lambda: left @ left
        from deploy.engines.openvino import matmul

        return matmul(left, precision)

    source, target = np.ones(_CPU_COPY_BYTES, np.uint8), np.empty(_CPU_COPY_BYTES, np.uint8)
    flop_per_s = {precision: 2 * _CPU_SIDE**3 / _fastest_s(product(precision)) for precision in sorted(precisions)}
    return Roofline(flop_per_s, 2 * _CPU_COPY_BYTES / _fastest_s(lambda: np.copyto(target, source)))


def measure_gpu(precisions: AbstractSet[str]) -> Roofline:
    """Measure the first GPU in some seconds, using 2.5 GiB of its memory; a GPU must be present."""
    torch = import_torch("benchmark's")

    def flop_per_s(precision: str) -> float:
        left = torch.randn((_GPU_SIDE, _GPU_SIDE), device="cuda", dtype=getattr(torch, _TORCH_TYPES[precision]))
        return 2 * _GPU_SIDE**3 / _fastest_s(lambda: left @ left, torch.cuda.synchronize)

    source = torch.zeros(_GPU_COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copied_s = _fastest_s(lambda: target.copy_(source), torch.cuda.synchronize)
    rates = {precision: flop_per_s(precision) for precision in sorted(precisions & _TORCH_TYPES.keys())}
    return Roofline(rates, 2 * _GPU_COPY_BYTES / copied_s)


def gflop_per_clip(bundle: Bundle) -> float | None:
    """Multiplications and additions of all convolutions and matrix products for one clip, in 1e9; None without onnx."""
    try:
        import onnx
    except ImportError:
        return None
    graph = onnx.shape_inference.infer_shapes(onnx.load(bundle.file(ONNX_NAME))).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    # The free size, the number of clips, counts as 1.
    shapes = {value.name: [size.dim_value or 1 for size in value.type.tensor_type.shape.dim] for value in values}
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    return sum(_operations(node, shapes) for node in graph.node if node.op_type in _PRODUCTS) / 1e9


def _fastest_s(work: Callable[[], object], synchronize: Callable[[], object] = lambda: None) -> float:
    """Time of the fastest repeat: a peak need be reached only once."""
    work()
    times_s = []
    for _ in range(_REPEATS):
        synchronize()
        begin_s = time.perf_counter()
        work()
        synchronize()
        times_s.append(time.perf_counter() - begin_s)
    return min(times_s)


def _operations(node: Any, shapes: dict[str, list[int]]) -> int:
    inputs, weights, result = shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]
    if node.op_type == "Conv":
        return 2 * prod(result) * prod(weights[1:])
    if node.op_type == "ConvTranspose":
        return 2 * prod(inputs) * prod(weights[1:])
    return 2 * prod(result) * inputs[-1]
