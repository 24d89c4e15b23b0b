"""What a burst needed goes back to the system."""

import threading
from pathlib import Path

from streamer.heap import TRIM_EVERY_S, Heap
from tests.harness.fakes import FakeClock


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def burst(kept: list[bytes]) -> None:
    """Needs 100 MB in pieces that the heap holds, and keeps the last one, above all others."""
    pieces = [b"x" * 100_000 for _ in range(1_000)]
    kept.append(pieces[-1])


def test_freed_memory_is_given_back_when_it_is_time() -> None:
    clock, kept = FakeClock(), list[bytes]()
    heap = Heap(clock)
    thread = threading.Thread(target=burst, args=(kept,))
    thread.start()
    thread.join()
    before_mb = resident_mb()

    heap.trim_if_due()
    assert before_mb - resident_mb() < 10

    clock.now_s += TRIM_EVERY_S
    heap.trim_if_due()
    assert before_mb - resident_mb() > 50
