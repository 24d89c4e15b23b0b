"""What every model of clips has in common: the graph that engines run, and how it is trained and scaled."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from deploy.engine import Clips
from deploy.spec import ClipSpec
from trainer.learner import Learner
from trainer.loop import Samples
from trainer.tail import normal_tail

_TINY = 1e-6


class ClipConfig(Protocol):
    """Everything needed to build a serving graph; stored in the bundle."""

    def spec(self, fps: float) -> ClipSpec:
        """The clips that the network takes."""
        ...

    def model_dump(self) -> dict[str, Any]:
        """The settings as plain values (pydantic)."""
        ...


class Serving(nn.Module):
    """The graph that engines run: uint8 clips (N, T, H, W, 1) in, score (N,) and heat map (N, h, w) out, float32.

    Where the network's spec has a state, ``forward(clips, state)`` also takes what it gave back with each camera's frame before,
    float32 (N, *state_shape), zeros for "nothing seen yet", and gives three values: score, heat map, next state.
    """

    view: nn.Module
    """Clips to what the network sees of them: pictures float32 (N, C, h, w) in [-1, 1]."""

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

    def fit_scale(self, learned: Iterable[Clips], held_out: Iterable[Clips]) -> None:
        """Set the score's scale from normal clips, uint8 (N, T, H, W, 1): learned from, and held out."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class ClipModel:
    """A kind of model that learns from footage."""

    kind: str
    frame_area_px: int
    """Frames are fitted to about this many pixels."""
    batch: int
    """Samples that a step learns from, unless told otherwise."""
    configure: Callable[[Mapping[str, Any]], ClipConfig]
    """Settings to a configuration."""
    serving: Callable[[Any], Serving]
    """A configuration to the graph, not yet trained."""


class NormalRange(nn.Module):
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
