"""What accompanies ``fit``: a bar on the screen, the log, and the checkpoints.

Checkpoints: where a training run stands, so that the same command goes on after Ctrl-C or a kill.

Two files and no pickle: ``state.json`` says which ``step-N.safetensors`` is valid. It is replaced last and atomically, so
a kill at any moment leaves the previous checkpoint whole.

What a run writes down for TensorBoard: losses, learning, and pictures of what the model makes of held-out footage.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from trainer.errors import CheckpointUnusable
from trainer.training.interfaces import Learner
from trainer.training.loop import Callback, Progress, TrainingState
from trainer.training.progress import TrainingBar, print_resumed

CHECKPOINT_FOLDER = ".checkpoint"
_STATE_NAME = "state.json"
_BEST = "best"


def save_checkpoint(folder: Path, learner: Learner, state: TrainingState, identity: Mapping[str, Any]) -> Path:
    """Write a checkpoint of the run that ``identity`` describes, and drop the one before; the file with the weights."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{state.progress.step:08d}.safetensors"
    save_file({key: value.detach().contiguous() for key, value in _tensors(learner, state)}, folder / name)
    entry = {"file": name, "progress": asdict(state.progress), "identity": dict(identity)}
    (folder / f"{_STATE_NAME}.new").write_text(json.dumps(entry, indent=2) + "\n")
    (folder / f"{_STATE_NAME}.new").replace(folder / _STATE_NAME)
    for old in folder.glob("step-*.safetensors"):
        if old.name != name:
            old.unlink()
    return folder / name


def load_checkpoint(folder: Path, learner: Learner, identity: Mapping[str, Any]) -> TrainingState | None:
    """Put ``learner`` where the checkpoint in ``folder`` left it; None where there is no checkpoint.

    Raises:
        CheckpointUnusable: it is damaged, or belongs to a run that ``identity`` does not describe.
    """
    if not (folder / _STATE_NAME).is_file():
        return None
    try:
        state = json.loads((folder / _STATE_NAME).read_text())
        _check_identity(folder, state["identity"], identity)
        best = _restore(learner, folder / state["file"])
        return TrainingState(Progress(**state["progress"]), best)
    except CheckpointUnusable:
        raise
    except Exception as error:  # safetensors and torch raise many types for damaged content
        raise CheckpointUnusable(f"{folder}: the checkpoint is damaged ({error}); delete the folder to begin again") from error


def drop_checkpoint(folder: Path) -> None:
    """Delete the checkpoint of a finished run."""
    shutil.rmtree(folder, ignore_errors=True)


def _check_identity(folder: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for key, value in expected.items():
        if found.get(key) != value:
            raise CheckpointUnusable(
                f"{folder}: the checkpoint there was made with {key} = {found.get(key)!r}, this run has {value!r}; "
                "run the first command again to go on, delete the folder to begin again, or choose another --out"
            )


def _tensors(learner: Learner, state: TrainingState) -> Iterator[tuple[str, Tensor]]:
    for name, module in learner.modules.items():
        for key, tensor in module.state_dict().items():
            yield f"module/{name}/{key}", tensor
    for name, optimiser in learner.optimisers.items():
        for number, entries in optimiser.state_dict()["state"].items():
            for key, tensor in entries.items():
                yield f"optimiser/{name}/{number}/{key}", tensor
    for key, tensor in state.best.items():
        yield f"{_BEST}/{key}", tensor


def _restore(learner: Learner, path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    tensors = load_file(path)
    for name, module in learner.modules.items():
        module.load_state_dict(_under(tensors, f"module/{name}"))
    for name, optimiser in learner.optimisers.items():
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _under(tensors, f"optimiser/{name}").items():
            number, _, entry = key.partition("/")
            state.setdefault(int(number), {})[entry] = tensor
        _restore_optimiser(optimiser, state)
    return _under(tensors, _BEST)


def _restore_optimiser(optimiser: torch.optim.Optimizer, state: dict[int, dict[str, Tensor]]) -> None:
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _under(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}


LOG_FOLDER = "log"
PICTURES = 8


class Logbook:
    """Event files in a folder; ``tensorboard --logdir`` shows them."""

    def __init__(self, folder: Path, step: int) -> None:
        # Imported here: it takes a second, and nobody but a training run needs it.
        from torch.utils.tensorboard import SummaryWriter

        # What a killed run wrote after its last checkpoint is written again.
        self._writer = SummaryWriter(str(folder), purge_step=step)

    def losses(self, step: int, losses: Mapping[str, float]) -> None:
        """Write down the loss terms of a step."""
        for name, value in losses.items():
            self._writer.add_scalar(f"loss/{name}", value, step)

    def validation(self, step: int, loss: float) -> None:
        """Write down the loss of held-out normal samples."""
        self._writer.add_scalar("loss/validation", loss, step)

    def pictures(self, step: int, seen: Tensor, made: Tensor) -> None:
        """Write down pictures (N, C, h, w) in [-1, 1] above what the model made of them, a column for each channel of each."""
        rows = [torch.cat(list(part[:PICTURES].clamp(-1, 1).flatten(0, 1)), dim=1) for part in (seen, made)]
        self._writer.add_image("seen above made", (torch.cat(rows)[None] + 1) / 2, step)

    def close(self) -> None:
        """Write out everything."""
        self._writer.close()


Draw = Callable[[], tuple[Tensor, Tensor]]
"""Pictures for the log, (N, C, h, w) in [-1, 1] each: what was seen, and what the model made of it."""

_LOG_EVERY_STEPS = 10


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Where a run's checkpoints lie, what they must agree with, and how often they are written."""

    folder: Path
    identity: Mapping[str, Any]
    every_s: float

    def load(self, learner: Learner) -> TrainingState | None:
        """See :func:`trainer.training.callbacks.load_checkpoint`."""
        return load_checkpoint(self.folder, learner, self.identity)

    def save(self, learner: Learner, state: TrainingState) -> Path:
        """See :func:`trainer.training.callbacks.save_checkpoint`."""
        return save_checkpoint(self.folder, learner, state, self.identity)


class ResumeCallback(Callback):
    """Of the processes that help: begins where the first one begins, and says nothing."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints

    def resume(self, learner: Learner) -> TrainingState:
        """See :class:`Callback`."""
        return self._checkpoints.load(learner) or TrainingState()


class TrainingCallback(Callback):
    """Of the first process: shows, writes down, keeps checkpoints."""

    def __init__(self, checkpoints: Checkpoints, log: Path, draw: Draw, bar: TrainingBar, console: Console) -> None:
        self._checkpoints, self._bar, self._console = checkpoints, bar, console
        self._log, self._draw = log, draw
        self._logbook: Logbook | None = None
        self._saved_s = 0.0
        self._last: Path | None = None

    def resume(self, learner: Learner) -> TrainingState:
        """See :class:`Callback`."""
        found = self._checkpoints.load(learner)
        print_resumed(self._console, self._checkpoints.folder, found.progress if found else None)
        state = found or TrainingState()
        self._saved_s = state.progress.elapsed_s
        self._last = self._checkpoints.folder if found else None
        self._logbook = Logbook(self._log, state.progress.step)
        self._bar.start(state.progress)
        return state

    def on_step_end(self, learner: Learner, state: TrainingState, losses: Mapping[str, float]) -> None:
        """See :class:`Callback`."""
        progress = state.progress
        self._bar.show(progress, losses)
        if self._logbook and progress.step % _LOG_EVERY_STEPS == 0:
            self._logbook.losses(progress.step, losses)
        if progress.elapsed_s - self._saved_s >= self._checkpoints.every_s:
            self._last = self._checkpoints.save(learner, state)
            self._saved_s = progress.elapsed_s

    def on_validation_end(self, learner: Learner, state: TrainingState, loss: float) -> None:
        """See :class:`Callback`."""
        step = state.progress.step
        if not self._logbook:
            return
        self._logbook.validation(step, loss)
        learner.modules["detector"].eval()
        with torch.inference_mode():
            self._logbook.pictures(step, *(pictures.cpu() for pictures in self._draw()))

    def last_checkpoint(self) -> str:
        """See :class:`Callback`."""
        if self._last is None:
            return "no checkpoint was written before; look for broken footage, or start again with another --seed"
        return (
            f"the last good checkpoint is {self._last}; look for broken footage, or delete "
            f"{self._checkpoints.folder} and start again with another --seed"
        )

    def close(self) -> None:
        """See :class:`Callback`."""
        self._bar.stop()
        if self._logbook:
            self._logbook.close()
