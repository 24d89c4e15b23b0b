"""The score scale of the video model: what a profile holds, how it turns score maps into a heat map, and how it is fitted.

Usual speeds of rows and the usual anomaly of each place come from training footage. The normal ranges come from validation
footage: training footage looks less anomalous than anything will ever again.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from trainer.data.clips import ClipDataset
from trainer.models.base import normal_range
from trainer.statistics import SpeedHistogram

MAX_FRAMES = 4096  # frames of either kind of footage that are scored, at most

_SEGMENT_FRAMES = 256
_PARALLEL_SEGMENTS = 8
_FIRST_FRAMES = 256
_MOVING_PX = 0.25
# Speed counts from twice its normal range on: nearer to it, speed spoils the order on cameras where people pass close by.
_SPEED_OFFSET = 2.0
# In scenes that a network was trained on, no place has a usual anomaly above 0.35, and subtracting that spoils the order.
_UNDERSTOOD = 0.4
_RANGES = 4


class ScoreMaps(NamedTuple):
    """The parts of the score, each in its own unit: maps (N, h, w)."""

    steady: Tensor  # mean speed minus a part of its standard deviation, pixels per frame
    anomaly: Tensor  # mean anomaly probability, 0 to 1
    observed: Tensor  # share of the averaging time that the camera has been observed: 0 at its first frame, 1 from the sixth on


ScoreMapsFunction = Callable[[Tensor, Tensor], tuple[ScoreMaps, Tensor]]
"""uint8 frames (N, 1, H, W, 1) and state to score maps and next state."""


class Range(NamedTuple):
    """Median, and distance from it to the 99 % quantile, of the frame maxima of normal maps."""

    median: Tensor  # (N, 1, 1)
    spread: Tensor  # (N, 1, 1), above 0

    def scale(self, maps: Tensor) -> Tensor:
        """Maps (N, h, w) in units of the range: normal maxima have the median 0 and the 99 % quantile 1."""
        return (maps - self.median) / self.spread


class CameraNormal(NamedTuple):
    """The content of profiles: what is normal at each clip's camera."""

    anomaly: Tensor  # (N, h, w): usual anomaly of each place beyond 0.4, 0 where it is less
    speed: Tensor  # (N, h, 1): usual steady speed of each row
    speed_range: Range
    anomaly_range: Range
    sum_range: Range  # of the sum of both
    first_range: Range  # of the anomaly of a camera's first frame


def profile_size(grid: tuple[int, int]) -> int:
    """Number of values of a profile for maps of this size."""
    return grid[0] * grid[1] + grid[0] + 2 * _RANGES


def unpack_profile(profile: Tensor, grid: tuple[int, int]) -> CameraNormal:
    """The content of profiles (N, P), see :func:`profile_size`."""
    places = grid[0] * grid[1]
    anomaly, speed, ranges = torch.split(profile, [places, grid[0], profile.shape[1] - places - grid[0]], dim=1)
    numbers = ranges[:, :, None, None].unbind(1)  # (N, 1, 1) each
    pairs = (Range(*numbers[first : first + 2]) for first in range(0, len(numbers), 2))
    return CameraNormal(anomaly.reshape(-1, *grid), speed[:, :, None], *pairs)


def heat_map(maps: ScoreMaps, normal: CameraNormal) -> Tensor:
    """Heat map (N, h, w) of score maps: normal frames' maxima have the median 0 and the 99 % quantile 1.

    The anomaly leads. Speed is added beyond twice its normal range only. A camera's first frame has only the anomaly. Where it
    is always high it is lowered: a corner that is never understood would be the maximum of every frame.
    """
    moving = normal.sum_range.scale(_sum(maps, normal))
    # The mean of n frames has a standard error of 1 / sqrt(n): values above the median count less in the first frames.
    shrunk = torch.minimum(moving, moving * maps.observed.sqrt())
    return torch.where(maps.observed > 0.0, shrunk, normal.first_range.scale(maps.anomaly - normal.anomaly))


@torch.no_grad()
def fit_profile(
    train: Iterable[ScoreMaps], validation: Iterable[ScoreMaps], first: Iterable[ScoreMaps], grid: tuple[int, int]
) -> Tensor:
    """The profile (P,) of score maps of training footage, of validation footage, and of validation frames taken as first ones."""
    speeds, anomaly = SpeedHistogram(grid[0]), []
    for maps in train:
        for speed in maps.steady.numpy():
            speeds.add(speed, speed > _MOVING_PX)
        anomaly.append(maps.anomaly.half().numpy())
    median = np.median(np.concatenate(anomaly), axis=0).astype(np.float32)  # (h, w)
    usual_anomaly = torch.from_numpy(np.maximum(median - _UNDERSTOOD, 0.0))
    usual_speed = torch.from_numpy(speeds.fit_line().row_speeds(grid))
    held_out = list(validation)
    steady = _range([maps.steady / usual_speed for maps in held_out])
    strange = _range([maps.anomaly - usual_anomaly for maps in held_out])
    # The last two are not known yet, and the sum does not need them.
    unscaled = CameraNormal(usual_anomaly[None], usual_speed[None], steady, strange, steady, strange)
    whole = _range([_sum(maps, unscaled) for maps in held_out])
    first_range = _range([maps.anomaly - usual_anomaly for maps in first])
    numbers = [value.reshape(1) for pair in (steady, strange, whole, first_range) for value in pair]
    return torch.cat([usual_anomaly.flatten(), usual_speed.flatten(), *numbers])


def _sum(maps: ScoreMaps, normal: CameraNormal) -> Tensor:
    speed = normal.speed_range.scale(maps.steady / normal.speed)
    return normal.anomaly_range.scale(maps.anomaly - normal.anomaly) + softplus(speed - _SPEED_OFFSET)


def _range(maps: list[Tensor]) -> Range:
    return Range(*(torch.tensor(value).reshape(1, 1, 1) for value in normal_range(maps)))


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
