"""Where things are: in the picture of a fixed camera above level ground, and on the ground over time.

World coordinates are metres: right, forward along the ground, and up; the camera is above the origin.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

_PERSON_M = 1.7
_STEP_S = 0.2  # between the points of a track
_TURN_S = 0.5  # over which a heading is smoothed
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


# --- Tracks: along routes at natural speeds, alone and in groups, waiting and turning back


@dataclass(frozen=True, slots=True)
class Track:
    """Positions on the ground over time."""

    start_s: float
    points: Floats  # (n, 2) metres, a fifth of a second apart
    travelled_m: Floats  # (n,)

    @property
    def end_s(self) -> float:
        return self.start_s + (len(self.points) - 1) * _STEP_S

    def position(self, time_s: float) -> Floats:
        """The position (2,) in metres; before its begin and after its end that of the nearest time."""
        return np.asarray(self._between(self.points, time_s))

    def distance(self, time_s: float) -> float:
        """Metres travelled."""
        return float(self._between(self.travelled_m, time_s))

    def _between(self, values: Floats, time_s: float) -> Any:
        step = min(max((time_s - self.start_s) / _STEP_S, 0.0), len(values) - 1.000001)
        before = int(step)
        return values[before] + (values[before + 1] - values[before]) * (step - before)

    def speed(self, time_s: float) -> float:
        """Metres per second."""
        return (self.distance(time_s + _TURN_S / 2) - self.distance(time_s - _TURN_S / 2)) / _TURN_S

    def heading(self, time_s: float) -> float:
        """The direction of the last and next steps, in radians."""
        for reach_s in (_TURN_S, 2.0, 30.0):  # who waits looks where they came from
            right, forward = self.position(min(time_s + reach_s / 2, self.end_s)) - self.position(
                max(time_s - reach_s, self.start_s)
            )
            if np.hypot(right, forward) > 0.05:
                return float(np.arctan2(forward, right))
        return 0.0


def make_track(start_s: float, points: Sequence[Floats]) -> Track:
    """A track of points a fifth of a second apart."""
    line = np.asarray(points, np.float64)
    steps = np.linalg.norm(np.diff(line, axis=0), axis=1)
    return Track(start_s, line, np.concatenate([[0.0], np.cumsum(steps)]))


def follow(route: Floats, speed_m_s: float, aside_m: float, rng: Generator) -> list[Floats]:
    """Points along a route (n, 2), a fifth of a second apart, at an uneven speed and somewhat beside it."""
    route = _smooth(route)
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(route, axis=0), axis=1))])
    count = max(3, int(lengths[-1] / (speed_m_s * _STEP_S)))
    drift = np.cumsum(rng.normal(0, 0.02, count)) * np.sin(np.linspace(0, np.pi, count))
    pace = np.clip(1 + np.convolve(rng.normal(0, 0.12, count + 8), np.ones(9) / 9, "valid"), 0.7, 1.3)
    travelled = np.clip(np.cumsum(pace) / pace.sum() * lengths[-1], 0, lengths[-1])
    along = np.stack([np.interp(travelled, lengths, route[:, axis]) for axis in (0, 1)], axis=1)
    direction = np.gradient(along, axis=0)
    normal = np.stack([-direction[:, 1], direction[:, 0]], axis=1) / np.maximum(np.linalg.norm(direction, axis=1), 1e-6)[:, None]
    return list(along + normal * (aside_m + drift)[:, None])


def _smooth(route: Floats) -> Floats:
    """A route with rounded corners (Chaikin's algorithm, twice)."""
    for _ in range(2):
        inner = np.concatenate([np.stack([0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b]) for a, b in pairwise(route)])
        route = np.concatenate([route[:1], inner, route[-1:]])
    return route


def waiting(points: list[Floats], at: float, seconds: float, rng: Generator) -> list[Floats]:
    """The same points with a stop after the share ``at`` of them, in which the weight is shifted a little."""
    number = min(len(points) - 1, max(1, int(at * len(points))))
    count = int(seconds / _STEP_S)
    sway = np.cumsum(rng.normal(0, 0.006, (count, 2)), axis=0)
    stop = [points[number] + shift for shift in sway]
    rest = [point + (sway[-1] if count else 0.0) for point in points[number:]]
    return [*points[:number], *stop, *rest]


def turned_back(points: list[Floats], at: float) -> list[Floats]:
    """The way out to the share ``at`` of the points, and back."""
    number = max(2, int(at * len(points)))
    return [*points[:number], *points[number - 2 :: -1]]
