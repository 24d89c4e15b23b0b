"""The geometry of a fixed camera above level ground: where points of the world are in its picture, and the reverse.

World coordinates are metres: right, forward along the ground, and up; the camera is above the origin.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

_PERSON_M = 1.7
_SIZES = ((480, 270), (480, 270), (432, 288), (384, 288))  # width and height in pixels: 16:9 twice, 3:2 and 4:3


@dataclass(frozen=True, slots=True)
class Pinhole:
    """A camera without distortion that looks forward and ``tilt`` radians down."""

    width_px: int
    height_px: int
    focal_px: float
    height_m: float
    tilt: float

    def project(self, points: Floats) -> tuple[Floats, Floats]:
        """Pixels (..., 2) across and down, and depths (...) along the line of sight in metres, of points (..., 3)."""
        right, forward, up = points[..., 0], points[..., 1], points[..., 2] - self.height_m
        depth = np.maximum(forward * np.cos(self.tilt) - up * np.sin(self.tilt), 0.2)
        down = -forward * np.sin(self.tilt) - up * np.cos(self.tilt)
        scale = self.focal_px / depth
        return np.stack([self.width_px / 2 + right * scale, self.height_px / 2 + down * scale], axis=-1), depth

    def rays(self, across: Floats, down: Floats) -> tuple[Floats, Floats, Floats]:
        """Directions right, forward and up of the lines of sight through pixels; forward has the length 1."""
        right, below = (across - self.width_px / 2) / self.focal_px, (down - self.height_px / 2) / self.focal_px
        forward = np.cos(self.tilt) - below * np.sin(self.tilt)
        return right / forward, np.ones_like(right), (-np.sin(self.tilt) - below * np.cos(self.tilt)) / forward

    def ground(self, across: float, down: float) -> Floats:
        """The point of the ground (2,) at a pixel below the horizon."""
        right, _, up = self.rays(np.array([across]), np.array([down]))
        distance = self.height_m / -up[0]
        return np.array([right[0] * distance, distance])

    def half_width_m(self, forward_m: float) -> float:
        """Half of the width of ground in the picture, so far away."""
        return self.width_px / 2 / self.focal_px * float(np.hypot(forward_m, self.height_m))

    @property
    def nearest_m(self) -> float:
        """How far forward the ground begins at the lower edge of the picture."""
        return float(self.ground(self.width_px / 2, self.height_px)[1])


def random_view(rng: Generator, indoors: bool) -> Pinhole:
    """A view in which somebody in the middle of the picture is a sixth to a third of its height."""
    width_px, height_px = _SIZES[int(rng.integers(len(_SIZES)))]
    focal_px = width_px / (2 * np.tan(np.radians(rng.uniform(46, 66)) / 2))
    height_m = rng.uniform(2.8, 4.2) if indoors else rng.uniform(3.5, 8.0)
    distance_m = focal_px * _PERSON_M / (height_px * rng.uniform(0.17, 0.3))
    return Pinhole(width_px, height_px, float(focal_px), height_m, float(np.arctan2(height_m - 0.9, distance_m)))
