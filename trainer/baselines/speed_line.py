"""How fast normal things are at each row of the picture: far away everything is slower."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_QUANTILE = 0.9
_STEPS_A_CELL = 128
_FASTEST_CELLS = 32
_STEPS = _STEPS_A_CELL * _FASTEST_CELLS
_LEAST_SHARE = 0.25
_LEAST_CELLS = 1e-3


@dataclass(frozen=True, slots=True)
class SpeedLine:
    """A straight line over the rows, in cells a frame."""

    at_top: float
    a_row: float
    rows: int

    def usual(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """At the middle of each window row of a map of ``shape`` (h, w): float32 (h, 1), at least a quarter of the largest."""
        middles = np.arange(shape[0]) + (self.rows - shape[0]) / 2
        line = np.asarray(self.at_top + self.a_row * middles, np.float32)[:, None]
        return np.maximum(line, max(line.max() * np.float32(_LEAST_SHARE), np.float32(_LEAST_CELLS)))


class SpeedCounts:
    """Counts foreground cells by row and speed, so that quantiles need no list of all of them."""

    def __init__(self, rows: int) -> None:
        self._counts = np.zeros((rows, _STEPS), np.int64)

    def add(self, speed: NDArray[np.float32], foreground: NDArray[np.bool_]) -> None:
        """Count one frame's cells. ``speed``: float32 (h, w) in cells a frame; ``foreground``: bool (h, w)."""
        rows, columns = np.nonzero(foreground)
        steps = np.minimum(speed[rows, columns] * _STEPS_A_CELL, _STEPS - 1).astype(np.int64)
        self._counts += np.bincount(rows * _STEPS + steps, minlength=self._counts.size).reshape(self._counts.shape)

    def line(self) -> SpeedLine:
        """Least squares through the 90 % quantile of each row, a row weighing as many cells as it had foreground."""
        cells = self._counts.sum(axis=1)
        if not cells.any():
            return SpeedLine(at_top=1.0, a_row=0.0, rows=len(cells))
        rows = np.arange(len(cells))
        quantiles = np.argmax(self._counts.cumsum(axis=1) >= _QUANTILE * cells[:, None], axis=1) / _STEPS_A_CELL
        middle, usual = np.average(rows, weights=cells), np.average(quantiles, weights=cells)
        variance = np.average((rows - middle) ** 2, weights=cells)
        covariance = np.average((rows - middle) * (quantiles - usual), weights=cells)
        slope = covariance / variance if variance > 0 else 0.0
        return SpeedLine(at_top=float(usual - slope * middle), a_row=float(slope), rows=len(cells))
