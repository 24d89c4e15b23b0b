"""Statistics of normal footage: the tail of its scores, and the normal speed of objects at each row of the picture.

A 99 % quantile read from few frames would depend on one unusual moment. So the quantile is read where at least ``_TAIL_FRAMES``
values lie above it, and extrapolated to 99 % as an exponential tail: there the distance above the median grows with the logarithm
of the return period.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_TAIL_FRAMES = 20  # two seconds of footage: if half of them are one unusual moment, the other half still shows the tail
_MIN_LEVEL = 0.75  # a lower quantile would show the bulk of the values instead of their tail

_SPEED_QUANTILE = 0.9
_BINS_PER_CELL = 128
_MAX_SPEED = 32  # cells or pixels per frame; faster ones count in the last bin
_MIN_SHARE = 0.25
_MIN_CELLS = 1e-3


class NormalTail(NamedTuple):
    """Median and 99 % quantile of normal values."""

    median: float
    q99: float


def normal_tail(values: NDArray[np.float32]) -> NormalTail:
    """The tail of the values of normal frames in temporal order, float32 (N,) with N > 0."""
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
