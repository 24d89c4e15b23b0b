"""Clips to micro-batches: flushed when full, or when the oldest clip has waited long enough. Pure; the caller has the clock."""

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class MicroBatcher(Generic[T]):
    """First in, first out, over all cameras."""

    def __init__(self, max_clips: int, max_wait_s: float) -> None:
        self._max_clips = max_clips
        self._max_wait_s = max_wait_s
        self._waiting: deque[tuple[float, T]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, clip: T, now_s: float) -> None:
        """Queue a clip that became ready at ``now_s`` (monotonic)."""
        self._waiting.append((now_s, clip))

    def deadline_s(self) -> float | None:
        """When the oldest clip must be flushed; None when nothing waits."""
        return self._waiting[0][0] + self._max_wait_s if self._waiting else None

    def take(self, now_s: float) -> list[T]:
        """The next micro-batch, at most ``max_clips`` clips; empty when none is due yet."""
        deadline_s = self.deadline_s()
        if deadline_s is None or (len(self._waiting) < self._max_clips and now_s < deadline_s):
            return []
        return self.take_all()

    def take_all(self) -> list[T]:
        """What waits, due or not, at most ``max_clips`` clips."""
        count = min(self._max_clips, len(self._waiting))
        return [self._waiting.popleft()[1] for _ in range(count)]
