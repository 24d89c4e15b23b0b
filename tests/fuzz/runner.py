"""Runs a target in a process of its own, with a limit of memory, so that whatever an input does to it can be counted."""

import hashlib
import multiprocessing
import os
import resource
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.fuzz.target import Outcome, Target

MEMORY_BYTES = 512 * 1024 * 1024
"""Data that an input may make the process allocate: the largest accepted image takes 48 MB, the largest batch 64 MB."""
HANG_S = 30.0
_CHUNK = 500

MakeTarget = Callable[[], Target]


class Failure(NamedTuple):
    """An input that crashed the parser, stopped its process or took too long."""

    number: int
    reason: str


@dataclass(slots=True)
class Result:
    """What became of a target's inputs."""

    inputs: int = 0
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    """Reason -> number."""
    failures: list[Failure] = field(default_factory=list)
    memory_bytes: int = 0
    """Growth of the process at most."""
    slowest_s: float = 0.0
    wall_s: float = 0.0

    def add(self, number: int, outcome: Outcome) -> None:
        """Count one input."""
        self.inputs += 1
        match outcome.kind:
            case "accepted":
                self.accepted += 1
            case "rejected":
                self.rejected[outcome.reason] += 1
            case _:
                self.failures.append(Failure(number, outcome.reason))

    def merge(self, other: "Result") -> None:
        """Add what a chunk of inputs gave."""
        self.inputs += other.inputs
        self.accepted += other.accepted
        self.rejected += other.rejected
        self.failures += other.failures
        self.memory_bytes = max(self.memory_bytes, other.memory_bytes)
        self.slowest_s = max(self.slowest_s, other.slowest_s)

    @property
    def is_whole(self) -> bool:
        """Whether each input was accepted, rejected with a reason, or is a failure."""
        return self.inputs == self.accepted + self.rejected.total() + len(self.failures)


def examine_chunk(target: Target, seed: int, numbers: range, skipped: set[int], on_input: Callable[[int], None]) -> Result:
    """Examine inputs in this process. ``on_input`` is called with the number of each before it is parsed."""
    result = Result()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numbers out of range are what some inputs are made of
        for number in numbers:
            if number in skipped:
                continue
            content = target.input(seed, number)
            on_input(number)
            begin_s = time.perf_counter()
            result.add(number, target.examine(content))
            result.slowest_s = max(result.slowest_s, time.perf_counter() - begin_s)
    return result


def run_target(make: MakeTarget, seed: int, count: int, seconds: float | None = None, hang_s: float = HANG_S) -> Result:
    """Examine so many inputs of a target, or as many as fit into ``seconds``."""
    begin_s, result = time.perf_counter(), Result()
    with _Worker(make, seed, hang_s) as worker:
        for first in range(0, count, _CHUNK):
            result.merge(worker.examine(range(first, min(count, first + _CHUNK))))
            if seconds is not None and time.perf_counter() - begin_s >= seconds:
                break
    result.wall_s = time.perf_counter() - begin_s
    return result


class _Worker:
    """A process that examines chunks; another one takes its place when an input ends it or never ends."""

    def __init__(self, make: MakeTarget, seed: int, hang_s: float) -> None:
        self._make, self._seed, self._hang_s = make, seed, hang_s
        self._context = multiprocessing.get_context("spawn")
        self._number = self._context.RawValue("q", -1)
        self._start()

    def _start(self) -> None:
        self._number.value = -1
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_work, args=(self._make, self._seed, theirs, self._number))
        self._process.start()
        theirs.close()
        self._pipe.recv()  # the target is made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.join()

    def examine(self, numbers: range) -> Result:
        fatal: list[Failure] = []
        while True:
            self._pipe.send((numbers, {failure.number for failure in fatal}))
            answer = self._answer()
            if isinstance(answer, Result):
                for failure in fatal:
                    answer.add(failure.number, Outcome("crashed", failure.reason))
                return answer
            fatal.append(Failure(self._number.value, answer))
            self._stop()
            self._start()

    def _answer(self) -> Result | str:
        """The result of a chunk; a text if the process has ended, or an input takes too long."""
        newest, since_s = -1, time.perf_counter()
        while not self._pipe.poll(0.1):
            if self._number.value != newest:
                newest, since_s = self._number.value, time.perf_counter()
            if time.perf_counter() - since_s > self._hang_s:
                return f"no end within {self._hang_s:g} s"
        try:
            result: Result = self._pipe.recv()
        except EOFError:
            self._process.join()
            return f"the process ended with exit code {self._process.exitcode}"
        return result


def _work(make: MakeTarget, seed: int, pipe: Connection, number: Any) -> None:
    _silence()
    target = make()
    for content in target.valid:  # imports, caches and pools of threads belong to no input
        target.examine(content)
    _limit_memory()
    at_start = _peak_bytes()
    pipe.send("ready")
    while True:
        try:
            numbers, skipped = pipe.recv()
        except EOFError:
            return
        result = examine_chunk(target, seed, numbers, skipped, lambda each: setattr(number, "value", each))
        result.memory_bytes = max(0, _peak_bytes() - at_start)
        pipe.send(result)


def _silence() -> None:
    """Libraries in C write a line for every damaged image."""
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack
    limit_bytes = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def save_failures(target: Target, seed: int, failures: list[Failure], folder: Path) -> Iterator[tuple[Path, str]]:
    """Write each failing input to a file that is named by its hash; yields the files and what happened."""
    for failure in failures:
        content = target.input(seed, failure.number)
        path = folder / target.name / hashlib.sha256(content).hexdigest()[:16]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        yield path, failure.reason
