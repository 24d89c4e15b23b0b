"""Where people and vehicles are over time: along routes at natural speeds, alone and in groups, waiting and turning back."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.random import Generator

from trainer.scenes.view import Floats

_STEP_S = 0.2
_TURN_S = 0.5  # over which a heading is smoothed


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
