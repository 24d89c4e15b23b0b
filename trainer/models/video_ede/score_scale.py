"""The scale of the video model's score: what is usual in each row and place, and where normal values of each term lie.

Usual speeds, the places' limits and what always looks strange come from footage that was learned from, the terms' normal ranges
from held-out footage: what was learned is less strange than anything will ever be again.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.data.clips import ClipDataset
from trainer.models.base import RangeScaler
from trainer.statistics import SpeedHistogram

MAX_FRAMES = 4096
"""Of either kind of footage that are looked at."""

_STRETCH_FRAMES = 256
_SIDE_BY_SIDE = 8
_FIRST_FRAMES = 256
_MOVING_PX = 0.25
_LIMIT_QUANTILE = 0.999
_REACH_CELLS = 10
_HANDICAP = 2.0
"""Uneven motion beyond what its place has seen is common among normal frames; far beyond is not."""


class ScoreMaps(NamedTuple):
    """The parts of the score, each in units of its own: maps (N, h, w)."""

    steady: Tensor
    """Averaged speed less some of its spread, pixels a frame."""
    jerky: Tensor
    """Averaged speed and some of its spread, pixels a frame."""
    strange: Tensor
    """Averaged strangeness, 0 to 1."""
    watched: Tensor
    """How long the camera has been: 0 at its first frame, then a part of the time that averages take, at last 1."""


ScoreMapsFunction = Callable[[Tensor, Tensor], tuple[ScoreMaps, Tensor]]
"""Clips, uint8 (N, 1, H, W, 1), and state to terms and next state."""


class ScoreScale(nn.Module):
    """How unusual each place is, (N, h, w): 0 at the median of normal frames' largest value, 1 at their 99 % quantile.

    Speed and strangeness, each in its own normal range, add up, as the rarities of independent signs do; what is beyond the
    limits of its place counts alone, by two ranges less. Without motion only looks count. Strangeness is what a place shows
    above its usual one: a corner that the judge never understood would else be every frame's largest value, and hide the rest.
    """

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        self.usual: Tensor
        self.limits: Tensor
        self.always: Tensor
        self.register_buffer("usual", torch.ones(grid[0], 1))
        self.register_buffer("limits", torch.zeros(grid))
        self.register_buffer("always", torch.zeros(grid))
        self.steady, self.jerky, self.strange = RangeScaler(), RangeScaler(), RangeScaler()
        self.whole, self.first = RangeScaler(), RangeScaler()

    def forward(self, terms: ScoreMaps) -> Tensor:
        """See the class."""
        moving = torch.maximum(self.whole(self._sum(terms)), self.jerky(terms.jerky - self.limits) - _HANDICAP)
        # The mean of n frames strays by 1 / sqrt(n): what is above the median in a camera's first frames is that much less sure.
        surely = torch.minimum(moving, moving * terms.watched.sqrt())
        return torch.where(terms.watched > 0.0, surely, self.first(self._above_usual(terms)))

    def _sum(self, terms: ScoreMaps) -> Tensor:
        steady: Tensor = self.steady(terms.steady / self.usual)
        strange: Tensor = self.strange(self._above_usual(terms))
        return steady + strange

    def _above_usual(self, terms: ScoreMaps) -> Tensor:
        return terms.strange - self.always

    @torch.no_grad()
    def fit(self, learned: Iterable[ScoreMaps], held_out: Iterable[ScoreMaps], first: Iterable[ScoreMaps]) -> None:
        """Set all: from footage that was learned from, from held-out footage, and from held-out frames without any before."""
        speeds, fastest, strangest = SpeedHistogram(len(self.usual)), [], []
        for terms in learned:
            for speed in terms.steady.numpy():
                speeds.add(speed, speed > _MOVING_PX)
            fastest.append(terms.jerky.half().numpy())
            strangest.append(terms.strange.half().numpy())
        self.usual.copy_(torch.from_numpy(speeds.fit_line().row_speeds(tuple(self.limits.shape))))
        self.limits.copy_(torch.from_numpy(_limits(np.concatenate(fastest))))
        self.always.copy_(torch.from_numpy(np.median(np.concatenate(strangest), axis=0).astype(np.float32)))
        seen = list(held_out)
        self.steady.fit([terms.steady / self.usual for terms in seen])
        self.jerky.fit([terms.jerky - self.limits for terms in seen])
        self.strange.fit([self._above_usual(terms) for terms in seen])
        self.whole.fit([self._sum(terms) for terms in seen])
        self.first.fit([self._above_usual(terms) for terms in first])


@torch.no_grad()
def walk(look: ScoreMapsFunction, bank: ClipDataset, state_shape: tuple[int, ...]) -> Iterator[ScoreMaps]:
    """The terms of every frame but the first of stretches of the footage, several stretches side by side."""
    parts = sorted(_stretches(bank), key=len, reverse=True)
    for group in (parts[first : first + _SIDE_BY_SIDE] for first in range(0, len(parts), _SIDE_BY_SIDE)):
        state = torch.zeros((len(group), *state_shape))
        for number in range(len(group[0])):
            going = [part for part in group if number < len(part)]
            frames = torch.from_numpy(np.stack([part[number : number + 1] for part in going]))
            terms, state = look(frames, state[: len(going)])
            if number:
                yield terms


@torch.no_grad()
def first_looks(look: ScoreMapsFunction, bank: ClipDataset, state_shape: tuple[int, ...]) -> Iterator[ScoreMaps]:
    """The terms of frames at even distances, each as if it were its camera's first."""
    for clips in bank.evenly_spaced(_FIRST_FRAMES, _SIDE_BY_SIDE):
        yield look(torch.from_numpy(clips), torch.zeros((len(clips), *state_shape)))[0]


def _stretches(bank: ClipDataset) -> list[NDArray[np.uint8]]:
    """All frames in stretches of 256, or of these at even distances as many as make ``MAX_FRAMES``."""
    videos = [video.frames for video in bank.footage]
    cut = [video[first : first + _STRETCH_FRAMES] for video in videos for first in range(0, len(video), _STRETCH_FRAMES)]
    count = min(len(cut), MAX_FRAMES // _STRETCH_FRAMES) if sum(map(len, cut)) > MAX_FRAMES else len(cut)
    return [cut[number] for number in np.linspace(0, len(cut) - 1, count).astype(int)]


def _limits(fastest: NDArray[np.float16]) -> NDArray[np.float32]:
    """The 99.9 % quantile of each place, and of all places within 40 pixels of it the largest."""
    quantiles = np.quantile(fastest, _LIMIT_QUANTILE, axis=0).astype(np.float32)
    side = 2 * _REACH_CELLS + 1
    return np.asarray(cv2.dilate(quantiles, np.ones((side, side), np.uint8)), np.float32)
