"""Micro-batches: clips are flushed when a batch is full or its oldest clip has waited long enough. The caller owns the clock."""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[T]):
    clip: T
    since_s: float
    key: Hashable | None
    may_share: bool


class MicroBatcher(Generic[T]):
    """A queue over all cameras, in turns: the oldest clip of each key, then the second of each, and so on.

    So a key that has many clips waiting delays no other by more than one of them.
    """

    def __init__(self, max_clips: int, max_wait_s: float) -> None:
        self._max_clips = max_clips
        self._max_wait_s = max_wait_s
        self._waiting: list[_Waiting[T]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, clip: T, now_s: float, key: Hashable | None = None, *, may_share: bool = False) -> None:
        """Queue a clip that became ready at ``now_s`` (monotonic).

        ``may_share``: whether a micro-batch may hold it behind another of its key. Clips with the key None are of no camera.
        """
        self._waiting.append(_Waiting(clip, now_s, key, may_share))

    def deadline_s(self) -> float | None:
        """When the oldest clip must be flushed; None if the queue is empty."""
        return self._waiting[0].since_s + self._max_wait_s if self._waiting else None

    def take(self, now_s: float) -> list[T]:
        """The next micro-batch, at most ``max_clips`` clips; empty if none is due yet."""
        deadline_s = self.deadline_s()
        batch, rest = self._split()
        if deadline_s is None or (len(batch) < self._max_clips and now_s < deadline_s):
            return []
        self._waiting = rest
        return batch

    def take_all(self) -> list[T]:
        batch, self._waiting = self._split()
        return batch

    def _split(self) -> tuple[list[T], list[_Waiting[T]]]:
        """The next micro-batch, and what remains; the oldest clip of all is always in the first."""
        before: Counter[Hashable] = Counter()
        turns: list[tuple[int, int]] = []
        for place, waiting in enumerate(self._waiting):
            turn = 0 if waiting.key is None else before[waiting.key]
            before[waiting.key] += 1
            if turn == 0 or waiting.may_share:
                turns.append((turn, place))
        chosen = [place for _, place in sorted(turns)[: self._max_clips]]
        taken = set(chosen)
        rest = [waiting for place, waiting in enumerate(self._waiting) if place not in taken]
        return [self._waiting[place].clip for place in chosen], rest
