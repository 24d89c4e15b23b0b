"""How fast normal things are at each row of the picture: far away everything is slower.

Where normal values end: a 99 % quantile that few frames can give without being at the mercy of one strange moment.

The quantile is read where at least ``TAIL_FRAMES`` values lie above it, and carried on to 99 % as an exponential tail would
go on: there the distance above the median grows with the logarithm of the period. How sure that is follows from the stretches
in which the values above come: frames of one stretch show one thing and count once (declustering, in the statistics of extremes).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TAIL_FRAMES = 20
"""Two seconds of footage: half of them may be one strange moment, and the other half still speaks for the tail."""

_LOWEST_LEVEL = 0.75  # further down the middle of the values decides, not their tail


class NormalTail(NamedTuple):
    """Median and 99 % quantile of normal values."""

    median: float
    q99: float
    error: float
    """Standard error of ``q99 - median``, as a share of it."""

    def return_level(self, period: float) -> float:
        """The value that one normal frame in ``period`` passes, if the tail is exponential."""
        return self.median + (self.q99 - self.median) * float(np.log(period / 2.0) / np.log(50.0))


def normal_tail(values: NDArray[np.float32]) -> NormalTail:
    """The tail of the values of normal frames in the order of time, float32 (N,) with N > 0."""
    level = float(np.clip(1.0 - TAIL_FRAMES / len(values), _LOWEST_LEVEL, 0.99))
    median, high = (float(value) for value in np.quantile(values, (0.5, level), method="inverted_cdf"))
    # The median is passed by one in 2, the level by one in 1 / (1 - level), q99 by one in 100.
    height = float(np.log(0.5 / (1.0 - level)))
    q99 = median + (high - median) * float(np.log(50.0)) / height
    # Of n exponential values the k-th largest lies above their median by the sum of 1 / j, j from k to n / 2, with a variance of
    # the sum of 1 / j ** 2, about 1 / k - 2 / n (Renyi's representation); here stretches are counted in place of k.
    error = float(np.sqrt((2.0 * level - 1.0) / _stretches(values > high))) / height
    return NormalTail(median, q99, error)


def _stretches(above: NDArray[np.bool_]) -> int:
    """How often the values rise above; at least 1."""
    return max(1, int(np.count_nonzero(above[1:] & ~above[:-1])) + int(above[0]))


_QUANTILE = 0.9
_STEPS_A_CELL = 128
_FASTEST_CELLS = 32
_STEPS = _STEPS_A_CELL * _FASTEST_CELLS
_LEAST_SHARE = 0.25
_LEAST_CELLS = 1e-3


@dataclass(frozen=True, slots=True)
class SpeedLine:
    """A straight line over the rows, in cells a frame."""

    intercept: float
    slope: float
    rows: int

    def row_speeds(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """At the middle of each window row of a map of ``shape`` (h, w): float32 (h, 1), at least a quarter of the largest."""
        middles = np.arange(shape[0]) + (self.rows - shape[0]) / 2
        line = np.asarray(self.intercept + self.slope * middles, np.float32)[:, None]
        return np.maximum(line, max(line.max() * np.float32(_LEAST_SHARE), np.float32(_LEAST_CELLS)))


class SpeedHistogram:
    """Counts foreground cells by row and speed, so that quantiles need no list of all of them."""

    def __init__(self, rows: int) -> None:
        self._counts = np.zeros((rows, _STEPS), np.int64)

    def add(self, speed: NDArray[np.float32], foreground: NDArray[np.bool_]) -> None:
        """Count one frame's cells. ``speed``: float32 (h, w) in cells a frame; ``foreground``: bool (h, w)."""
        rows, columns = np.nonzero(foreground)
        steps = np.minimum(speed[rows, columns] * _STEPS_A_CELL, _STEPS - 1).astype(np.int64)
        self._counts += np.bincount(rows * _STEPS + steps, minlength=self._counts.size).reshape(self._counts.shape)

    def fit_line(self) -> SpeedLine:
        """Least squares through the 90 % quantile of each row, a row weighing as many cells as it had foreground."""
        cells = self._counts.sum(axis=1)
        if not cells.any():
            return SpeedLine(intercept=1.0, slope=0.0, rows=len(cells))
        rows = np.arange(len(cells))
        quantiles = np.argmax(self._counts.cumsum(axis=1) >= _QUANTILE * cells[:, None], axis=1) / _STEPS_A_CELL
        middle, usual = np.average(rows, weights=cells), np.average(quantiles, weights=cells)
        variance = np.average((rows - middle) ** 2, weights=cells)
        covariance = np.average((rows - middle) * (quantiles - usual), weights=cells)
        slope = covariance / variance if variance > 0 else 0.0
        return SpeedLine(intercept=float(usual - slope * middle), slope=float(slope), rows=len(cells))
