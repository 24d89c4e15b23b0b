"""Clips to micro-batches: flushed when full, or when the oldest clip has waited long enough. Pure; the caller has the clock."""

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
    """First in, first out, over all cameras; of the clips with one key, at most one a micro-batch."""

    def __init__(self, max_clips: int, max_wait_s: float) -> None:
        self._max_clips = max_clips
        self._max_wait_s = max_wait_s
        self._waiting: list[_Waiting[T]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, clip: T, now_s: float, key: Hashable | None = None) -> None:
        """Queue a clip that became ready at ``now_s`` (monotonic).

        ``key``: what the clip must not share a micro-batch with another clip of; None for a clip that may sit beside any.
        """
        self._waiting.append(_Waiting(clip, now_s, key))

    def deadline_s(self) -> float | None:
        """When the oldest clip must be flushed; None when nothing waits."""
        return self._waiting[0].since_s + self._max_wait_s if self._waiting else None

    def take(self, now_s: float) -> list[T]:
        """The next micro-batch, at most ``max_clips`` clips; empty when none is due yet."""
        deadline_s = self.deadline_s()
        batch, left = self._split()
        if deadline_s is None or (len(batch) < self._max_clips and now_s < deadline_s):
            return []
        self._waiting = left
        return batch

    def take_all(self) -> list[T]:
        """What waits, due or not, at most ``max_clips`` clips."""
        batch, self._waiting = self._split()
        return batch

    def _split(self) -> tuple[list[T], list[_Waiting[T]]]:
        """The oldest clips that may share a micro-batch, and the rest. The oldest of all is always among them."""
        batch: list[T] = []
        left: list[_Waiting[T]] = []
        keys: set[Hashable] = set()
        for waiting in self._waiting:
            if len(batch) == self._max_clips or waiting.key in keys:
                left.append(waiting)
                continue
            batch.append(waiting.clip)
            if waiting.key is not None:
                keys.add(waiting.key)
        return batch, left
