"""The CUDA driver on the CPU: runs what GPU engines share without a GPU, at once, and records all operations."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from deploy.gpu.driver import CudaDriver, Launch


class HostStream:
    def __init__(self, number: int) -> None:
        self.number = number


class HostEvent:
    def __init__(self, driver: "HostDriver", number: int) -> None:
        self._driver, self.number = driver, number

    def record(self, stream: HostStream) -> None:
        self._driver.operations.append(("record", self.number, stream.number))

    def wait(self, stream: HostStream) -> None:
        self._driver.operations.append(("wait", self.number, stream.number))

    def synchronize(self) -> None:
        self._driver.operations.append(("synchronize", self.number))


class HostDriver(CudaDriver):
    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.operations: list[tuple[Any, ...]] = []
        self._made = 0

    def new_stream(self) -> HostStream:
        return HostStream(self._number())

    def stream_handle(self) -> int:
        return 7

    def new_event(self) -> HostEvent:
        return HostEvent(self, self._number())

    @contextmanager
    def use_stream(self, stream: HostStream) -> Iterator[None]:
        self.operations.append(("on", stream.number))
        yield

    def zeros(self, shape: Sequence[int], dtype: str) -> torch.Tensor:
        return torch.zeros(tuple(shape), dtype=getattr(torch, dtype))

    def gather(self, table: torch.Tensor, rows: torch.Tensor, out: torch.Tensor) -> None:
        torch.index_select(table, 0, rows, out=out)

    def stack(self, tensors: Sequence[torch.Tensor], out: torch.Tensor) -> None:
        torch.stack(list(tensors), out=out)

    def as_tensor(self, array: Any) -> torch.Tensor:
        return torch.from_numpy(np.asarray(array))

    def pinned_like(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(tensor)

    def capture(self, launch: Launch, stream: HostStream) -> Launch:
        def launched() -> None:
            self.operations.append(("launch", stream.number))
            launch()

        # As with a real capture, which runs launches on inputs of zeros first.
        launch()
        return launched

    def _number(self) -> int:
        self._made += 1
        return self._made
