"""What accompanies ``fit``: a bar on the screen, the log, and the checkpoints."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.learner import Learner
from trainer.logbook import Logbook
from trainer.loop import Keeper, Standing
from trainer.report import TrainingBar, tell_resumed

Draw = Callable[[], tuple[Tensor, Tensor]]
"""Pictures for the log, (N, C, h, w) in [-1, 1] each: what was seen, and what the model made of it."""

_LOG_EVERY_STEPS = 10


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Where a run's checkpoints lie, what they must agree with, and how often they are written."""

    folder: Path
    identity: Mapping[str, Any]
    every_s: float

    def load(self, learner: Learner) -> Standing | None:
        """See :func:`trainer.checkpoint.load_checkpoint`."""
        return load_checkpoint(self.folder, learner, self.identity)

    def save(self, learner: Learner, standing: Standing) -> Path:
        """See :func:`trainer.checkpoint.save_checkpoint`."""
        return save_checkpoint(self.folder, learner, standing, self.identity)


class Follower(Keeper):
    """Of the processes that help: begins where the first one begins, and says nothing."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints

    def resume(self, learner: Learner) -> Standing:
        """See :class:`Keeper`."""
        return self._checkpoints.load(learner) or Standing()


class Chronicler(Keeper):
    """Of the first process: shows, writes down, keeps checkpoints."""

    def __init__(self, checkpoints: Checkpoints, log: Path, draw: Draw, bar: TrainingBar, console: Console) -> None:
        self._checkpoints, self._bar, self._console = checkpoints, bar, console
        self._log, self._draw = log, draw
        self._logbook: Logbook | None = None
        self._saved_s = 0.0
        self._last: Path | None = None

    def resume(self, learner: Learner) -> Standing:
        """See :class:`Keeper`."""
        found = self._checkpoints.load(learner)
        tell_resumed(self._console, self._checkpoints.folder, found.progress if found else None)
        standing = found or Standing()
        self._saved_s = standing.progress.elapsed_s
        self._last = self._checkpoints.folder if found else None
        self._logbook = Logbook(self._log, standing.progress.step)
        self._bar.start(standing.progress)
        return standing

    def stepped(self, learner: Learner, standing: Standing, losses: Mapping[str, float]) -> None:
        """See :class:`Keeper`."""
        progress = standing.progress
        self._bar.show(progress, losses)
        if self._logbook and progress.step % _LOG_EVERY_STEPS == 0:
            self._logbook.losses(progress.step, losses)
        if progress.elapsed_s - self._saved_s >= self._checkpoints.every_s:
            self._last = self._checkpoints.save(learner, standing)
            self._saved_s = progress.elapsed_s

    def validated(self, learner: Learner, standing: Standing, loss: float) -> None:
        """See :class:`Keeper`."""
        step = standing.progress.step
        if not self._logbook:
            return
        self._logbook.validation(step, loss)
        learner.modules["detector"].eval()
        with torch.inference_mode():
            self._logbook.pictures(step, *(pictures.cpu() for pictures in self._draw()))

    def last_good(self) -> str:
        """See :class:`Keeper`."""
        if self._last is None:
            return "no checkpoint was written before; look for broken footage, or start again with another --seed"
        return (
            f"the last good checkpoint is {self._last}; look for broken footage, or delete "
            f"{self._checkpoints.folder} and start again with another --seed"
        )

    def close(self) -> None:
        """See :class:`Keeper`."""
        self._bar.stop()
        if self._logbook:
            self._logbook.close()
