"""The score scale of the video model: normal ranges of its score maps, and how they are fitted to normal footage.

Usual speeds of rows, speed limits of places and the usual anomaly of each place come from training footage. The normal ranges
come from validation footage: training footage looks less anomalous than anything will ever again.
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

MAX_FRAMES = 4096  # frames of either kind of footage that are scored, at most

_SEGMENT_FRAMES = 256
_PARALLEL_SEGMENTS = 8
_FIRST_FRAMES = 256
_MOVING_PX = 0.25
_LIMIT_QUANTILE = 0.999
_DILATION_CELLS = 10
_JERKY_OFFSET = 2.0  # jerky motion beyond its place's limit is common among normal frames; two ranges beyond it is not


class ScoreMaps(NamedTuple):
    """The parts of the score, each in its own unit: maps (N, h, w)."""

    steady: Tensor  # mean speed minus a part of its standard deviation, pixels per frame
    jerky: Tensor  # mean speed plus a multiple of its standard deviation, pixels per frame
    anomaly: Tensor  # mean anomaly probability, 0 to 1
    observed: Tensor  # share of the averaging time that the camera has been observed: 0 at its first frame, 1 from the sixth on


ScoreMapsFunction = Callable[[Tensor, Tensor], tuple[ScoreMaps, Tensor]]
"""uint8 frames (N, 1, H, W, 1) and state to score maps and next state."""


class ScoreScale(nn.Module):
    """Score maps to one heat map (N, h, w): normal frames' maxima have the median 0 and the 99 % quantile 1.

    Steady speed and anomaly, each in its own normal range, add up, as rarities of independent signs do. Jerky motion beyond its
    place's limit counts alone, less two ranges. A camera's first frame has only the anomaly map. Each place's usual anomaly is
    subtracted: a corner that is never understood would be the maximum of every frame and hide everything else.
    Buffer names are the keys of stored weights.
    """

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        self.usual = nn.Buffer(torch.ones(grid[0], 1))  # usual steady speed of each row
        self.limits = nn.Buffer(torch.zeros(grid))  # limit of the jerky speed of each place
        self.always = nn.Buffer(torch.zeros(grid))  # usual anomaly of each place
        self.steady, self.jerky, self.strange = RangeScaler(), RangeScaler(), RangeScaler()
        self.whole, self.first = RangeScaler(), RangeScaler()

    def forward(self, maps: ScoreMaps) -> Tensor:
        moving = torch.maximum(self.whole(self._sum(maps)), self.jerky(maps.jerky - self.limits) - _JERKY_OFFSET)
        # The mean of n frames has a standard error of 1 / sqrt(n): values above the median count less in the first frames.
        shrunk = torch.minimum(moving, moving * maps.observed.sqrt())
        return torch.where(maps.observed > 0.0, shrunk, self.first(self._above_usual(maps)))

    def _sum(self, maps: ScoreMaps) -> Tensor:
        steady: Tensor = self.steady(maps.steady / self.usual)
        anomaly: Tensor = self.strange(self._above_usual(maps))
        return steady + anomaly

    def _above_usual(self, maps: ScoreMaps) -> Tensor:
        return maps.anomaly - self.always

    @torch.no_grad()
    def fit(self, train: Iterable[ScoreMaps], validation: Iterable[ScoreMaps], first: Iterable[ScoreMaps]) -> None:
        """Fit to score maps of training footage, of validation footage, and of validation frames taken as first frames."""
        speeds, jerky, anomaly = SpeedHistogram(len(self.usual)), [], []
        for maps in train:
            for speed in maps.steady.numpy():
                speeds.add(speed, speed > _MOVING_PX)
            jerky.append(maps.jerky.half().numpy())
            anomaly.append(maps.anomaly.half().numpy())
        self.usual.copy_(torch.from_numpy(speeds.fit_line().row_speeds(tuple(self.limits.shape))))
        self.limits.copy_(torch.from_numpy(_limits(np.concatenate(jerky))))
        self.always.copy_(torch.from_numpy(np.median(np.concatenate(anomaly), axis=0).astype(np.float32)))
        held_out = list(validation)
        self.steady.fit([maps.steady / self.usual for maps in held_out])
        self.jerky.fit([maps.jerky - self.limits for maps in held_out])
        self.strange.fit([self._above_usual(maps) for maps in held_out])
        self.whole.fit([self._sum(maps) for maps in held_out])
        self.first.fit([self._above_usual(maps) for maps in first])


@torch.no_grad()
def score_footage(score_maps: ScoreMapsFunction, clips: ClipDataset, state_shape: tuple[int, ...]) -> Iterator[ScoreMaps]:
    """Score maps of every frame but the first of segments of the footage, several segments in parallel."""
    segments = sorted(_segments(clips), key=len, reverse=True)
    for group in (segments[first : first + _PARALLEL_SEGMENTS] for first in range(0, len(segments), _PARALLEL_SEGMENTS)):
        state = torch.zeros((len(group), *state_shape))
        for number in range(len(group[0])):
            running = [segment for segment in group if number < len(segment)]
            frames = torch.from_numpy(np.stack([segment[number : number + 1] for segment in running]))
            maps, state = score_maps(frames, state[: len(running)])
            if number:
                yield maps


@torch.no_grad()
def score_first_frames(score_maps: ScoreMapsFunction, clips: ClipDataset, state_shape: tuple[int, ...]) -> Iterator[ScoreMaps]:
    """Score maps of evenly spaced frames, each taken as its camera's first."""
    for batch in clips.evenly_spaced(_FIRST_FRAMES, _PARALLEL_SEGMENTS):
        yield score_maps(torch.from_numpy(batch), torch.zeros((len(batch), *state_shape)))[0]


def _segments(clips: ClipDataset) -> list[NDArray[np.uint8]]:
    videos = [video.frames for video in clips.footage]
    cut = [video[first : first + _SEGMENT_FRAMES] for video in videos for first in range(0, len(video), _SEGMENT_FRAMES)]
    count = min(len(cut), MAX_FRAMES // _SEGMENT_FRAMES) if sum(map(len, cut)) > MAX_FRAMES else len(cut)
    return [cut[number] for number in np.linspace(0, len(cut) - 1, count).astype(int)]


def _limits(jerky: NDArray[np.float16]) -> NDArray[np.float32]:
    quantiles = np.quantile(jerky, _LIMIT_QUANTILE, axis=0).astype(np.float32)
    side = 2 * _DILATION_CELLS + 1  # of all places within 40 pixels, the largest
    return np.asarray(cv2.dilate(quantiles, np.ones((side, side), np.uint8)), np.float32)
