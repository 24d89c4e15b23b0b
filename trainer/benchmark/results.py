"""Results of benchmark runs: the file that keeps them, and the processes that compute them.

The file has one JSON object per line, appended when a run ends, so that an interrupted benchmark can be resumed.
"""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from deploy.errors import ConfigError, OddsightError
from trainer.errors import BadRunFile, RunsUnfinished

_LINE_START = '{"run":'  # of every line, also of one that was cut short by a kill

Task = TypeVar("Task")
Result = TypeVar("Result")


class RunResult(BaseModel, frozen=True, extra="forbid"):
    """The result of a finished run."""

    run: dict[str, Any]
    """The identity of the run: data set, model, case, seed and all settings."""
    auc: dict[str, float]
    """Area under the ROC curve of the test set by score, 0 to 1; the model's own score comes first."""
    normals: int
    """Normal training samples."""
    anomalies: int
    """Labelled anomalies among the training samples."""
    test_normals: int
    test_anomalies: int
    wall_s: float
    """Of training and test."""
    cpu_s: float

    @property
    def ratio(self) -> float:
        """Labelled anomalies among all training samples; less than asked for if there are too few anomalies."""
        return self.anomalies / (self.normals + self.anomalies)


class ResultsFile(AbstractContextManager["ResultsFile"]):
    """A file of run results.

    Raises:
        BadRunFile: the file cannot be opened for reading and writing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with _file_errors(path):
            self._file = path.open("a+", encoding="utf-8")

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self) -> list[RunResult]:
        """All results. A last line that was cut short by a kill is skipped.

        Raises:
            BadRunFile: the file contains something else, or cannot be read.
        """
        with _file_errors(self._path):
            self._file.seek(0)
            lines = self._file.read().split("\n")
        results = [_parse(self._path, number, line) for number, line in enumerate(lines, 1) if line]
        if lines[-1]:  # cut short: the next result must start on a new line
            self._file.write("\n")
        return [result for result in results if result is not None]

    def append(self, result: RunResult) -> None:
        """Write a result immediately."""
        self._file.write(json.dumps(result.model_dump()) + "\n")
        self._file.flush()


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        raise BadRunFile(f"{path}: {error}; --out must be a file for finished runs that can be written") from error


def _parse(path: Path, number: int, line: str) -> RunResult | None:
    try:
        json.loads(line)  # tells a line that was cut short from one that is something else
        return RunResult.model_validate_json(line)
    except json.JSONDecodeError as error:
        if line.startswith(_LINE_START) or _LINE_START.startswith(line):
            return None
        cause: Exception = error
    except (ValueError, RecursionError) as error:  # also numbers without end, and halves of characters
        cause = error
    raise BadRunFile(f"{path}, line {number} is not a finished run; give --out another file, nothing was changed") from cause


def process_count(jobs: int | None) -> int:
    """The number of processes: ``jobs``, or the number of available cores.

    Raises:
        ConfigError: ``jobs`` is less than 1.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs must be 1 or more, got {jobs}")
    return jobs or len(os.sched_getaffinity(0))


def run_in_processes(
    work: Callable[[Task], Result],
    tasks: Sequence[Task],
    processes: int,
    on_result: Callable[[Task, Result | OddsightError], None],
) -> None:
    """Run ``work`` for every task in new processes; ``on_result`` is called here with each result or error when it arrives.

    If this ends early, also by Ctrl-C, it terminates the processes first.

    Raises:
        RunsUnfinished: a process was killed.
    """
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _initialise_process)
    try:
        with _interrupts_blocked():
            futures = {pool.submit(work, task): task for task in tasks}
        for future in as_completed(futures):
            error = future.exception()
            on_result(futures[future], error if isinstance(error, OddsightError) else future.result())
    except BaseException as error:
        for process in multiprocessing.active_children():
            process.terminate()
        pool.shutdown(cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise RunsUnfinished(
                "a process was killed, most likely because memory ran out; finished runs are kept, "
                "so run the same command again with fewer --jobs"
            ) from error
        raise
    pool.shutdown()


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes started inside ignore Ctrl-C: their parent handles it and terminates them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _initialise_process() -> None:
    import torch

    torch.set_num_threads(1)  # several threads in each of several processes would slow each other down
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Exit when the parent is killed; otherwise this process would wait for work forever."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
