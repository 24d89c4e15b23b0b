"""Access to CUDA through PyTorch: GPU discovery, streams, events, pinned memory and graphs.

GPU discovery must come before any use of TensorRT's runtime, which ends the process if there is no driver.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from deploy.errors import EngineUnavailable, first_line, required_library

log = structlog.get_logger("oddsight.cuda")

_WARM_UP_LAUNCHES = 3  # launches before a graph capture, in which libraries select kernels and allocate memory

Dtype = Literal["uint8", "int64", "float32"]
Launch = Callable[[], None]  # enqueues work on the current stream and returns at once


@dataclass(frozen=True, slots=True)
class Gpu:
    """The GPU that engines run on: the first that CUDA reports; ``CUDA_VISIBLE_DEVICES`` selects another."""

    name: str
    compute_capability: str  # such as 9.0


def find_gpu(engine: str) -> Gpu:
    """The GPU for ``engine``. Raises EngineUnavailable, saying which, if PyTorch with CUDA, the driver or a GPU is missing."""
    torch = import_torch(engine)
    if (missing := missing_cuda(torch)) is not None:
        raise EngineUnavailable(f"the {engine} engine needs {missing}")
    major, minor = torch.cuda.get_device_capability(0)
    return Gpu(torch.cuda.get_device_name(0), f"{major}.{minor}")


def missing_cuda(torch: Any) -> str | None:
    """What PyTorch lacks to use a GPU; None if nothing."""
    if torch.version.cuda is None:
        return f"PyTorch with CUDA; the installed {torch.__version__} has none"
    if not torch.cuda.is_available():
        return "an NVIDIA GPU with its driver; CUDA finds none here"
    return None


def import_torch(engine: str) -> Any:
    """PyTorch, imported for ``engine``. Raises EngineUnavailable if it is not installed."""
    with required_library(engine, "train"):
        import torch
    return torch


class CudaDriver:
    """The operations on the first GPU that engines use. Create it only after :func:`find_gpu` has found one."""

    def __init__(self, engine: str) -> None:
        self._torch = import_torch(engine)
        self.device = self._torch.device("cuda", 0)

    def new_stream(self) -> Any:
        return self._torch.cuda.Stream(self.device)

    def use_stream(self, stream: Any) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self._torch.cuda.stream(stream)
        return context

    def stream_handle(self) -> int:
        """Native handle of the current stream, for libraries other than PyTorch."""
        return int(self._torch.cuda.current_stream(self.device).cuda_stream)

    def new_event(self) -> Any:
        return self._torch.cuda.Event()

    def zeros(self, shape: Sequence[int], dtype: Dtype) -> Any:
        return self._torch.zeros(tuple(shape), dtype=getattr(self._torch, dtype), device=self.device)

    def gather(self, table: Any, rows: Any, out: Any) -> None:
        """Enqueue a copy of the rows int64 (N,) of ``table`` to ``out``."""
        self._torch.index_select(table, 0, rows, out=out)

    def stack(self, tensors: Sequence[Any], out: Any) -> None:
        """Enqueue a copy of at least one tensor to the rows of ``out``."""
        self._torch.stack(tensors, out=out)

    def as_tensor(self, array: Any) -> Any:
        """A tensor that shares the device memory of another library's array, which must be computed on the current stream."""
        return self._torch.as_tensor(array, device=self.device)

    def pinned_like(self, tensor: Any) -> Any:
        return self._torch.zeros(tuple(tensor.shape), dtype=tensor.dtype, pin_memory=True)

    def capture(self, launch: Launch, stream: Any) -> Launch:
        """``launch`` as a CUDA graph; ``launch`` itself, and a log line, if it cannot be captured."""
        with self.use_stream(stream):
            for _ in range(_WARM_UP_LAUNCHES):
                launch()
        stream.synchronize()
        graph = self._torch.cuda.CUDAGraph()
        try:
            with self._torch.cuda.graph(graph, stream=stream):
                launch()
        except RuntimeError as error:
            log.warning("no CUDA graph, launching kernel by kernel", reason=first_line(error))
            self._torch.cuda.synchronize()
            return launch
        replay: Launch = graph.replay
        return replay
