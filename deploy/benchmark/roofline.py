"""How much there is to compute in a serving graph. Needs the onnx package (``oddsight[train]``).

What was measured of one thing that is called again and again.

What the hardware allows, measured: how fast it multiplies and how fast it moves memory. A graph cannot be faster than both.

What the GPU allows, measured: see :mod:`deploy.benchmark.roofline`.
"""

import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from deploy.bundle import ONNX_NAME, Bundle
from deploy.gpu.driver import import_torch


@dataclass(slots=True)
class Calls:
    """The calls of all rounds so far."""

    calls_s: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    """Of all calls, on all threads of the process."""

    def add(self, calls_s: list[float], cpu_s: float) -> None:
        """Another round."""
        self.calls_s += calls_s
        self.cpu_s += cpu_s

    @property
    def median_s(self) -> float:
        """Of one call."""
        return float(np.median(self.calls_s))

    @property
    def cpu_s_per_call(self) -> float:
        """The mean."""
        return self.cpu_s / len(self.calls_s)

    @property
    def latency_ms(self) -> dict[str, float]:
        """p50, p95, p99 of a call."""
        return {f"p{rank}": float(np.percentile(self.calls_s, rank)) * 1000 for rank in (50, 95, 99)}


_SIDE = 1536
_COPY_BYTES = 128 * 1024 * 1024
_REPEATS = 5


@dataclass(frozen=True, slots=True)
class Floor:
    """Peaks of this machine, all cores together."""

    flop_per_s: dict[str, float]
    """Precision -> multiplications and additions of a large matrix product."""
    bytes_per_s: float
    """Read and written, of a copy larger than the caches."""

    def s_per_clip(self, precision: str, flop: float, moved_bytes: float) -> float | None:
        """The least time for so many operations and so many bytes; None for a precision whose peak was not measured."""
        peak = self.flop_per_s.get(precision)
        return None if peak is None else max(flop / peak, moved_bytes / self.bytes_per_s)


def measure_floor(precisions: set[str]) -> Floor:
    """Measure; takes a second or two. A precision other than f32 needs OpenVINO, which computes in it."""
    rates = {precision: _matmul_rate(precision) for precision in sorted(precisions)}
    return Floor(rates, _copy_rate())


def _matmul_rate(precision: str) -> float:
    left = np.random.default_rng(0).normal(size=(_SIDE, _SIDE)).astype(np.float32)
    if precision == "f32":
        return 2 * _SIDE**3 / _fastest_s(lambda: left @ left)
    from deploy.engines.openvino import matmul

    return 2 * _SIDE**3 / _fastest_s(matmul(left, precision))


def _copy_rate() -> float:
    source, target = np.ones(_COPY_BYTES, np.uint8), np.empty(_COPY_BYTES, np.uint8)
    return 2 * _COPY_BYTES / _fastest_s(lambda: np.copyto(target, source))


def _fastest_s(work: Callable[[], object]) -> float:
    """A peak is what was reached once."""
    work()
    times_s = []
    for _ in range(_REPEATS):
        begin_s = time.perf_counter()
        work()
        times_s.append(time.perf_counter() - begin_s)
    return min(times_s)


_SIDE_peak = 8192
_COPY_BYTES_peak = 1 << 30
_REPEATS_peak = 5
_TYPES = {"f32": "float32", "f16": "float16"}
"""PyTorch has no product of other types that a GPU could be judged by."""


def measure_gpu_floor(precisions: AbstractSet[str]) -> Floor:
    """Measure the first GPU; takes seconds and 2.5 GiB of its memory. Only where :func:`deploy.gpu.driver.find_gpu` found one."""
    torch = import_torch("benchmark's")

    def fastest_s(work: Callable[[], object]) -> float:
        work()
        times_s = []
        for _ in range(_REPEATS_peak):
            torch.cuda.synchronize()
            begin_s = time.perf_counter()
            work()
            torch.cuda.synchronize()
            times_s.append(time.perf_counter() - begin_s)
        return min(times_s)

    def flop_per_s(precision: str) -> float:
        left = torch.randn((_SIDE_peak, _SIDE_peak), device="cuda", dtype=getattr(torch, _TYPES[precision]))
        return 2 * _SIDE_peak**3 / fastest_s(lambda: left @ left)

    source = torch.zeros(_COPY_BYTES_peak, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copied_s = fastest_s(lambda: target.copy_(source))
    return Floor(
        {precision: flop_per_s(precision) for precision in sorted(precisions & _TYPES.keys())}, 2 * _COPY_BYTES_peak / copied_s
    )


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
