"""The few things that are asked of CUDA, by PyTorch: streams, events, pinned memory, graphs.

Is there a GPU, and which? Asked before anything of TensorRT's run time is touched: without a driver that ends the process.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import structlog

from deploy.errors import EngineUnavailable, missing_library


@dataclass(frozen=True, slots=True)
class Gpu:
    """The GPU that engines run on: the first that CUDA shows (``CUDA_VISIBLE_DEVICES`` chooses)."""

    name: str
    compute_capability: str
    """As in ``9.0``."""


def find_gpu(engine: str) -> Gpu:
    """The GPU for ``engine``.

    Raises:
        EngineUnavailable: there is no PyTorch with CUDA, no driver, or no GPU; says which.
    """
    torch = import_torch(engine)
    lacking = lacking_cuda(torch)
    if lacking is not None:
        raise EngineUnavailable(f"the {engine} engine needs {lacking}")
    major, minor = torch.cuda.get_device_capability(0)
    return Gpu(torch.cuda.get_device_name(0), f"{major}.{minor}")


def lacking_cuda(torch: Any) -> str | None:
    """What PyTorch has to be given before it can use a GPU, and how that was found out; None: nothing."""
    if torch.version.cuda is None:
        return f"PyTorch with CUDA; the installed {torch.__version__} has none"
    if not torch.cuda.is_available():
        return "an NVIDIA GPU with its driver; CUDA finds none here"
    return None


def import_torch(engine: str) -> Any:
    """PyTorch, for ``engine``.

    Raises:
        EngineUnavailable: it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise missing_library(engine, "train", error) from error
    return torch


log = structlog.get_logger("oddsight.cuda")

_WARM_UP_LAUNCHES = 3
"""Before a capture: libraries choose their kernels and take their memory at the first ones."""

Kind = Literal["uint8", "int64", "float32"]
Launch = Callable[[], None]
"""Enqueues work on the current stream and does not wait."""


class Driver(Protocol):
    """A device that works off streams in parallel; events order them."""

    device: Any
    """A ``torch.device``."""

    def stream(self) -> Any:
        """A new stream."""

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """Work enqueued within goes to ``stream``."""

    def handle(self) -> int:
        """The current stream, as libraries other than PyTorch know it."""

    def event(self) -> Any:
        """A new event: ``record(stream)``, ``wait(stream)``, ``synchronize()``."""

    def zeros(self, shape: Sequence[int], kind: Kind) -> Any:
        """A tensor on the device."""

    def gather(self, table: Any, rows: Any, into: Any) -> None:
        """Enqueue: copy ``table``'s rows of those numbers, int64 (N,), to ``into``, of N rows of the same sizes."""

    def stack(self, tensors: Sequence[Any], into: Any) -> None:
        """Enqueue: copy ``tensors``, at least one, to the rows of ``into``, of as many rows of the same sizes."""

    def shared(self, foreign: Any) -> Any:
        """A tensor over an array of another library on the device, with no copy. It keeps the array alive."""

    def pinned_like(self, tensor: Any) -> Any:
        """A host tensor that the device can copy from and to without the processor, as large as ``tensor``."""

    def captured(self, launch: Launch, stream: Any) -> Launch:
        """``launch`` as one graph, replayed at once; or ``launch`` itself where that is refused, which is logged."""


class CudaDriver:
    """:class:`Driver` on the first GPU. Make it only where :func:`deploy.gpu.driver.find_gpu` has found one."""

    def __init__(self, engine: str) -> None:
        self._torch = import_torch(engine)
        self.device = self._torch.device("cuda", 0)

    def stream(self) -> Any:
        """See :meth:`Driver.stream`."""
        return self._torch.cuda.Stream(self.device)

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """See :meth:`Driver.on`."""
        context: AbstractContextManager[Any] = self._torch.cuda.stream(stream)
        return context

    def handle(self) -> int:
        """See :meth:`Driver.handle`."""
        return int(self._torch.cuda.current_stream(self.device).cuda_stream)

    def event(self) -> Any:
        """See :meth:`Driver.event`."""
        return self._torch.cuda.Event()

    def zeros(self, shape: Sequence[int], kind: Kind) -> Any:
        """See :meth:`Driver.zeros`."""
        return self._torch.zeros(tuple(shape), dtype=getattr(self._torch, kind), device=self.device)

    def gather(self, table: Any, rows: Any, into: Any) -> None:
        """See :meth:`Driver.gather`."""
        self._torch.index_select(table, 0, rows, out=into)

    def stack(self, tensors: Sequence[Any], into: Any) -> None:
        """See :meth:`Driver.stack`."""
        self._torch.stack(tensors, out=into)

    def shared(self, foreign: Any) -> Any:
        """See :meth:`Driver.shared`. It waits for no stream of the library's: that must work on the current one."""
        return self._torch.as_tensor(foreign, device=self.device)

    def pinned_like(self, tensor: Any) -> Any:
        """See :meth:`Driver.pinned_like`."""
        return self._torch.zeros(tuple(tensor.shape), dtype=tensor.dtype, pin_memory=True)

    def captured(self, launch: Launch, stream: Any) -> Launch:
        """See :meth:`Driver.captured`."""
        with self.on(stream):
            for _ in range(_WARM_UP_LAUNCHES):
                launch()
        stream.synchronize()
        graph = self._torch.cuda.CUDAGraph()
        try:
            with self._torch.cuda.graph(graph, stream=stream):
                launch()
        except RuntimeError as error:
            log.warning("no CUDA graph, launching kernel by kernel", reason=str(error).splitlines()[0])
            self._torch.cuda.synchronize()
            return launch
        replay: Launch = graph.replay
        return replay
