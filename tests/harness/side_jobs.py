"""Work for other processes: what a process is told to do must be in a module that it can import."""

import os
import signal
import time
from pathlib import Path

from trainer.errors import TrainingDiverged


def number_of_threads(_: int) -> int:
    import torch

    return torch.get_num_threads()


def fail_at_two(number: int) -> int:
    if number == 2:
        raise TrainingDiverged("the second one")
    return number


def be_killed(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave_mark_and_sleep(folder: Path) -> None:
    (folder / f"{os.getpid()}").touch()
    time.sleep(600)
