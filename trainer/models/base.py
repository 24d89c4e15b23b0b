"""What every model of clips has in common: the graph that engines run, and how it is trained and scaled."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from deploy.engine import Clips
from deploy.spec import ClipSpec
from trainer.data.clips import ClipDataset, Split
from trainer.statistics import normal_tail
from trainer.training.interfaces import Learner
from trainer.training.loop import Samples, TrainingData

MAX_CLIPS = 20_000
"""More are thinned out: 60 KB a clip are held in memory."""
VALIDATION_CLIPS = 64
"""Held-out clips that a run is stopped by; calibration later scores all of them."""

CALIBRATION_CLIPS = 4096
"""Of held-out footage, at even distances: 40 of them lie above the 99 % quantile. An hour of video has four times as many."""

_SCALE_CLIPS = 256
_BATCH_CLIPS = 16
_TINY = 1e-6


class ClipConfig(Protocol):
    """Everything needed to build a serving graph; stored in the bundle."""

    def spec(self, fps: float) -> ClipSpec:
        """The clips that the network takes."""
        ...

    def model_dump(self) -> dict[str, Any]:
        """The settings as plain values (pydantic)."""
        ...


@dataclass(frozen=True, slots=True)
class TrainingStage:
    """A part of a training run. Most models have one."""

    name: str
    share: float
    """Of the run's time or steps."""
    batch: int
    """Samples that a step learns from, unless told otherwise."""
    learner: Learner
    data: TrainingData
    learned: Tensor
    """Some of what is learned from, like ``data.validation``, to compare their losses."""
    draw: Callable[[Tensor], tuple[Tensor, Tensor]]
    """Samples to pictures for the log, (N, C, h, w) in [-1, 1] each: what was seen, and what the model made of it."""
    patient: bool = True
    """Whether it ends early when held-out samples no longer gain; not where the rate falls with time."""


ProgressBar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Shows work of so many parts; gives what is told of finished ones."""


class ServingNetwork(nn.Module):
    """The graph that engines run: uint8 clips (N, T, H, W, 1) in, score (N,) and heat map (N, h, w) out, float32.

    Where the network's spec has a state, ``forward(clips, state)`` also takes what it gave back with each camera's frame before,
    float32 (N, *state_shape), zeros for "nothing seen yet", and gives three values: score, heat map, next state.
    """

    def stages(self, split: Split, work: ProgressBar) -> Iterator[TrainingStage]:
        """How it is trained on footage: one stage after the other, each prepared when the one before is over."""
        raise NotImplementedError

    def fit_scale(self, learned: ClipDataset, held_out: ClipDataset) -> None:
        """Set the score's scale from normal clips: learned from, and held out."""
        raise NotImplementedError


class ClipViewNetwork(ServingNetwork):
    """A graph that learns from what it sees of single clips, which is computed once before training."""

    batch: int
    """Samples that a step learns from, unless told otherwise."""
    view: nn.Module
    """Clips to what the network sees of them: pictures float32 (N, C, h, w) in [-1, 1]."""

    @property
    def length(self) -> int:
        """Frames in a clip."""
        raise NotImplementedError

    def learner(self) -> Learner:
        """The model in training: initialises the weights, which are this graph's own."""
        raise NotImplementedError

    def samples(self, pictures: Tensor) -> Samples:
        """What to learn from, given what the network sees of normal clips."""
        raise NotImplementedError

    def validation(self, pictures: Tensor) -> Tensor:
        """Normal samples to stop by, given what the network sees of held-out clips; the same ones every time."""
        raise NotImplementedError

    def reconstruct(self, samples: Tensor) -> Tensor:
        """What the model makes of samples, in their shape."""
        raise NotImplementedError

    def fit_clips(self, learned: Iterable[Clips], held_out: Iterable[Clips]) -> None:
        """Set the score's scale from normal clips, uint8 (N, T, H, W, 1): learned from, and held out."""
        raise NotImplementedError

    def fit_scale(self, learned: ClipDataset, held_out: ClipDataset) -> None:
        """See :class:`ServingNetwork`."""
        self.fit_clips(learned.evenly_spaced(_SCALE_CLIPS, _BATCH_CLIPS), held_out.evenly_spaced(CALIBRATION_CLIPS, _BATCH_CLIPS))

    def stages(self, split: Split, work: ProgressBar) -> Iterator[TrainingStage]:
        """See :class:`ServingNetwork`: one."""
        learner, length = self.learner(), self.length
        pictures = self._pictures(ClipDataset(split.train, length), MAX_CLIPS, work)
        validation = self.validation(self._pictures(ClipDataset(split.validation, length), VALIDATION_CLIPS, work))
        some = pictures[torch.linspace(0, len(pictures) - 1, min(VALIDATION_CLIPS, len(pictures))).long()]
        data = TrainingData(self.samples(pictures), validation)
        yield TrainingStage("training", 1.0, self.batch, learner, data, self.validation(some), self._draw)

    @torch.no_grad()
    def _pictures(self, bank: ClipDataset, most: int, work: ProgressBar) -> Tensor:
        """What the network sees of at most so many clips, float16 (N, C, h, w): computed once, it costs as much as a step."""
        device, seen = next(self.parameters()).device, []
        with work("computing motion", min(most, len(bank))) as advance:
            for clips in bank.evenly_spaced(most, _BATCH_CLIPS):
                seen.append(self.view(torch.from_numpy(clips).to(device)).half().cpu())
                advance(len(clips))
        return torch.cat(seen)

    def _draw(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        return samples, self.reconstruct(samples)


@dataclass(frozen=True, slots=True)
class ClipModel:
    """A kind of model that learns from footage."""

    kind: str
    frame_area_px: int
    """Frames are fitted to about this many pixels."""
    side_step_px: int
    """Their sides are multiples of this."""
    configure: Callable[[Mapping[str, Any]], ClipConfig]
    """Settings to a configuration."""
    serving: Callable[[Any], ServingNetwork]
    """A configuration to the graph, not yet trained."""
    learns_marks: bool = False
    """Whether it learns from what operators marked."""


class RangeScaler(nn.Module):
    """A term in units of its own normal range: 0 at the median of its largest windows on normal clips, 1 at their q99."""

    def __init__(self) -> None:
        super().__init__()
        self.median: Tensor
        self.spread: Tensor
        self.register_buffer("median", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    def forward(self, means: Tensor) -> Tensor:
        """Window means (N, h, w) in units of the range."""
        return (means - self.median) / self.spread

    def fit(self, means: list[Tensor]) -> None:
        """Take the range from the window means of normal clips."""
        largest = torch.cat([torch.amax(part, dim=(1, 2)) for part in means])
        tail = normal_tail(largest.cpu().numpy())
        self.median.fill_(tail.median)
        self.spread.fill_(max(tail.q99 - tail.median, _TINY))
