"""Work done by several processes side by side, none of which outlives the one that started them.

The file of finished runs: one JSON object a line, added as a run ends, so that a benchmark goes on where it stopped.
"""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError

from deploy.errors import ConfigError, OddsightError
from trainer.errors import BadRunFile, RunsUnfinished

_HEAD = '{"run":'  # every line begins with it, also one that a kill cut short


class Finished(BaseModel, frozen=True, extra="forbid"):
    """A finished run."""

    run: dict[str, Any]
    """What identifies it: data set, model, case, seed and settings, the model's whole configuration included."""
    auc: dict[str, float]
    """Area under the ROC curve of the test part by score, 0 to 1; the model's own score comes first."""
    normals: int
    """Samples learned from as normal."""
    anomalies: int
    """Samples learned from as labelled anomalies."""
    test_normals: int
    test_anomalies: int
    wall_s: float
    """Training and test."""
    cpu_s: float

    @property
    def ratio(self) -> float:
        """Labelled anomalies among all samples learned from: what was asked for, or less where there are not so many."""
        return self.anomalies / (self.normals + self.anomalies)


class RunFile:
    """Finished runs on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with _readable(path):
            self._file = path.open("a+", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def read(self) -> list[Finished]:
        """The runs finished so far. A line cut short by a kill is passed over.

        Raises:
            BadRunFile: the file holds something else, or cannot be read.
        """
        with _readable(self._path):
            self._file.seek(0)
            lines = self._file.read().split("\n")
        found = [_parsed(self._path, number, line) for number, line in enumerate(lines, 1) if line]
        if lines[-1]:  # so that the next line does not become part of the torn one
            self._file.write("\n")
        return [finished for finished in found if finished is not None]

    def add(self, finished: Finished) -> None:
        """Write a run down, at once."""
        self._file.write(json.dumps(finished.model_dump()) + "\n")
        self._file.flush()


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        raise BadRunFile(f"{path}: {error}; --out must be a file for finished runs that can be written") from error


def _parsed(path: Path, number: int, line: str) -> Finished | None:
    try:
        return Finished.model_validate(json.loads(line))
    except json.JSONDecodeError as error:
        if line.startswith(_HEAD) or _HEAD.startswith(line):
            return None
        wrong: Exception = error
    except (ValidationError, RecursionError) as error:
        wrong = error
    raise BadRunFile(f"{path}, line {number} is no finished run; give --out another file, nothing was changed") from wrong


Job = TypeVar("Job")
Result = TypeVar("Result")


def processes_for(wanted: int | None) -> int:
    """As many as wanted, or one a core that may be used.

    Raises:
        ConfigError: fewer than one are wanted.
    """
    if wanted is not None and wanted < 1:
        raise ConfigError(f"--jobs must be 1 or more, got {wanted}")
    return wanted or len(os.sched_getaffinity(0))


def side_by_side(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    processes: int,
    take: Callable[[Job, Result | OddsightError], None],
) -> None:
    """Do ``work`` for each of ``jobs`` in ``processes`` new processes; ``take`` is given each outcome here, as they come.

    Whatever ends this early, Ctrl-C included, ends the processes first.

    Raises:
        RunsUnfinished: a process was killed.
    """
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin)
    try:
        with _interrupts_held_back():
            futures = {pool.submit(work, job): job for job in jobs}
        for future in as_completed(futures):
            outcome: Result | OddsightError = _outcome(future)
            take(futures[future], outcome)
    except BaseException as error:
        _kill(pool)
        if isinstance(error, BrokenProcessPool):
            raise RunsUnfinished(
                "a process was killed from outside, most likely for want of memory; what is finished is kept, "
                "so give the same command again, with fewer --jobs"
            ) from error
        raise
    pool.shutdown()


def _outcome(future: "Future[Result]") -> Result | OddsightError:
    try:
        return future.result()
    except OddsightError as error:
        return error


def _kill(pool: ProcessPoolExecutor) -> None:
    for process in multiprocessing.active_children():
        process.terminate()
    pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Processes started meanwhile never see Ctrl-C: only their parent must, and it ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin() -> None:
    import torch

    # Several processes with several threads each would get in each other's way.
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent killed outright ends nobody, and its children would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
