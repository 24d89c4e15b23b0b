"""Averages carried along with what moves, so that a person's own speed is averaged, not that of the places passed."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

_NEWEST_SHARE = 0.2
_FIRST_VARIANCE = 0.3**2


class Averages(NamedTuple):
    """Of what is seen at each place, in cells of the grid a frame."""

    velocity: NDArray[np.float32]
    """Mean, float32 (h, w, 2), x first."""
    variance: NDArray[np.float32]
    """Of the velocity, both directions together: float32 (h, w)."""
    age: NDArray[np.float32]
    """Frames since it entered the picture, float32 (h, w)."""

    @property
    def speed(self) -> NDArray[np.float32]:
        """Length of the mean velocity, float32 (h, w)."""
        return np.hypot(self.velocity[..., 0], self.velocity[..., 1])

    @property
    def spread(self) -> NDArray[np.float32]:
        """Standard deviation of the velocity, float32 (h, w)."""
        return np.sqrt(self.variance)


def first_averages(backward: NDArray[np.float32]) -> Averages:
    """Of what is seen for the first time. ``backward``: flow to the frame before, float32 (h, w, 2), in cells a frame."""
    shape = backward.shape[:2]
    return Averages(-backward, np.full(shape, _FIRST_VARIANCE, np.float32), np.ones(shape, np.float32))


def next_averages(last: Averages, backward: NDArray[np.float32]) -> Averages:
    """Carry ``last`` along the flow and take the newest velocity in; what comes from outside the picture begins anew."""
    height, width = backward.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    from_x, from_y = columns + backward[..., 0], rows + backward[..., 1]
    carried = _carried(last, from_x, from_y)
    age = carried.age + 1
    share = np.maximum(np.float32(_NEWEST_SHARE), 1 / (age + 1))
    deviation = -backward - carried.velocity
    variance = (1 - share) * (carried.variance + share * np.square(deviation).sum(axis=-1))
    updated = Averages(carried.velocity + share[..., None] * deviation, variance, age)
    outside = (np.abs(from_x - (width - 1) / 2) > (width - 1) / 2) | (np.abs(from_y - (height - 1) / 2) > (height - 1) / 2)
    return _chosen(outside, first_averages(backward), updated)


def _carried(last: Averages, from_x: NDArray[np.float32], from_y: NDArray[np.float32]) -> Averages:
    state = np.dstack([last.velocity, last.variance, last.age])
    moved = np.asarray(cv2.remap(state, from_x, from_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)
    return Averages(moved[..., :2], moved[..., 2], moved[..., 3])


def _chosen(first: NDArray[np.bool_], one: Averages, other: Averages) -> Averages:
    return Averages(
        np.where(first[..., None], one.velocity, other.velocity),
        np.where(first, one.variance, other.variance),
        np.where(first, one.age, other.age),
    )
