"""What a burst needed goes back to the system."""

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.heap import TRIM_EVERY_S, Heap
from tests.harness.fakes import FakeClock

COUNT_HEAPS = """
import ctypes, sys, threading
from streamer.heap import Heap

if sys.argv[1] == "with":
    Heap()
for _ in range(3):
    thread = threading.Thread(target=lambda: bytes(5_000))
    thread.start()
    thread.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype, libc.malloc_info.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
stdout = libc.fdopen(1, b"w")
libc.malloc_info(0, stdout)
libc.fflush(None)
"""


class Circle:
    """Refers to itself, so that only the collector frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def collector() -> Iterator[None]:
    """The collector looks at nothing by itself, and afterwards at everything again."""
    gc.disable()
    yield
    gc.unfreeze()
    gc.enable()


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def burst(kept: list[bytes]) -> None:
    """Needs 100 MB in pieces that the heap holds, and keeps the last one, above all others."""
    pieces = [b"x" * 100_000 for _ in range(1_000)]
    kept.append(pieces[-1])


def heaps(program_argument: str) -> int:
    """Of a process that has had threads: how many heaps glibc made for them."""
    command = [sys.executable, "-c", COUNT_HEAPS, program_argument]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.count("<heap nr=")


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


def test_all_threads_share_one_heap() -> None:
    assert heaps("without") > 1
    assert heaps("with") == 1


@pytest.mark.usefixtures("collector")
def test_what_refers_to_itself_is_freed_when_it_is_time() -> None:
    clock = FakeClock()
    heap, circle = Heap(clock), weakref.ref(Circle())

    heap.trim_if_due()
    assert circle() is not None

    clock.now_s += TRIM_EVERY_S
    heap.trim_if_due()
    assert circle() is None


@pytest.mark.usefixtures("collector")
def test_the_collector_leaves_out_what_is_there_at_the_start() -> None:
    gc.unfreeze()
    before = gc.get_freeze_count()

    Heap(FakeClock()).settle()

    assert gc.get_freeze_count() - before > 1_000
