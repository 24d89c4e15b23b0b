"""The score scale of the video model: what a profile holds, how it turns score maps into a heat map, and how it is fitted.

Usual speeds of rows and the usual anomaly of each place come from training footage, their normal ranges from validation footage:
training footage looks less anomalous than anything will ever again. No network is trained on backgrounds and dwells, so that they
and their range come from all of it (:mod:`trainer.models.video_ede.places`).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deploy import profile_learning, score_maps
from deploy.dwell import REFERENCES
from deploy.profile_learning import LEAST_SPEED, TAIL_RATE, Maxima, Normal
from deploy.score_maps import place_grid
from trainer.data.clips import LEAD_FRAMES, ClipDataset
from trainer.data.footage import Footage
from trainer.models.video_ede.dwell import Background
from trainer.models.video_ede.places import UsualPlaces

# 0.8^64 is less than a millionth, the rounding of published scores: a restart must not change a decision.
WARMUP_FRAMES = LEAD_FRAMES
MAX_FRAMES = profile_learning.MAX_MAXIMA  # frames of either kind of footage that are scored, at most

_SEGMENT_FRAMES = 256
_PARALLEL_SEGMENTS = 8
_FIRST_FRAMES = 256


class ScoreMaps(NamedTuple):
    """The parts of the score as maps (N, h, w), see :class:`deploy.score_maps.ScoreMaps`."""

    steady: Tensor
    anomaly: Tensor
    observed: Tensor
    dwell: Tensor
    light: Tensor  # (N, 1, 1): 0 or 1

    def numpy(self) -> score_maps.ScoreMaps:
        steady, anomaly, observed, dwell, light = (each.numpy() for each in self)
        return score_maps.ScoreMaps(steady, anomaly, observed, dwell, light[:, 0, 0].astype(np.intp))


ScoreMapsFunction = Callable[[Tensor, Tensor], tuple[ScoreMaps, Tensor]]
"""uint8 frames (N, 1, H, W, 1) and state to score maps and next state."""


class Range(NamedTuple):
    """Median, and distance from it to the 99 % quantile, of the frame maxima of normal maps."""

    median: Tensor  # (N, 1, 1)
    spread: Tensor  # (N, 1, 1), above 0

    def scale(self, maps: Tensor) -> Tensor:
        """Maps (N, h, w) in units of the range: normal maxima have the median 0 and the 99 % quantile 1."""
        return (maps - self.median) / self.spread


class Ranges(NamedTuple):
    """Normal ranges, see :class:`deploy.profile_learning.Ranges`."""

    speed: Range  # of the logarithm
    anomaly: Range
    dwell: Range
    joint: Range  # of the three together
    first: Range  # of the anomaly of a camera's first frame


class CameraNormal(NamedTuple):
    """The content of profiles: what is normal at each clip's camera."""

    anomaly: Tensor  # (N, h, w): usual log-odds of an anomaly at each place beyond those of 0.4, 0 where they are less
    dwell: Tensor  # (N, h, w): usual dwell of each place
    speed: Tensor  # (N, h, 1): usual steady speed of each row
    background: Background
    lights: Tensor  # (N, 2, 5, 2, 1, 1): median and spread of the Ranges in the light of each picture of the background

    def ranges(self, light: Tensor) -> Ranges:
        """The ranges in the light of each clip, (N, 1, 1)."""
        first, second = self.lights.unbind(1)
        own = torch.where(light[:, None, None] > 0.5, second, first)  # (N, 5, 2, 1, 1)
        return Ranges(*(Range(*each.unbind(1)) for each in own.unbind(1)))


def unpack_profile(profile: Tensor, grid: tuple[int, int]) -> CameraNormal:
    """The content of profiles (N, P), see :class:`deploy.profile_learning.Normal`."""
    (height, width), places = grid, place_grid(grid)
    sizes = [height * width, height * width, height] + [REFERENCES * places[0] * places[1]] * 2
    anomaly, dwelt, speed, pictures, differences, rest = torch.split(profile, [*sizes, profile.shape[1] - sum(sizes)], dim=1)
    pictures, differences = (part.reshape(-1, REFERENCES, *places) for part in (pictures, differences))
    background = Background(pictures, differences, rest[:, :1, None, None])
    lights = rest[:, 1:].reshape(-1, REFERENCES, len(Ranges._fields), len(Range._fields), 1, 1)
    return CameraNormal(anomaly.reshape(-1, *grid), dwelt.reshape(-1, *grid), speed[:, :, None], background, lights)


def heat_map(maps: ScoreMaps, normal: CameraNormal) -> Tensor:
    """Heat map (N, h, w) of score maps: normal frames' maxima have the median 0 and the 99 % quantile 1.

    A camera's first frame has only the anomaly. Where it is always high it is lowered: a corner that is never understood would
    be the maximum of every frame.
    """
    ranges = normal.ranges(maps.light)
    moving = ranges.joint.scale(_joint(maps, normal, ranges))
    # The mean of n frames has a standard error of 1 / sqrt(n): values above the median count less in the first frames.
    shrunk = torch.minimum(moving, moving * maps.observed.sqrt())
    return torch.where(maps.observed > 0.0, shrunk, ranges.first.scale(maps.anomaly - normal.anomaly))


def fit_profile(
    train: Iterable[ScoreMaps], validation: Iterable[ScoreMaps], first: Iterable[ScoreMaps], places: UsualPlaces
) -> Tensor:
    """The profile (P,) of score maps of training footage, of validation footage, and of validation frames taken as first ones."""
    for maps in train:
        places.maps.add(maps.numpy())
    unscaled = Normal.without_ranges(places.maps, places.background, places.dwell_step)
    held_out, firsts = ([maps.numpy() for maps in each] for each in (validation, first))
    ranges = unscaled.with_ranges(Maxima.joined(map(unscaled.part_maxima, held_out)), places.unusual_dwells())
    normal = ranges.with_joint_ranges(Maxima.joined(map(ranges.joint_maxima, held_out)))
    first_parts = Maxima.joined(map(unscaled.part_maxima, firsts))
    return torch.from_numpy(normal.with_first_ranges(first_parts._replace(values=first_parts.values[1:2])).values())


def _joint(maps: ScoreMaps, normal: CameraNormal, ranges: Ranges) -> Tensor:
    """The three parts together, see :meth:`deploy.profile_learning.Normal.joint`."""
    speed = torch.log(torch.clamp(maps.steady / normal.speed, min=LEAST_SPEED))
    parts = (
        ranges.speed.scale(speed),
        ranges.anomaly.scale(maps.anomaly - normal.anomaly),
        ranges.dwell.scale(maps.dwell - normal.dwell),
    )
    stacked = torch.stack(parts)  # (3, N, h, w)
    largest = stacked.amax(dim=0)
    return largest + torch.log(torch.exp(TAIL_RATE * (stacked - largest)).sum(dim=0)) / TAIL_RATE


@torch.no_grad()
def score_footage(score_maps: ScoreMapsFunction, clips: ClipDataset, state_shape: tuple[int, ...]) -> Iterator[ScoreMaps]:
    """Score maps of the frames of segments of the footage, several segments in parallel.

    The frames before a segment build up its state; where there are none, its first frame has no maps.
    """
    segments = sorted(_segments(clips), key=lambda segment: len(segment.frames), reverse=True)
    for group in (segments[first : first + _PARALLEL_SEGMENTS] for first in range(0, len(segments), _PARALLEL_SEGMENTS)):
        state = torch.zeros((len(group), *state_shape))
        for number in range(len(group[0].frames)):
            running = [segment for segment in group if number < len(segment.frames)]
            frames = torch.from_numpy(np.stack([segment.frames[number : number + 1] for segment in running]))
            maps, state = score_maps(frames, state[: len(running)])
            counting = torch.tensor([number >= segment.lead for segment in running])
            if counting.any():
                yield ScoreMaps(*(part[counting] for part in maps))


@torch.no_grad()
def score_first_frames(score_maps: ScoreMapsFunction, clips: ClipDataset, state_shape: tuple[int, ...]) -> Iterator[ScoreMaps]:
    """Score maps of evenly spaced frames, each taken as its camera's first."""
    for batch in clips.evenly_spaced(_FIRST_FRAMES, _PARALLEL_SEGMENTS):
        yield score_maps(torch.from_numpy(batch), torch.zeros((len(batch), *state_shape)))[0]


class _Segment(NamedTuple):
    """Consecutive frames, (n, H, W, C), of which the first ``lead`` build up the state alone."""

    frames: NDArray[np.uint8]
    lead: int


def _segments(clips: ClipDataset) -> list[_Segment]:
    cut = [segment for video in clips.footage for segment in _cut(video)]
    frames = sum(len(segment.frames) - segment.lead for segment in cut)
    count = min(len(cut), MAX_FRAMES // _SEGMENT_FRAMES) if frames > MAX_FRAMES else len(cut)
    return [cut[number] for number in np.linspace(0, len(cut) - 1, count).astype(int)]


def _cut(video: Footage) -> Iterator[_Segment]:
    for first in range(0, len(video.frames), _SEGMENT_FRAMES):
        frames, lead = video.part(first, first + _SEGMENT_FRAMES, WARMUP_FRAMES)
        yield _Segment(frames, max(1, lead))
