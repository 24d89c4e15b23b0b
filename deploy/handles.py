"""Handles of frames and states in GPU memory: reference-counted rows of preallocated tables."""

from collections import deque
from collections.abc import Callable
from typing import Generic, NoReturn, TypeVar

from deploy.errors import EngineFailed

RESERVED_ROWS = 2
SCRATCH_ROW = 0
"""Row that the unused clips of a bucket read and write. It is 0 because launches before a CUDA graph capture have zeros as inputs
and must not write to any other row."""
ZERO_ROW = 1
"""Row that always holds zeros: the state of a camera without history."""


class Handle:
    """A row of a table on the device. Its content never changes; it is freed with the last reference to the handle."""

    __slots__ = ("_free", "index", "pool")

    def __init__(self, index: int, pool: object, free: Callable[[int], None]) -> None:
        self.index = index
        self.pool = pool
        self._free = free

    def __del__(self) -> None:
        self._free(self.index)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a handle of device memory cannot be copied: each copy would free the row")


class FrameHandle(Handle):
    """A frame in device memory."""

    __slots__ = ()


class StateHandle(Handle):
    """A recurrent model's state of one camera in device memory."""

    __slots__ = ()


H = TypeVar("H", bound=Handle)


class HandlePool(Generic[H]):
    """Hands out free rows of a table. Thread-safe: a handle may be freed in any thread."""

    def __init__(self, kind: type[H], content: str, capacity: int, cameras: int) -> None:
        self.capacity = capacity
        self._kind = kind
        self._exhausted = (
            f"all {capacity} rows for {content} on the device, allocated for {cameras} cameras, are in use; "
            "drop handles that are no longer needed, or load the engine with more gpu_cached_cameras"
        )
        # append and pop of a deque are atomic. A lock would deadlock if a handle died in the thread that holds it.
        self._free_rows = deque(range(RESERVED_ROWS, RESERVED_ROWS + capacity))

    @property
    def n_free(self) -> int:
        """Number of free rows."""
        return len(self._free_rows)

    def take(self, n_rows: int) -> list[H]:
        """Handles of ``n_rows`` free rows. Raises EngineFailed, and takes none, if fewer are free."""
        return [self._take_one() for _ in range(n_rows)]

    def owns(self, handle: object) -> bool:
        """Whether ``handle`` was handed out by this pool."""
        return isinstance(handle, self._kind) and handle.pool is self

    def _take_one(self) -> H:
        try:
            row = self._free_rows.pop()
        except IndexError as error:
            raise EngineFailed(self._exhausted) from error
        return self._kind(row, self, self._free_rows.append)
