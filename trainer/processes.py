"""Work done by several processes side by side, none of which outlives the one that started them."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from deploy.errors import ConfigError, OddsightError
from trainer.errors import RunsUnfinished

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
