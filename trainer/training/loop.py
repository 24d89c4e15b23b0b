"""The training loop, top to bottom: samples in, a learner that has learned out. It knows no model and no footage.

A run is its seed: which samples a step sees and every random number in it follow from the seed and the number of the step
alone. So a run that goes on from a checkpoint throws the same dice, and on a CPU ends with the same bits.
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

_STEPS_A_SEED = 1_000_000_007
VALIDATION_BATCH = 64


class Samples(Protocol):
    """What there is to learn from."""

    def __len__(self) -> int: ...

    def draw(self, numbers: Tensor) -> Batch:
        """The samples with these numbers, int64 (N,); chance is allowed, it is seeded by the loop."""
        ...


@dataclass(frozen=True, slots=True)
class TensorSamples:
    """Samples that are all in memory: float (N, ...) and labels (N,)."""

    samples: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.samples)

    def draw(self, numbers: Tensor) -> Batch:
        """See :class:`Samples`."""
        return Batch(self.samples[numbers], self.labels[numbers])


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a run learns from, and the normal samples, (N, ...), kept apart for validation; None: no validation."""

    samples: Samples
    validation: Tensor | None = None
    ahead: bool = False
    """Whether samples follow from their numbers alone, so that the next ones can be drawn while these are learned from."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How long and how a run learns. It ends with its steps or its time, whichever comes first."""

    seed: int
    batch: int
    steps: int | None = None
    max_minutes: float = math.inf
    validate_every_steps: int = 100
    patience: int | None = None
    """Validations in a row without a smaller loss after which the run ends; the weights of the best one are kept."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    elapsed_s: float = 0.0
    best_loss: float = math.inf
    best_step: int = 0
    stale: int = 0
    """Validations since the best one."""

    def validated(self, loss: float) -> "Progress":
        """The progress after a validation."""
        if loss < self.best_loss:
            return replace(self, best_loss=loss, best_step=self.step, stale=0)
        return replace(self, stale=self.stale + 1)


@dataclass(slots=True)
class TrainingState:
    """Where a run stands: with the learner's own state all that there is to go on from."""

    progress: Progress = field(default_factory=Progress)
    best: dict[str, Tensor] = field(default_factory=dict)
    """The detector's state at the best validation; empty before the first."""


class Callback:
    """What accompanies a run: shows it, writes it down, keeps checkpoints. This one does nothing."""

    def resume(self, learner: Learner) -> TrainingState:
        """Put ``learner`` where an earlier run stopped, if there was one."""
        return TrainingState()

    def on_step_end(self, learner: Learner, state: TrainingState, losses: Mapping[str, float]) -> None:
        """Told after every step."""

    def on_validation_end(self, learner: Learner, state: TrainingState, loss: float) -> None:
        """Told after every validation."""

    def close(self) -> None:
        """Told when the run is over, or has failed."""

    def last_checkpoint(self) -> str:
        """Where a diverged run can be taken up again, in words."""
        return "no checkpoint was kept"


def run_loop(
    learner: Learner, data: TrainingData, settings: LoopSettings, context: DistributedContext, callback: Callback
) -> Progress:
    """Train ``learner`` until steps, time or patience are used up; it is left with its best validated weights, if any.

    Raises:
        TrainingDiverged: a loss or a gradient is no longer finite; names step, term and last good checkpoint.
    """
    rates = {name: [group["lr"] for group in optimiser.param_groups] for name, optimiser in learner.optimisers.items()}
    state = callback.resume(learner)
    order = _Order(len(data.samples), settings, context.count)
    started_s = time.monotonic() - state.progress.elapsed_s
    with closing(_Drawing(data, order)) as drawing:
        while _goes_on(settings, state.progress):
            progress = state.progress
            torch.manual_seed(settings.seed * _STEPS_A_SEED + progress.step)
            share = share_done(settings, progress)
            _set_rates(learner, rates, learner.rate_factor(share))
            try:
                losses = _learn(learner, drawing.take(progress.step), share, context)
            except TrainingDiverged as error:
                raise TrainingDiverged(f"step {progress.step}: {error}; {callback.last_checkpoint()}") from error
            state.progress = replace(progress, step=progress.step + 1, elapsed_s=context.broadcast(time.monotonic() - started_s))
            if data.validation is not None and state.progress.step % settings.validate_every_steps == 0:
                loss = context.broadcast(validation_loss(learner, data.validation, context.device))
                _validated(learner, state, loss, keep_best=settings.patience is not None)
                callback.on_validation_end(learner, state, loss)
            callback.on_step_end(learner, state, losses)
    if state.best:
        learner.modules["detector"].load_state_dict(state.best)
    return state.progress


def share_done(settings: LoopSettings, progress: Progress) -> float:
    """The part of a run that is over, 0 to 1."""
    by_step = progress.step / settings.steps if settings.steps else 0.0
    return min(1.0, max(by_step, progress.elapsed_s / (settings.max_minutes * 60)))


def steps_of(epochs: float, samples: int, batch: int) -> int:
    """Steps that go ``epochs`` times through ``samples``."""
    return max(1, round(epochs * max(1, samples // batch)))


def validation_loss(learner: Learner, validation: Tensor, device: torch.device) -> float:
    """The learner's loss of normal samples (N, ...) that it does not learn from."""
    parts = torch.split(validation, VALIDATION_BATCH)
    with torch.no_grad():
        losses = [float(learner.validation_loss(part.to(device).float())) * len(part) for part in parts]
    return sum(losses) / len(validation)


class _Order:
    """Which samples each step sees: a new order every epoch, the odd samples at its end left out."""

    def __init__(self, count: int, settings: LoopSettings, processes: int) -> None:
        # Every process gets an equal part, so that the mean of their gradients is the gradient of the mean.
        self._batch = max(1, min(settings.batch, count) // processes) * processes
        self._count, self._seed = count, settings.seed
        self._epoch = -1
        self._numbers = torch.empty(0, dtype=torch.int64)

    def numbers(self, step: int) -> Tensor:
        """Numbers of the samples of one step, for all processes."""
        epoch, place = divmod(step, max(1, self._count // self._batch))
        if epoch != self._epoch:
            chance = torch.Generator().manual_seed(self._seed * _STEPS_A_SEED + epoch)
            self._epoch, self._numbers = epoch, torch.randperm(self._count, generator=chance)
        return self._numbers[place * self._batch : (place + 1) * self._batch]


class _Drawing:
    """Draws the samples of each step; those of the next one by another thread meanwhile, where nothing depends on when.

    That thread takes the place of one of torch's: more threads than cores wait for each other at every layer.
    """

    def __init__(self, data: TrainingData, order: _Order) -> None:
        self._samples, self._order = data.samples, order
        self._pool = ThreadPoolExecutor(1) if data.ahead else None
        self._threads = torch.get_num_threads()
        if self._pool:
            torch.set_num_threads(max(1, self._threads - 1))
        self._next: tuple[int, Future[Batch]] | None = None

    def take(self, step: int) -> Batch:
        """The samples of one step."""
        drawn = self._next[1].result() if self._next and self._next[0] == step else self._draw(step)
        if self._pool:
            self._next = step + 1, self._pool.submit(self._samples.draw, self._order.numbers(step + 1))
        return drawn

    def close(self) -> None:
        """Draw no further."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)
            torch.set_num_threads(self._threads)

    def _draw(self, step: int) -> Batch:
        return self._samples.draw(self._order.numbers(step))


def _goes_on(settings: LoopSettings, progress: Progress) -> bool:
    patient = settings.patience is None or progress.stale < settings.patience
    return patient and share_done(settings, progress) < 1.0


def _set_rates(learner: Learner, rates: Mapping[str, list[float]], factor: float) -> None:
    for name, optimiser in learner.optimisers.items():
        for group, rate in zip(optimiser.param_groups, rates[name], strict=True):
            group["lr"] = rate * factor


def _learn(learner: Learner, drawn: Batch, share: float, context: DistributedContext) -> dict[str, float]:
    samples, labels = (context.local_part(part).to(context.device).float() for part in drawn)
    with context.autocast():
        losses = learner.learn(Batch(samples, labels), share, context)
    found = {name: float(value) for name, value in losses.items()}
    for name, value in found.items():
        if not math.isfinite(value):
            raise TrainingDiverged(f"the {name} loss is {value}")
    return found


def _validated(learner: Learner, state: TrainingState, loss: float, *, keep_best: bool) -> None:
    state.progress = state.progress.validated(loss)
    if keep_best and state.progress.stale == 0:
        state.best = {name: value.clone() for name, value in learner.modules["detector"].state_dict().items()}
