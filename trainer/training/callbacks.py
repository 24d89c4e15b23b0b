"""Callbacks of a training run: progress bar, TensorBoard logs and checkpoints.

A checkpoint is two files without pickle: ``state.json`` names the valid ``step-N.safetensors``. It is replaced last and
atomically, so a kill at any moment leaves the previous checkpoint whole.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import TaskProgressColumn, TextColumn
from torch import Tensor

from deploy.console import make_bar
from deploy.files import lock_file
from trainer.errors import CheckpointUnusable, OutputRefused
from trainer.training.interfaces import Learner
from trainer.training.loop import Callback, LoopSettings, Progress, TrainingState, share_done

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

CHECKPOINT_FOLDER = ".checkpoint"
LOG_FOLDER = "log"
LOGGED_PICTURES = 8
_STATE_NAME, _LOCK = "state.json", "lock"
_BEST = "best"
_LOG_EVERY_STEPS = 10

PicturePairs = Callable[[], tuple[Tensor, Tensor]]
"""Inputs and reconstructions for the log, (N, C, h, w) in [-1, 1] each."""


@contextmanager
def only_run(out: Path) -> Iterator[None]:
    """Lock ``out`` for this run. Folders that were made for the lock and hold nothing else are removed afterwards.

    Raises OutputRefused if another run has locked it. A folder where nothing can be written is not locked.
    """
    folder = out / CHECKPOINT_FOLDER
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    with ExitStack() as held:
        try:
            held.enter_context(lock_file(folder / _LOCK))
            held.callback(_remove_lock, folder, made)
        except BlockingIOError as error:
            raise OutputRefused(f"{out}: another run is writing to it; wait for its end, or give another --out") from error
        except OSError:
            pass
        yield


def _remove_lock(folder: Path, made: Iterable[Path]) -> None:
    with suppress(OSError):
        (folder / _LOCK).unlink(missing_ok=True)
        for each in made:
            each.rmdir()


class ResumeCallback(Callback):
    """Resumes from the checkpoint of the first process; for all others, which write nothing."""

    def __init__(self, checkpoints: "Checkpoints") -> None:
        self._checkpoints = checkpoints

    def resume(self, learner: Learner) -> TrainingState:
        return self._checkpoints.load(learner) or TrainingState()


class TrainingCallback(Callback):
    """Progress bar, TensorBoard logs and checkpoints of the first process. The bar shows the losses of the last step."""

    def __init__(
        self, checkpoints: "Checkpoints", log: Path, draw: PicturePairs, settings: LoopSettings, console: Console
    ) -> None:
        self._checkpoints, self._console, self._settings = checkpoints, console, settings
        self._log_folder, self._draw = log, draw
        self._bar = make_bar(console, log.name, TaskProgressColumn(), TextColumn("{task.fields[losses]}"))
        self._task = self._bar.add_task(log.name, total=1.0, losses="")
        self._log: SummaryWriter | None = None
        self._saved_s = 0.0
        self._last: Path | None = None

    def resume(self, learner: Learner) -> TrainingState:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        loaded = self._checkpoints.load(learner)
        state, folder = loaded or TrainingState(), self._checkpoints.folder
        step, self._saved_s = state.progress.step, state.progress.elapsed_s
        if loaded:
            self._console.print(f"resumed at step {step} after {self._saved_s:.0f} s (checkpoint in {folder})")
            self._last = folder
        else:
            self._console.print(f"checkpoints go to {folder}; after an interruption the same command resumes from there")
        # What a killed run logged after its last checkpoint is logged again, so it is purged.
        self._log = SummaryWriter(str(self._log_folder), purge_step=step)
        self._bar.update(self._task, completed=share_done(self._settings, state.progress))
        self._bar.start()
        return state

    def on_step_end(self, learner: Learner, state: TrainingState, losses: Mapping[str, float]) -> None:
        progress = state.progress
        text = " ".join([f"step {progress.step}", *(f"{name[:3]} {value:.4f}" for name, value in losses.items())])
        self._bar.update(self._task, completed=share_done(self._settings, progress), losses=text)
        if self._log and progress.step % _LOG_EVERY_STEPS == 0:
            for name, value in losses.items():
                self._log.add_scalar(f"loss/{name}", value, progress.step)
        if progress.elapsed_s - self._saved_s >= self._checkpoints.every_s:
            self._last = self._checkpoints.save(learner, state)
            self._saved_s = progress.elapsed_s

    def on_validation_end(self, learner: Learner, state: TrainingState, loss: float) -> None:
        if not self._log:
            return
        self._log.add_scalar("loss/validation", loss, state.progress.step)
        learner.modules["detector"].eval()
        with torch.inference_mode():
            # A column for each channel of each picture.
            rows = [torch.cat(list(part[:LOGGED_PICTURES].cpu().clamp(-1, 1).flatten(0, 1)), dim=1) for part in self._draw()]
            self._log.add_image("input above reconstruction", (torch.cat(rows)[None] + 1) / 2, state.progress.step)

    def on_train_end(self, learner: Learner, state: TrainingState) -> None:
        # An interruption of what comes after training must not cost any step.
        if state.progress.elapsed_s != self._saved_s:
            self._last = self._checkpoints.save(learner, state)

    def last_checkpoint(self) -> str:
        if self._last is None:
            return "no checkpoint was written before; look for broken footage, or start again with another --seed"
        again = f"delete {self._checkpoints.folder} and start again with another --seed"
        return f"the last good checkpoint is {self._last}; look for broken footage, or {again}"

    def close(self) -> None:
        self._bar.stop()
        if self._log:
            self._log.close()


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints of one run."""

    folder: Path
    identity: Mapping[str, Any]
    """What a checkpoint must have been made with to be loaded: settings and footage, as plain values."""
    every_s: float = 0.0

    def save(self, learner: Learner, state: TrainingState) -> Path:
        """Write a checkpoint, delete the one before, and return the path of the weights."""
        from safetensors.torch import save_file

        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{state.progress.step:08d}.safetensors"
        save_file({key: value.detach().contiguous() for key, value in _tensors(learner, state)}, path)
        content = {"file": path.name, "progress": asdict(state.progress), "identity": dict(self.identity)}
        new = self.folder / f"{_STATE_NAME}.new"
        new.write_text(json.dumps(content, indent=2) + "\n")
        new.replace(self.folder / _STATE_NAME)
        for old in self.folder.glob("step-*.safetensors"):
            if old != path:
                old.unlink()
        return path

    def load(self, learner: Learner) -> TrainingState | None:
        """Load the checkpoint into ``learner``; returns None if there is none.

        Raises:
            CheckpointUnusable: it is damaged, or was made with another ``identity``.
        """
        if not (self.folder / _STATE_NAME).is_file():
            return None
        try:
            content = json.loads((self.folder / _STATE_NAME).read_text())
            self._check_identity(content["identity"])
            best = _restore(learner, self.folder / content["file"])
            return TrainingState(Progress(**content["progress"]), best)
        except CheckpointUnusable:
            raise
        except Exception as error:  # safetensors and torch raise many types for damaged content
            problem = f"the checkpoint is damaged ({error}); delete the folder to start again"
            raise CheckpointUnusable(f"{self.folder}: {problem}") from error

    def _check_identity(self, identity: Mapping[str, Any]) -> None:
        for key, value in self.identity.items():
            if identity.get(key) != value:
                raise CheckpointUnusable(
                    f"{self.folder}: the checkpoint was made with {key} = {identity.get(key)!r}, this run has {value!r}; "
                    "run the first command again to resume, delete the folder to start again, or choose another --out"
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
    """Load modules and optimisers; returns the best weights so far."""
    from safetensors.torch import load_file

    tensors = load_file(path)
    for name, module in learner.modules.items():
        module.load_state_dict(_under(tensors, f"module/{name}"))
    for name, optimiser in learner.optimisers.items():
        entries: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _under(tensors, f"optimiser/{name}").items():
            number, _, entry = key.partition("/")
            entries.setdefault(int(number), {})[entry] = tensor
        optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})
    return _under(tensors, _BEST)


def _under(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}
