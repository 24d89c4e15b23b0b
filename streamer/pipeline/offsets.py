"""Which frames of a partition are done. Pure.

Frames finish out of order: a rejected message at once, a scored one when its micro-batch comes back. Effects may only be
written for an unbroken run from the first open frame on, so that one number, the next offset, says all about progress.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Ledger(Generic[T]):
    """Open and done offsets of one partition, in offset order."""

    def __init__(self, next_offset: int) -> None:
        self.next_offset = next_offset
        """First offset whose effects were not taken yet."""
        self._entries: OrderedDict[int, list[T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def open(self, offset: int) -> None:
        """A message came. Offsets grow, not always by one: compacted topics have holes.

        Raises:
            ValueError: the offset does not follow the newest one.
        """
        newest = next(reversed(self._entries), self.next_offset - 1)
        if offset <= newest:
            raise ValueError(f"offset {offset} does not follow {newest}")
        self._entries[offset] = []

    def close(self, offset: int, outcome: T) -> None:
        """The message at ``offset`` is done.

        Raises:
            KeyError: the offset is not open.
        """
        entry = self._entries[offset]
        if entry:
            raise KeyError(offset)
        entry.append(outcome)

    def take_done(self) -> Iterator[T]:
        """Outcomes of the unbroken run of done messages, in offset order; ``next_offset`` moves past each as it is taken."""
        while self._entries:
            offset, entry = next(iter(self._entries.items()))
            if not entry:
                return
            del self._entries[offset]
            self.next_offset = offset + 1
            yield entry[0]
