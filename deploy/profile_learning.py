"""Learns what is normal at a camera from the states that the video model returns, for profiles of kind ``video-ede``.

Usual speeds of rows and the usual anomaly of each place come first; then the normal ranges of speed and anomaly, then that of
their sum, then thresholds: each from frames that the parts before it have not seen. ``trainer`` feeds a network's maps, the
service feeds the states of a camera while it watches it.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import Bundle
from deploy.errors import ProfileIncompatible

KIND: Final = "video-ede"
MAX_MAXIMA: Final = 4096  # frames that set a range, at most

_MOVING_PX: Final = 0.25
_SPEED_BINS: Final = 32  # per pixel
# Speed counts from twice its normal range on: nearer to it, speed spoils the order on cameras where people pass close by.
SPEED_OFFSET: Final = 2.0
# In scenes that a network was trained on, no place has a usual anomaly above 0.35, and subtracting that spoils the order.
_UNDERSTOOD: Final = 0.4
_ANOMALY_BINS: Final = 31  # the first one below _UNDERSTOOD
_BIN: Final = (1.0 - _UNDERSTOOD) / (_ANOMALY_BINS - 1)
_MIN_SPREAD: Final = 1e-6
_RANGES: Final = 4
_VELOCITY, _VARIANCE, _ANOMALY, _AGE = slice(-6, -4), -4, -3, -2  # channels of the state, the last one is ``started``
_FULL_AGE: Final = 5.0
_TINY: Final = 1e-6
_TAIL_FRAMES = 20  # two seconds of footage: if half of them are one unusual moment, the other half still shows the tail
_MIN_LEVEL = 0.75  # a lower quantile would show the bulk of the values instead of their tail
_SPEED_QUANTILE = 0.9
_BINS_PER_CELL = 128
_MAX_SPEED = 32  # cells or pixels per frame; faster ones count in the last bin
_MIN_SHARE = 0.25
_MIN_CELLS = 1e-3

Map = NDArray[np.float32]


class ScoreMaps(NamedTuple):
    """The parts of the score of frames, each in its own unit, float32 (N, h, w)."""

    steady: Map
    """Mean speed minus a part of its standard deviation, pixels per frame."""
    anomaly: Map
    """Mean anomaly probability, 0 to 1."""
    observed: Map
    """Share of the averaging time that the camera has been observed: 0 at its first frame, 1 from the sixth on."""


class Grid(NamedTuple):
    """What the maps of a network look like."""

    shape: tuple[int, int]  # (h, w)
    window: int
    steady_spreads: float

    @classmethod
    def of(cls, bundle: Bundle) -> "Grid":
        """Raises ProfileIncompatible for a model whose states show nothing to learn a profile from."""
        model, shape = bundle.manifest.model, bundle.spec.state_shape
        if model.kind != KIND or shape is None:
            raise ProfileIncompatible(f"{bundle.path}: cameras cannot be learned with a model of kind {model.kind}; use {KIND}")
        return cls((shape[1], shape[2]), int(model.config["window"]), float(model.config["steady_spreads"]))


class Range(NamedTuple):
    """Median, and distance from it to the 99 % quantile, of the frame maxima of normal maps."""

    median: float
    spread: float  # above 0

    def scale(self, maps: Map) -> Map:
        """Maps in units of the range: normal maxima have the median 0 and the 99 % quantile 1."""
        scaled: Map = (maps - np.float32(self.median)) / np.float32(self.spread)
        return scaled


_UNIT: Final = Range(0.0, 1.0)


class Normal(NamedTuple):
    """The content of a profile: what is normal at a camera."""

    anomaly: Map
    """(h, w): usual anomaly of each place beyond 0.4, 0 where it is less."""
    speed: Map
    """(h, 1): usual steady speed of each row."""
    speed_range: Range = _UNIT
    anomaly_range: Range = _UNIT
    sum_range: Range = _UNIT
    """Of the sum of both."""
    first_range: Range = _UNIT
    """Of the anomaly of a camera's first frame."""

    def with_ranges(self, maxima: Map) -> "Normal":
        """With the ranges of :meth:`part_maxima` of normal frames in the order of time, (2, N)."""
        speed, anomaly = map(_range, maxima)
        return self._replace(speed_range=speed, anomaly_range=anomaly, first_range=anomaly)

    def with_sum_range(self, maxima: Map) -> "Normal":
        """With the range of :meth:`sum_maxima` of normal frames in the order of time, (N,)."""
        return self._replace(sum_range=_range(maxima))

    @classmethod
    def from_values(cls, values: Map, grid: tuple[int, int]) -> "Normal":
        """The content of a profile's values."""
        places = grid[0] * grid[1]
        anomaly, speed, numbers = np.split(values, [places, places + grid[0]])
        ranges = (Range(float(median), float(spread)) for median, spread in numbers.reshape(-1, 2))
        return cls(anomaly.reshape(grid), speed[:, None], *ranges)

    def values(self) -> Map:
        """As the values of a profile, (h * w + h + 8,)."""
        numbers = np.array(self[2:], np.float32)
        return np.concatenate([self.anomaly.ravel(), self.speed.ravel(), numbers.ravel()])

    def part_maxima(self, maps: ScoreMaps) -> Map:
        """Largest speed in units of its row's usual one, and largest unusual anomaly, of N frames: (2, N)."""
        return np.stack([part.max(axis=(1, 2)) for part in self._parts(maps)])

    def sum_maxima(self, maps: ScoreMaps) -> Map:
        """Largest sum of anomaly, and of speed where it is far beyond its range, of N frames: (N,)."""
        speed, anomaly = self._parts(maps)
        beyond = np.logaddexp(self.speed_range.scale(speed) - np.float32(SPEED_OFFSET), 0)
        maxima: Map = (self.anomaly_range.scale(anomaly) + beyond).max(axis=(1, 2))
        return maxima

    def scores(self, maps: ScoreMaps) -> Map:
        """Scores (N,) of frames from a camera's sixth on."""
        return self.sum_range.scale(self.sum_maxima(maps))

    def _parts(self, maps: ScoreMaps) -> tuple[Map, Map]:
        return maps.steady / self.speed, maps.anomaly - self.anomaly


def normal_size(grid: tuple[int, int]) -> int:
    """Number of values of :class:`Normal` for maps of this size."""
    return grid[0] * grid[1] + grid[0] + 2 * _RANGES


class UsualMaps:
    """Counts of the speeds of each row and of the anomalies of each place, in constant memory (0.9 MB for 66 x 88 cells)."""

    def __init__(
        self, grid: tuple[int, int], speeds: NDArray[np.int64] | None = None, anomalies: NDArray[np.uint16] | None = None
    ) -> None:
        """Empty, or with earlier counts."""
        self._speeds = SpeedHistogram(grid[0], _SPEED_BINS, speeds)
        self._anomalies = np.zeros((_ANOMALY_BINS, *grid), np.uint16) if anomalies is None else anomalies
        self._cells = tuple(np.indices(grid))

    def add(self, maps: ScoreMaps) -> None:
        for steady, anomaly in zip(maps.steady, maps.anomaly, strict=True):
            self._speeds.add(steady, steady > _MOVING_PX)
            bins = np.clip(np.floor((anomaly - _UNDERSTOOD) / _BIN) + 1, 0, _ANOMALY_BINS - 1).astype(np.intp)
            self._anomalies[bins, *self._cells] += 1

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The counts, by the names of the constructor's arguments."""
        return {"speeds": self._speeds.counts, "anomalies": self._anomalies}

    def anomaly(self) -> Map:
        """The median of each place beyond 0.4, float32 (h, w); 0 where it is less."""
        counts = self._anomalies.astype(np.int64)
        before = counts.cumsum(axis=0)
        half = (before[-1:] + 1) // 2
        bins = np.argmax(before >= half, axis=0)[None]  # (1, h, w)
        within, inside = (np.take_along_axis(each, bins, axis=0)[0] for each in (before, counts))
        share = 1.0 - (within - half[0]) / np.maximum(inside, 1)
        return np.where(bins[0] > 0, (bins[0] - 1 + share) * _BIN, 0.0).astype(np.float32)

    def speed(self) -> Map:
        """The usual speed of each row, float32 (h, 1)."""
        return self._speeds.fit_line().row_speeds(self._anomalies.shape[1:])


def state_maps(state: Map, grid: Grid) -> ScoreMaps:
    """The score maps of frames, from the states (N, C, h, w) that the network returned with them."""
    speed = np.sqrt(np.square(state[:, _VELOCITY]).sum(axis=1) + _TINY)
    steady = speed - np.float32(grid.steady_spreads) * np.sqrt(state[:, _VARIANCE] + _TINY)
    observed = np.broadcast_to(state[:, _AGE].max(axis=(1, 2), keepdims=True) / np.float32(_FULL_AGE), steady.shape)
    return ScoreMaps(window_means(steady, grid.window), window_means(state[:, _ANOMALY], grid.window), observed)


def window_means(maps: Map, side: int) -> Map:
    """Means of maps (N, h, w) over windows that lie wholly inside; cells at the edge get the nearest one."""
    height, width = maps.shape[1] - side + 1, maps.shape[2] - side + 1
    across = reduce(np.add, [maps[:, :, first : first + width] for first in range(side)])  # (N, h, width)
    sums = reduce(np.add, [across[:, first : first + height] for first in range(side)])  # (N, height, width)
    before, after = (side - 1) // 2, side // 2
    return np.pad(sums / np.float32(side * side), ((0, 0), (before, after), (before, after)), mode="edge")


def _range(maxima: Map) -> Range:
    tail = normal_tail(maxima)
    return Range(tail.median, max(tail.q99 - tail.median, _MIN_SPREAD))


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
    q99 = median + (high - median) * float(np.log(50.0)) / height
    return NormalTail(median, q99)


@dataclass(frozen=True, slots=True)
class SpeedLine:
    """Normal speed as a linear function of the row, in cells per frame: distant objects move slower in the picture."""

    intercept: float
    """At row 0."""
    slope: float
    """Per row."""
    rows: int

    def row_speeds(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Normal speed at the middle of each window row of a map (h, w): float32 (h, 1), at least a quarter of the largest."""
        middles = np.arange(shape[0]) + (self.rows - shape[0]) / 2
        line = np.asarray(self.intercept + self.slope * middles, np.float32)[:, None]
        return np.maximum(line, max(line.max() * np.float32(_MIN_SHARE), np.float32(_MIN_CELLS)))


class SpeedHistogram:
    """A histogram of the speeds of foreground cells for each row, from which quantiles are taken in constant memory.

    ``counts``: int64 (rows, 32 * bins), to go on from an earlier one.
    """

    def __init__(self, rows: int, bins: int = _BINS_PER_CELL, counts: NDArray[np.int64] | None = None) -> None:
        self.counts = np.zeros((rows, _MAX_SPEED * bins), np.int64) if counts is None else counts
        self._bins = bins  # per unit of speed

    def add(self, speed: NDArray[np.float32], foreground: NDArray[np.bool_]) -> None:
        """Add one frame. ``speed``: float32 (h, w) in cells per frame; ``foreground``: bool (h, w)."""
        rows, columns = np.nonzero(foreground)
        width = self.counts.shape[1]
        bins = np.minimum(speed[rows, columns] * self._bins, width - 1).astype(np.int64)
        np.add.at(self.counts, (rows, bins), 1)

    def fit_line(self) -> SpeedLine:
        """Least squares line through the 90 % quantiles of the rows, weighted by their foreground cells."""
        cells = self.counts.sum(axis=1)
        if not cells.any():
            return SpeedLine(intercept=1.0, slope=0.0, rows=len(cells))
        rows = np.arange(len(cells))
        quantiles = np.argmax(self.counts.cumsum(axis=1) >= _SPEED_QUANTILE * cells[:, None], axis=1) / self._bins
        mean_row, mean_speed = np.average(rows, weights=cells), np.average(quantiles, weights=cells)
        variance = np.average((rows - mean_row) ** 2, weights=cells)
        covariance = np.average((rows - mean_row) * (quantiles - mean_speed), weights=cells)
        slope = covariance / variance if variance > 0 else 0.0
        return SpeedLine(intercept=float(mean_speed - slope * mean_row), slope=float(slope), rows=len(cells))
