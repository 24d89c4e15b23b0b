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

from deploy import profile_learning
from deploy.profile_learning import SPEED_OFFSET, Normal, UsualMaps
from trainer.data.clips import ClipDataset

MAX_FRAMES = profile_learning.MAX_MAXIMA  # frames of either kind of footage that are scored, at most

_SEGMENT_FRAMES = 256
_PARALLEL_SEGMENTS = 8
_FIRST_FRAMES = 256


class ScoreMaps(NamedTuple):
    """The parts of the score as maps (N, h, w), see :class:`deploy.profile_learning.ScoreMaps`."""

    steady: Tensor
    anomaly: Tensor
    observed: Tensor

    def numpy(self) -> profile_learning.ScoreMaps:
        return profile_learning.ScoreMaps(*(maps.numpy() for maps in self))


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


def unpack_profile(profile: Tensor, grid: tuple[int, int]) -> CameraNormal:
    """The content of profiles (N, P), see :class:`deploy.profile_learning.Normal`."""
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


def fit_profile(
    train: Iterable[ScoreMaps], validation: Iterable[ScoreMaps], first: Iterable[ScoreMaps], grid: tuple[int, int]
) -> Tensor:
    """The profile (P,) of score maps of training footage, of validation footage, and of validation frames taken as first ones."""
    usual = UsualMaps(grid)
    for maps in train:
        usual.add(maps.numpy())
    unscaled = Normal(usual.anomaly(), usual.speed())
    held_out, firsts = ([maps.numpy() for maps in part] for part in (validation, first))
    ranges, first_ranges = (unscaled.with_ranges(_joined(map(unscaled.part_maxima, part))) for part in (held_out, firsts))
    normal = ranges.with_sum_range(_joined(map(ranges.sum_maxima, held_out)))
    return torch.from_numpy(normal._replace(first_range=first_ranges.anomaly_range).values())


def _joined(maxima: Iterable[profile_learning.Map]) -> profile_learning.Map:
    return np.concatenate(list(maxima), axis=-1)


def _sum(maps: ScoreMaps, normal: CameraNormal) -> Tensor:
    speed = normal.speed_range.scale(maps.steady / normal.speed)
    return normal.anomaly_range.scale(maps.anomaly - normal.anomaly) + softplus(speed - SPEED_OFFSET)


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
