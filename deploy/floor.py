"""What the hardware allows, measured: how fast it multiplies and how fast it moves memory. A graph cannot be faster than both."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

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
