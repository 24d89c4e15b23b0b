"""Gives memory back to the system that a burst needed, such as a flood of large messages.

Two things would hold it for ever, or for very long:

- By default glibc keeps a heap for each thread, and of what is free at a heap's end it can give back only that of the first one.
  Kafka's thread reads megabytes there, 4 KiB at a time. So all threads share the first heap.
- Python frees what refers to itself in a circle only when its collector looks at old objects, which it puts off for minutes.
  kafka-python leaves such a circle behind at every poll that finds nothing, and some hold the messages that came next. So the
  collector is called from time to time.
"""

import ctypes
import gc
import time
from collections.abc import Callable
from typing import Final

TRIM_EVERY_S: Final = 30.0

_M_ARENA_MAX: Final = -8
"""In glibc's malloc.h."""


class Heap:
    """The process's free memory. To be made before other threads are started: each keeps the heap that it began with.

    Other C libraries than glibc have no such calls; there only Python's collector is called.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        libc = ctypes.CDLL(None)
        self._trim: Callable[[int], int] | None = getattr(libc, "malloc_trim", None)
        self._clock_s, self._due_s = clock_s, clock_s() + TRIM_EVERY_S
        if self._trim is not None:
            libc.mallopt(_M_ARENA_MAX, 1)

    def settle(self) -> None:
        """What there is now stays to the end, like imported modules: the collector does not look at it any more."""
        gc.collect()
        gc.freeze()

    def trim_if_due(self) -> None:
        """Give back what is free or can be freed, every half a minute."""
        if self._clock_s() < self._due_s:
            return
        gc.collect()
        if self._trim is not None:
            self._trim(0)
        self._due_s = self._clock_s() + TRIM_EVERY_S
