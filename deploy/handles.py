"""Handles of what engines keep on their device: a row is taken, held for as long as somebody refers to it, and free again."""

from collections import deque
from collections.abc import Callable
from typing import Generic, NoReturn, TypeVar

from deploy.errors import EngineFailed

RESERVED = 2
SCRATCH = 0
"""The row that the unused places of a bucket write to and read from. It is 0 so that the launches before a capture, whose inputs
are zeros, write to no other."""
NOTHING = 1
"""The row that is zeros for ever: as a state, "nothing seen yet"."""


class Row:
    """A place on the device whose content never changes while the handle lives. The last reference that goes frees it."""

    __slots__ = ("_give_back", "index", "table")

    def __init__(self, index: int, table: object, give_back: Callable[[int], None]) -> None:
        self.index = index
        self.table = table
        self._give_back = give_back

    def __del__(self) -> None:
        self._give_back(self.index)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a row of a device is referred to, never copied: each copy would free it")


class FrameRow(Row):
    """A frame on the device."""

    __slots__ = ()


class StateRow(Row):
    """A state on the device: what a camera's next frame is scored with."""

    __slots__ = ()


R = TypeVar("R", bound=Row)


class Rows(Generic[R]):
    """Which rows of a table are free. Safe to use from several threads: a handle may die in any of them."""

    def __init__(self, kind: type[R], what: str, capacity: int, cameras: int) -> None:
        self.capacity = capacity
        self._kind = kind
        self._full = (
            f"all {capacity} rows for {what} on the device, made for {cameras} cameras, are held; "
            "let go of handles that no next call needs, or load the engine for more cameras"
        )
        # Appending to it and popping from it are atomic; a lock could be held by the very thread in which a handle dies.
        self._free = deque(range(RESERVED, RESERVED + capacity))

    @property
    def n_free(self) -> int:
        """Rows that nobody holds."""
        return len(self._free)

    def take(self, n_rows: int) -> list[R]:
        """Handles of ``n_rows`` free rows.

        Raises:
            EngineFailed: there are not as many; none is taken.
        """
        return [self._take() for _ in range(n_rows)]

    def owns(self, row: object) -> bool:
        """Whether ``row`` is a handle of this table."""
        return isinstance(row, self._kind) and row.table is self

    def _take(self) -> R:
        try:
            index = self._free.pop()
        except IndexError as error:
            raise EngineFailed(self._full) from error
        return self._kind(index, self, self._free.append)
