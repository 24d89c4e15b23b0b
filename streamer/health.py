"""Whether the service is alive (its loop turns) and ready (it works on its partitions)."""

import threading
import time
from collections.abc import Callable

_STUCK_AFTER_S = 30.0


class Health:
    """Written by the pipeline, read by the HTTP server's threads."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._beat_s = clock_s()
        self._problem: str | None = "has not joined its consumer group yet"

    def beat(self) -> None:
        """The loop turned."""
        with self._lock:
            self._beat_s = self._clock_s()

    def working(self) -> None:
        """All partitions are in work."""
        with self._lock:
            self._problem = None

    def waiting(self, problem: str) -> None:
        """Not all partitions are in work, and why."""
        with self._lock:
            self._problem = problem

    def live(self) -> str | None:
        """None while the loop turns, else what is wrong."""
        with self._lock:
            stuck_s = self._clock_s() - self._beat_s
        return None if stuck_s < _STUCK_AFTER_S else f"the loop has not turned for {stuck_s:.0f} s"

    def ready(self) -> str | None:
        """None while the service works on its partitions, else what it waits for."""
        with self._lock:
            problem = self._problem
        return self.live() or problem
