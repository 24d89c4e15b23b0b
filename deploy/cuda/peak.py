"""What the GPU allows, measured: see :mod:`deploy.floor`."""

import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet

from deploy.cuda.gpu import import_torch
from deploy.floor import Floor

_SIDE = 8192
_COPY_BYTES = 1 << 30
_REPEATS = 5
_TYPES = {"f32": "float32", "f16": "float16"}
"""PyTorch has no product of other types that a GPU could be judged by."""


def measure_gpu_floor(precisions: AbstractSet[str]) -> Floor:
    """Measure the first GPU; takes seconds and 2.5 GiB of its memory. Only where :func:`deploy.cuda.gpu.find_gpu` found one."""
    torch = import_torch("benchmark's")

    def fastest_s(work: Callable[[], object]) -> float:
        work()
        times_s = []
        for _ in range(_REPEATS):
            torch.cuda.synchronize()
            begin_s = time.perf_counter()
            work()
            torch.cuda.synchronize()
            times_s.append(time.perf_counter() - begin_s)
        return min(times_s)

    def flop_per_s(precision: str) -> float:
        left = torch.randn((_SIDE, _SIDE), device="cuda", dtype=getattr(torch, _TYPES[precision]))
        return 2 * _SIDE**3 / fastest_s(lambda: left @ left)

    source = torch.zeros(_COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copied_s = fastest_s(lambda: target.copy_(source))
    return Floor(
        {precision: flop_per_s(precision) for precision in sorted(precisions & _TYPES.keys())}, 2 * _COPY_BYTES / copied_s
    )
