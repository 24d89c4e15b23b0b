"""Gives memory back to the system that a burst needed, such as a flood of large messages.

glibc keeps freed memory in as many heaps as there are threads, so that one burst would be the size of the process for ever.
"""

import ctypes
import time
from collections.abc import Callable
from typing import Final

TRIM_EVERY_S: Final = 30.0
"""Takes some milliseconds."""


class Heap:
    """The process's free memory. Other C libraries than glibc have no such call; there nothing is done."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._clock_s, self._due_s = clock_s, clock_s() + TRIM_EVERY_S

    def trim_if_due(self) -> None:
        """Give back what is free, every half a minute."""
        if self._trim is not None and self._clock_s() >= self._due_s:
            self._trim(0)
            self._due_s = self._clock_s() + TRIM_EVERY_S
