"""Counts of what is usual at a camera: speeds of rows, anomalies and dwells of places, in constant memory."""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deploy.dwell import Map
from deploy.score_maps import ScoreMaps, place_grid, to_cells

_MOVING_PX: Final = 0.25
_SPEED_BINS: Final = 32  # per pixel
# In scenes that a network was trained on, no place has a usual probability above 0.35, and subtracting that spoils the order.
UNDERSTOOD: Final = math.log(0.4 / 0.6)
"""Log-odds of an anomaly up to which a place is understood: of a probability of 0.4."""
_ANOMALY_BINS: Final = 61  # the first one below UNDERSTOOD
_BIN: Final = 0.125  # up to log-odds of 7.1: a probability of 0.999
_DWELL_BINS: Final = 61  # one a second
_DWELL_QUANTILE: Final = 0.95  # in two minutes of footage one frame in a hundred would be one person who once stood there
_SPEED_QUANTILE = 0.9
_BINS_PER_CELL = 128
_MAX_SPEED = 32  # cells or pixels per frame; faster ones count in the last bin
_MIN_SHARE = 0.25
_MIN_CELLS = 1e-3


class UsualMaps:
    """Counts of the speeds of rows and of anomalies and dwells of places, in constant memory (1.4 MB for 66 x 88 cells)."""

    def __init__(
        self,
        grid: tuple[int, int],
        speeds: NDArray[np.int64] | None = None,
        anomalies: NDArray[np.uint16] | None = None,
        dwells: NDArray[np.uint16] | None = None,
    ) -> None:
        """Empty, or with earlier counts."""
        self._speeds = SpeedHistogram(grid[0], _SPEED_BINS, speeds)
        self._anomalies = np.zeros((_ANOMALY_BINS, *grid), np.uint16) if anomalies is None else anomalies
        self._dwells = np.zeros((_DWELL_BINS, *place_grid(grid)), np.uint16) if dwells is None else dwells

    def add(self, maps: ScoreMaps) -> None:
        """Count the speeds and anomalies of frames."""
        for steady, anomaly in zip(maps.steady, maps.anomaly, strict=True):
            self._speeds.add(steady, steady > _MOVING_PX)
            _count(self._anomalies, np.floor((anomaly - np.float32(UNDERSTOOD)) / _BIN) + 1)

    def add_dwells(self, dwells: Map) -> None:
        """Count the dwells of places of frames, means over windows, (N, a, b)."""
        for dwell in dwells:
            _count(self._dwells, np.ceil(dwell * (_DWELL_BINS - 1)))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The counts, by the names of the constructor's arguments."""
        return {"speeds": self._speeds.counts, "anomalies": self._anomalies, "dwells": self._dwells}

    def anomaly(self) -> Map:
        """The median of each place beyond :data:`UNDERSTOOD`, float32 (h, w); 0 where it is less."""
        counts = self._anomalies.astype(np.int64)
        before = counts.cumsum(axis=0)
        half = (before[-1:] + 1) // 2
        bins = np.argmax(before >= half, axis=0)[None]  # (1, h, w)
        within, inside = (np.take_along_axis(each, bins, axis=0)[0] for each in (before, counts))
        share = 1.0 - (within - half[0]) / np.maximum(inside, 1)
        return np.where(bins[0] > 0, (bins[0] - 1 + share) * _BIN, 0.0).astype(np.float32)

    def dwell(self) -> Map:
        """The dwell that one frame in twenty exceeds at each place or at one of its neighbours, float32 (h, w)."""
        before = self._dwells.cumsum(axis=0, dtype=np.int64)
        usual = np.argmax(before >= _DWELL_QUANTILE * before[-1:], axis=0) / np.float32(_DWELL_BINS - 1)
        padded = np.pad(usual, 1, mode="edge")
        largest = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).max(axis=(2, 3))
        return to_cells(largest.astype(np.float32))

    def speed(self) -> Map:
        """The usual speed of each row, float32 (h, 1)."""
        return self._speeds.fit_line().row_speeds(self._anomalies.shape[1:])


def _count(counts: NDArray[np.uint16], bins: Map) -> None:
    """Count each place (h, w) in its bin of (bins, h, w); what lies outside counts in the first or the last."""
    chosen = np.clip(bins, 0, len(counts) - 1).astype(np.intp)
    counts[chosen, *np.indices(chosen.shape)] += 1


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
