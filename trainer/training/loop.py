"""The training loop. It knows neither the models nor the footage.

Which samples a step sees, and every random number in it, follow from the seed and the number of the step alone. So resumed CPU
runs are bit-identical to uninterrupted ones.
"""

import math
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from trainer.errors import TrainingDiverged
from trainer.training.distributed import DistributedContext
from trainer.training.interfaces import Batch, Learner

_SEED_STRIDE = 1_000_000_007  # random seeds of run ``seed`` start at ``seed * _SEED_STRIDE``, so that runs share none
_VALIDATION_BATCH = 64


class Samples(Protocol):
    """The training samples of a run."""

    def __len__(self) -> int: ...

    def draw(self, numbers: Tensor) -> Batch:
        """The samples with these indices, int64 (N,). They may be random: the loop seeds torch's generator before every step."""


@dataclass(frozen=True, slots=True)
class TensorSamples:
    """Training samples in memory: float (N, ...) and labels (N,)."""

    samples: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.samples)

    def draw(self, numbers: Tensor) -> Batch:
        return Batch(self.samples[numbers], self.labels[numbers])


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Training samples, and held-out normal samples (N, ...); without those the run is not validated."""

    samples: Samples
    validation: Tensor | None = None
    prefetch: bool = False
    """Draw the next batch during a step. Only for samples that depend on nothing but their indices."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """The length of a run. It ends after its steps or its time, whichever comes first."""

    seed: int
    batch: int
    steps: int | None = None
    max_minutes: float = math.inf
    validate_every_steps: int = 100
    patience: int | None = None
    """Early stopping after this many validations without a smaller loss. The best weights are kept, not the last ones."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    elapsed_s: float = 0.0
    best_loss: float = math.inf
    """The smallest validation loss."""
    best_step: int = 0
    stale_validations: int = 0
    """Validations since the best one."""

    def after_validation(self, loss: float) -> "Progress":
        if loss < self.best_loss:
            return replace(self, best_loss=loss, best_step=self.step, stale_validations=0)
        return replace(self, stale_validations=self.stale_validations + 1)


@dataclass(slots=True)
class TrainingState:
    """What a run needs to resume, besides the learner's weights and optimisers."""

    progress: Progress = field(default_factory=Progress)
    best: dict[str, Tensor] = field(default_factory=dict)
    """The detector's state dict at the best validation; empty before the first one and without early stopping."""


class Callback:
    """Hooks into a run, for progress display, logs and checkpoints. These do nothing."""

    def resume(self, learner: Learner) -> TrainingState:
        """Called first: load the checkpoint of an interrupted run into ``learner``, if there is one."""
        return TrainingState()

    def on_step_end(self, learner: Learner, state: TrainingState, losses: Mapping[str, float]) -> None:
        """Called after every step, with the loss terms of the step by name."""

    def on_validation_end(self, learner: Learner, state: TrainingState, loss: float) -> None:
        """Called after every validation, before ``on_step_end``."""

    def on_train_end(self, learner: Learner, state: TrainingState) -> None:
        """Called after the last step, before the best weights are restored."""

    def close(self) -> None:
        """Called when the run has ended or failed."""

    def last_checkpoint(self) -> str:
        """Tell the user from which checkpoint a diverged run can resume, as the end of an error message."""
        return "no checkpoint was kept"


def run_loop(
    learner: Learner, data: TrainingData, settings: LoopSettings, context: DistributedContext, callback: Callback
) -> Progress:
    """Train ``learner`` until steps, time or patience are used up. With early stopping it ends with its best weights.

    Raises:
        TrainingDiverged: a loss or a gradient is not finite; names step, term and last checkpoint.
    """
    state = callback.resume(learner)
    groups = [group for optimiser in learner.optimisers.values() for group in optimiser.param_groups]
    rates = [group["lr"] for group in groups]
    started_s = time.monotonic() - state.progress.elapsed_s
    with closing(_BatchLoader(data, settings, context.world_size)) as loader:
        while not _is_over(settings, state.progress):
            step, share = state.progress.step, share_done(settings, state.progress)
            torch.manual_seed(settings.seed * _SEED_STRIDE + step)
            factor = learner.rate_factor(share)
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate * factor
            try:
                losses = _train_step(learner, loader.load(step), share, context)
            except TrainingDiverged as error:
                raise TrainingDiverged(f"step {step}: {error}; {callback.last_checkpoint()}") from error
            elapsed_s = context.broadcast(time.monotonic() - started_s)
            state.progress = replace(state.progress, step=step + 1, elapsed_s=elapsed_s)
            if data.validation is not None and state.progress.step % settings.validate_every_steps == 0:
                loss = context.broadcast(validation_loss(learner, data.validation, context.device))
                _record_validation(learner, state, loss, keep_best=settings.patience is not None)
                callback.on_validation_end(learner, state, loss)
            callback.on_step_end(learner, state, losses)
    callback.on_train_end(learner, state)
    if state.best:
        learner.modules["detector"].load_state_dict(state.best)
    return state.progress


def share_done(settings: LoopSettings, progress: Progress) -> float:
    """The share of a run that is done, 0 to 1."""
    by_step = progress.step / settings.steps if settings.steps else 0.0
    return min(1.0, max(by_step, progress.elapsed_s / (settings.max_minutes * 60)))


def validation_loss(learner: Learner, validation: Tensor, device: torch.device) -> float:
    """The learner's mean loss over held-out normal samples (N, ...)."""
    parts = torch.split(validation, _VALIDATION_BATCH)
    with torch.no_grad():
        losses = [float(learner.validation_loss(part.to(device).float())) * len(part) for part in parts]
    return sum(losses) / len(validation)


class _BatchLoader:
    """Loads the batch of each step. Samples are shuffled every epoch; those left over at its end are not used."""

    def __init__(self, data: TrainingData, settings: LoopSettings, processes: int) -> None:
        # Every process gets an equal part, so that the mean of their gradients is the gradient of the mean.
        self._batch = max(1, min(settings.batch, len(data.samples)) // processes) * processes
        self._samples, self._seed = data.samples, settings.seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)
        self._pool = ThreadPoolExecutor(1) if data.prefetch else None
        self._next: Future[Batch] | None = None
        self._threads = torch.get_num_threads()
        if self._pool:  # with more threads than cores, torch's threads wait for each other at every layer
            torch.set_num_threads(max(1, self._threads - 1))

    def load(self, step: int) -> Batch:
        """The batch of one step, for all processes; steps come in order."""
        batch = self._next.result() if self._next else self._samples.draw(self._indices(step))
        if self._pool:
            self._next = self._pool.submit(self._samples.draw, self._indices(step + 1))
        return batch

    def close(self) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
            torch.set_num_threads(self._threads)

    def _indices(self, step: int) -> Tensor:
        count = len(self._samples)
        epoch, place = divmod(step, max(1, count // self._batch))
        if epoch != self._epoch:
            rng = torch.Generator().manual_seed(self._seed * _SEED_STRIDE + epoch)
            self._epoch, self._order = epoch, torch.randperm(count, generator=rng)
        return self._order[place * self._batch : (place + 1) * self._batch]


def _is_over(settings: LoopSettings, progress: Progress) -> bool:
    out_of_patience = settings.patience is not None and progress.stale_validations >= settings.patience
    return out_of_patience or share_done(settings, progress) >= 1.0


def _train_step(learner: Learner, batch: Batch, share: float, context: DistributedContext) -> dict[str, float]:
    samples, labels = (context.local_part(part).to(context.device).float() for part in batch)
    with context.autocast():
        losses = learner.learn(Batch(samples, labels), share, context)
    values = {name: float(value) for name, value in losses.items()}
    for name, value in values.items():
        if not math.isfinite(value):
            raise TrainingDiverged(f"the {name} loss is {value}")
    return values


def _record_validation(learner: Learner, state: TrainingState, loss: float, *, keep_best: bool) -> None:
    state.progress = state.progress.after_validation(loss)
    if keep_best and state.progress.stale_validations == 0:
        state.best = {name: value.clone() for name, value in learner.modules["detector"].state_dict().items()}
