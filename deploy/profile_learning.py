"""Learns what is normal at a camera from the states that the video model returns, for profiles of kind ``video-ede``.

The background comes first; then usual speeds of rows, the usual anomaly and the usual dwell of each place; then the normal ranges
of these three, and the thresholds that each of them would need by itself; then the range of the three together, then thresholds.
``trainer`` feeds a network's maps, the service feeds the states of a camera while it watches it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.calibration import DEFAULT_BUDGET, Calibration, ScoredFrames, calibrate_scores, thresholds, with_peaks
from deploy.decision import DecisionTimes
from deploy.dwell import DWELL_S, REFERENCES, Background, Lights, Map, follow_background, lights_of
from deploy.score_maps import ScoreMaps, place_grid
from deploy.usual_maps import UsualMaps

MAX_MAXIMA: Final = 4096  # frames that set a range, at most

LEAST_SPEED: Final = 0.05
"""Relative to the usual speed of the row: slower things are all alike."""
TAIL_RATE: Final = float(np.log(50))
"""Of normal values beyond the median, one in ``exp(TAIL_RATE * x)`` lies x ranges beyond it, if they have an exponential tail."""
_MIN_SPREAD: Final = 1e-6
# A camera at which all things are as fast, or at which nothing ever stays, gives no range to measure by.
_MIN_SPEED_SPREAD, _MIN_DWELL_SPREAD = 0.1, 6.0 / DWELL_S
_DWELL_PLACES: Final = 0.98  # of all places; a few that flicker do not count
LEAST_OF_LIGHT: Final = 128
"""Frames in one light that tell its ranges: a few seconds show but one moment."""
_TAIL_FRAMES = 20  # two seconds of footage: if half of them are one unusual moment, the other half still shows the tail
_AROUND: Final = 2  # cells: 8 pixels
_MIN_LEVEL = 0.75  # a lower quantile would show the bulk of the values instead of their tail

Split = Callable[[Map], Sequence[ScoredFrames]]
"""Divides the values of all frames, (N,), where footage has gaps."""

Channel = Literal["speed", "appearance", "dwell"]
CHANNELS: Final[tuple[Channel, ...]] = ("speed", "appearance", "dwell")
"""The parts of the score: steady speed; looks and the way of moving, which the network judges; how long something stays."""


class Range(NamedTuple):
    """Median, and distance from it to the 99 % quantile, of the frame maxima of normal maps.

    In units of the range, normal maxima have the median 0 and the 99 % quantile 1.
    """

    median: float
    spread: float  # above 0

    def widened(self, factor: float) -> "Range":
        """With so many times the distance."""
        return Range(self.median, factor * self.spread)

    def at(self, units: float) -> float:
        """What so many units of the range are."""
        return self.median + units * self.spread


UNIT: Final = Range(0.0, 1.0)


class Ranges(NamedTuple):
    """The normal ranges at a camera in one light."""

    speed: Range = UNIT
    """Of the logarithm of speeds relative to the usual ones: the tail of speeds is a Pareto tail."""
    anomaly: Range = UNIT
    dwell: Range = UNIT
    joint: Range = UNIT
    """Of the three together."""
    first: Range = UNIT
    """Of the anomaly of a camera's first frame."""


_JOINT: Final = Ranges._fields.index("joint")


class Maxima(NamedTuple):
    """The largest values of normal frames in the order of time, and the light of each frame."""

    values: Map
    """(K, N): of K measures."""
    lights: Lights

    @classmethod
    def joined(cls, parts: "Iterable[Maxima]") -> "Maxima":
        """The maxima of frames that follow each other; ``parts``: one at least."""
        values, lights = zip(*parts, strict=True)
        return cls(np.concatenate(values, axis=-1), np.concatenate(lights))

    def in_light(self, light: int) -> Map:
        """The values in one light, (K, n); all if they are too few to tell a range."""
        own = self.values[:, self.lights == light]
        return own if own.shape[1] >= LEAST_OF_LIGHT else self.values


class Normal(NamedTuple):
    """The content of a profile: what is normal at a camera."""

    anomaly: Map
    """(h, w): usual log-odds of an anomaly at each place beyond those of 0.4, 0 where they are less."""
    dwell: Map
    """(h, w): dwell that one frame in twenty exceeds at each place, or beside it."""
    speed: Map
    """(h, 1): usual steady speed of each row."""
    background: Background
    dwell_step: float
    """See :func:`deploy.dwell.dwell_step`."""
    ranges: tuple[Ranges, ...] = (Ranges(),) * REFERENCES
    """In the light of each picture of the background: by night less happens than by day, and what is normal reaches less far."""

    @classmethod
    def without_ranges(cls, usual: UsualMaps, background: Background, dwell_step: float) -> "Normal":
        """At a camera with this background, of which nothing is known but what is usual."""
        return cls(usual.anomaly(), usual.dwell(), usual.speed(), background, dwell_step)

    def with_ranges(self, parts: Maxima, dwells: Maxima) -> "Normal":
        """With the ranges of :meth:`part_maxima` of normal frames, of dwells those of ``dwells``."""
        # Where things stay at some places every day, it says little that one stays at another.
        least_dwell = max(_MIN_DWELL_SPREAD, float(np.quantile(self.dwell, _DWELL_PLACES)))

        def ranges_in(light: int) -> Ranges:
            (speeds, anomalies, _), (own_dwells,) = parts.in_light(light), dwells.in_light(light)
            anomaly = _range(anomalies)
            return Ranges(_range(speeds, _MIN_SPEED_SPREAD), anomaly, _range(own_dwells, least_dwell), first=anomaly)

        return self._replace(ranges=tuple(map(ranges_in, range(REFERENCES))))

    def with_first_ranges(self, anomalies: Maxima) -> "Normal":
        """With the ranges of the anomalies of normal frames, each taken as a camera's first."""
        firsts = [_range(anomalies.in_light(light)[0]) for light in range(REFERENCES)]
        return self._replace(ranges=tuple(own._replace(first=first) for own, first in zip(self.ranges, firsts, strict=True)))

    def with_part_thresholds(self, needed: Map) -> "Normal":
        """With ranges so wide that 1 is the threshold that each part would need by itself, if that is more than 1 now.

        Tails differ: of one part a normal moment may reach three ranges, of another hardly one. Without this, the threshold of
        the three together would be that of the longest tail, and what the others show would have to rise as far.

        ``needed``: those thresholds in each light, in units of the ranges of speed, anomaly and dwell: (2, 3).
        """

        def widened(ranges: Ranges, own: Map) -> Ranges:
            speed, anomaly, dwell = (each.widened(max(1.0, float(by))) for each, by in zip(ranges[:3], own, strict=True))
            return ranges._replace(speed=speed, anomaly=anomaly, dwell=dwell)

        return self._replace(ranges=tuple(widened(*each) for each in zip(self.ranges, needed, strict=True)))

    def with_joint_ranges(self, joint: Maxima) -> "Normal":
        """With the ranges of :meth:`joint_maxima` of normal frames."""
        return self._with_joint(_range(joint.in_light(light)[0]) for light in range(REFERENCES))

    def with_joint_unscaled(self) -> "Normal":
        """With which the score is the three together before scaling."""
        return self._with_joint([UNIT] * REFERENCES)

    def with_joint_widened(self, factors: Map) -> "Normal":
        """With joint ranges so many times as wide: what scores 1 in a light scores 1 / factor then. ``factors``: (2,)."""
        return self._with_joint(own.joint.widened(float(factor)) for own, factor in zip(self.ranges, factors, strict=True))

    def _with_joint(self, joint: Iterable[Range]) -> "Normal":
        return self._replace(ranges=tuple(own._replace(joint=each) for own, each in zip(self.ranges, joint, strict=True)))

    @property
    def knows_one_light(self) -> bool:
        """Whether the ranges are those of one light: then there is room for a second one."""
        return self.ranges[0] == self.ranges[1]

    def lights_of(self, pictures: Map) -> Lights:
        """The light of each of some frames, reduced to places: (N, a, b)."""
        return np.zeros(len(pictures), np.intp) if self.knows_one_light else lights_of(pictures, self.background)

    def with_second_picture(self, background: Background) -> "Normal":
        """With the first picture of another background as the second one."""
        parts = zip(self.background, background, strict=True)
        return self._replace(background=Background(*(np.stack([own[0], other[0]]) for own, other in parts)))

    def with_second_light(self, other: "Normal") -> "Normal":
        """With the second light of another one of this camera: its picture, its ranges, and what is more usual in it."""
        own = self.with_second_picture(Background(*(part[1:] for part in other.background)))
        return own._replace(
            anomaly=np.maximum(self.anomaly, other.anomaly),
            dwell=np.maximum(self.dwell, other.dwell),
            ranges=(self.ranges[0], other.ranges[1]),
        )

    def with_usual(self, maps: ScoreMaps, shown: NDArray[np.bool_], most: float) -> "Normal":
        """With usual values so high that these maps score at most ``most`` in the cells ``shown``, (N, h, w), N > 0.

        The values of the cells around them rise as much, because nothing happens twice at the very same place. The ranges stay;
        those of the light that most of the frames are in count.
        """
        ranges = self.ranges[int(np.bincount(maps.light).argmax())]
        # The three together are at most this much more than the largest.
        limit = ranges.joint.at(most) - float(np.log(len(CHANNELS))) / TAIL_RATE
        steady, anomaly, dwell = (
            np.where(shown, part, np.float32(-np.inf)).max(axis=0) for part in (maps.steady, maps.anomaly, maps.dwell)
        )
        rows = steady.max(axis=1, keepdims=True) / np.float32(np.exp(ranges.speed.at(limit)))
        return self._replace(
            anomaly=np.maximum(self.anomaly, _spread(anomaly - np.float32(ranges.anomaly.at(limit)))),
            dwell=np.maximum(self.dwell, _spread(dwell - np.float32(ranges.dwell.at(limit)))),
            speed=np.maximum(self.speed, _spread(rows)),
        )

    @classmethod
    def from_values(cls, values: Map, grid: tuple[int, int]) -> "Normal":
        """What a profile's values, (P,), say is normal; values that precede that adapt the network."""
        cells, places = grid[0] * grid[1], place_grid(grid)
        reference = REFERENCES * places[0] * places[1]
        ends = np.cumsum([cells, cells, grid[0], reference, reference])
        anomaly, dwell, speed, pictures, differences, numbers = np.split(values[len(values) - normal_size(grid) :], ends)
        background = Background(*(part.reshape(REFERENCES, *places) for part in (pictures, differences)))
        lights = numbers[1:].reshape(REFERENCES, len(Ranges._fields), 2).tolist()
        ranges = tuple(Ranges(*(Range(*each) for each in own)) for own in lights)
        return cls(anomaly.reshape(grid), dwell.reshape(grid), speed[:, None], background, float(numbers[0]), ranges)

    def values(self) -> Map:
        """As the values of a profile, float32 (``normal_size``,)."""
        step, ranges = np.array([self.dwell_step], np.float32), np.array(self.ranges, np.float32)
        parts = (self.anomaly, self.dwell, self.speed, *self.background, step, ranges)
        return np.concatenate([part.ravel() for part in parts])

    def part_maxima(self, maps: ScoreMaps) -> Maxima:
        """Of N frames the largest speed, unusual anomaly and unusual dwell, before scaling: (3, N)."""
        return Maxima(self._parts(maps).max(axis=(2, 3)), maps.light)

    def parts(self, maps: ScoreMaps) -> Map:
        """Speed, anomaly and dwell of N frames in units of their normal ranges, (3, N, h, w)."""
        medians, spreads = self._ranges_of(maps.light)[..., None, None]  # (5, N, 1, 1) each
        scaled: Map = (self._parts(maps) - medians[:3]) / spreads[:3]
        return scaled

    def scaled_maxima(self, maps: ScoreMaps) -> Maxima:
        """Of N frames the largest speed, anomaly and dwell in units of their normal ranges: (3, N)."""
        return Maxima(self.parts(maps).max(axis=(2, 3)), maps.light)

    def leading_channel(self, maps: ScoreMaps) -> Channel:
        """The part that is largest in the first frame where the three together are."""
        return CHANNELS[int(self.scaled_maxima(maps).values[:, 0].argmax())]

    def joint_maxima(self, maps: ScoreMaps) -> Maxima:
        """Largest value of the three together, of N frames: (1, N)."""
        return Maxima(self.joint(maps).max(axis=(1, 2))[None], maps.light)

    def heat_maps(self, maps: ScoreMaps) -> Map:
        """Scores of the cells of frames from a camera's sixth on, (N, h, w)."""
        medians, spreads = self._ranges_of(maps.light)[:, _JOINT, :, None, None]  # (N, 1, 1) each
        scaled: Map = (self.joint(maps) - medians) / spreads
        return scaled

    def joint(self, maps: ScoreMaps) -> Map:
        """The three together, of N frames: (N, h, w).

        With the exponential tails of their ranges the parts are logarithms of p-values. They are joined as these are by their
        harmonic mean (Wilson, PNAS 2019), which holds however they depend on each other: nearly the largest, unless several
        are large.
        """
        parts = self.parts(maps)
        largest = parts.max(axis=0)
        joint = largest + np.log(np.exp(TAIL_RATE * (parts - largest)).sum(axis=0)) / np.float32(TAIL_RATE)
        return np.asarray(joint, np.float32)

    def scores(self, maps: ScoreMaps) -> Map:
        """Scores (N,) of frames from a camera's sixth on."""
        scores: Map = self.heat_maps(maps).max(axis=(1, 2))
        return scores

    def score_maxima(self, maps: ScoreMaps) -> Maxima:
        """:meth:`scores` and lights of N frames: (1, N)."""
        return Maxima(self.scores(maps)[None], maps.light)

    def _parts(self, maps: ScoreMaps) -> Map:
        """Speed, anomaly and dwell before scaling, (3, N, h, w)."""
        speed = np.log(np.maximum(maps.steady / self.speed, np.float32(LEAST_SPEED)))
        return np.stack([speed, maps.anomaly - self.anomaly, maps.dwell - self.dwell])

    def _ranges_of(self, lights: Lights) -> Map:
        """Medians and spreads of the ranges of N frames, (2, 5, N)."""
        return np.asarray(np.array(self.ranges, np.float32)[lights].transpose(2, 1, 0))


def thresholds_in_lights(maxima: Maxima, split: Split, times: DecisionTimes) -> Map:
    """The thresholds that each measure of ordinary frames would need by itself in each light, float32 (2, K).

    A light that is hardly seen has those of all frames. ``maxima``: NaN for a frame without a score.
    """
    of_all = np.ones(len(maxima.lights), np.bool_)
    masks = [maxima.lights == light for light in range(REFERENCES)]
    masks = [own if np.isfinite(maxima.values[:, own]).all(axis=0).sum() >= LEAST_OF_LIGHT else of_all for own in masks]
    return np.array(
        [
            [needed_threshold(calibrate_scores(split(np.where(own, values, np.nan)), times)) for values in maxima.values]
            for own in masks
        ],
        np.float32,
    )


def needed_threshold(calibration: Calibration) -> float:
    """The threshold that a measure needs by itself, in units of its range. The footage that set the range reached 1."""
    return thresholds(with_peaks(calibration, [1.0]), DEFAULT_BUDGET, calibration.times).enter


def light_factors(needed: Map) -> Map:
    """How many times as wide the joint range of each light must be for all to need the same threshold.

    ``needed``: the thresholds of the score, (2,); 1 at least, which footage that sets ranges reaches.
    """
    held = np.maximum(needed, np.float32(1.0))
    return np.asarray(held / held.min(), np.float32)


def _spread(cells: Map) -> Map:
    """The largest value around each cell of a map (h, w)."""
    padded = np.pad(cells, _AROUND, mode="edge")
    largest: Map = np.lib.stride_tricks.sliding_window_view(padded, (2 * _AROUND + 1,) * 2).max(axis=(2, 3))
    return largest


def follow_pictures(values: Map, grid: tuple[int, int], pictures: Map) -> Map:
    """A profile's values, (P,), with the background halfway to what some hours of ordinary pictures (N, a, b) show."""
    normal = Normal.from_values(values, grid)
    return replace_normal(values, grid, normal._replace(background=follow_background(normal.background, pictures)))


def replace_normal(values: Map, grid: tuple[int, int], normal: Normal) -> Map:
    """A profile's values, (P,), with something else as normal."""
    return np.concatenate([values[: len(values) - normal_size(grid)], normal.values()])


def normal_size(grid: tuple[int, int]) -> int:
    """Number of values of :class:`Normal` for maps of this size."""
    places = place_grid(grid)
    ranges = REFERENCES * len(Ranges._fields) * len(Range._fields)
    return 2 * grid[0] * grid[1] + grid[0] + 2 * REFERENCES * places[0] * places[1] + 1 + ranges


def _range(maxima: Map, least: float = _MIN_SPREAD) -> Range:
    tail = normal_tail(maxima)
    return Range(tail.median, max(tail.q99 - tail.median, least))


class NormalTail(NamedTuple):
    """Median and 99 % quantile of normal values."""

    median: float
    q99: float


def normal_tail(values: NDArray[np.float32]) -> NormalTail:
    """The tail of the values of normal frames in temporal order, float32 (N,) with N > 0.

    A 99 % quantile read from few frames would depend on one unusual moment. So the quantile is read where at least
    ``_TAIL_FRAMES`` values lie above it, and extrapolated to 99 % as an exponential tail: there the distance above the median
    grows with the logarithm of the return period.
    """
    level = float(np.clip(1.0 - _TAIL_FRAMES / len(values), _MIN_LEVEL, 0.99))
    median, high = (float(value) for value in np.quantile(values, (0.5, level), method="inverted_cdf"))
    # One value in 2 exceeds the median, one in 1 / (1 - level) the level, one in 100 q99.
    height = float(np.log(0.5 / (1.0 - level)))
    q99 = median + (high - median) * TAIL_RATE / height
    return NormalTail(median, q99)
