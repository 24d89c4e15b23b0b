"""Micro-batches: clips are flushed when a batch is full or its oldest clip has waited long enough. The caller owns the clock."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[T]):
    clip: T
    since_s: float
    key: Hashable | None


class MicroBatcher(Generic[T]):
    """A first-in, first-out queue over all cameras. A micro-batch holds at most one clip of each key."""

    def __init__(self, max_clips: int, max_wait_s: float) -> None:
        self._max_clips = max_clips
        self._max_wait_s = max_wait_s
        self._waiting: list[_Waiting[T]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, clip: T, now_s: float, key: Hashable | None = None) -> None:
        """Queue a clip that became ready at ``now_s`` (monotonic). Clips with the key None may share a micro-batch."""
        self._waiting.append(_Waiting(clip, now_s, key))

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
        """The oldest clips that may share a micro-batch, and the rest; the oldest of all is always in the first."""
        batch: list[T] = []
        rest: list[_Waiting[T]] = []
        keys: set[Hashable] = set()
        for waiting in self._waiting:
            if len(batch) == self._max_clips or waiting.key in keys:
                rest.append(waiting)
                continue
            batch.append(waiting.clip)
            if waiting.key is not None:
                keys.add(waiting.key)
        return batch, rest
