"""The parts of the score as maps, read from the states that the video model returns with its scores."""

from functools import reduce
from typing import Final, NamedTuple, TypeGuard

import numpy as np

from deploy.bundle import Bundle
from deploy.dwell import Lights, Map
from deploy.errors import BundleCorrupt, ProfileIncompatible

KIND: Final = "video-ede"
PLACE_CELLS: Final = 2
"""Cells on each side of a place of :mod:`deploy.dwell`."""

# Channels of the state, the last one is ``started``.
_PICTURE, _DWELL, _VELOCITY, _VARIANCE, _ANOMALY, _AGE = -8, -7, slice(-6, -4), -4, -3, -2
_LEAST_VALUES: Final = 3  # of a profile, for each cell; before dwell there was but one
_FULL_AGE: Final = 5.0
_TINY: Final = 1e-6
_MOST_SPREADS: Final = 1e3
_LEAST_ANOMALY: Final = "least_anomaly"  # in a bundle's model.config
_LIGHTS: Final = "lights"  # likewise; before profiles had ranges for two lights there was none
_MOST_LEAST_ANOMALY: Final = 0.1


class ScoreMaps(NamedTuple):
    """The parts of the score of frames as maps, each in its own unit, float32 (N, h, w), and the light of the frames."""

    steady: Map
    """Mean speed minus a part of its standard deviation, pixels per frame."""
    anomaly: Map
    """Log-odds of the mean anomaly probability."""
    observed: Map
    """Share of the averaging time that the camera has been observed: 0 at its first frame, 1 from the sixth on."""
    dwell: Map
    """How long something else than the background has been there, see :mod:`deploy.dwell`: 0 to 1."""
    light: Lights
    """(N,): in which light of its camera each frame is."""


class Grid(NamedTuple):
    """What the maps of a network look like."""

    shape: tuple[int, int]  # (h, w)
    window: int
    steady_spreads: float
    least_anomaly: float
    """Probabilities of anomalies are held between this and 1 minus it: their log-odds have limits."""

    @classmethod
    def find(cls, bundle: Bundle) -> "Grid | None":
        """None for a model whose states show no maps."""
        try:
            return cls.of(bundle)
        except ProfileIncompatible:
            return None

    @classmethod
    def of(cls, bundle: Bundle) -> "Grid":
        """Raises ProfileIncompatible for a model whose states show nothing to learn from, BundleCorrupt for a damaged config."""
        model, shape = bundle.manifest.model, bundle.spec.state_shape
        if model.kind != KIND or shape is None:
            raise ProfileIncompatible(f"{bundle.path}: cameras cannot be learned with a model of kind {model.kind}; use {KIND}")
        if bundle.spec.profile_size < _LEAST_VALUES * shape[1] * shape[2] or _LIGHTS not in model.config:
            raise ProfileIncompatible(
                f"{bundle.path}: cameras cannot be learned with a bundle of an earlier version; train it again"
            )
        window, steady_spreads, least_anomaly = map(model.config.get, ("window", "steady_spreads", _LEAST_ANOMALY))
        if not (
            type(window) is int
            and 1 <= window <= min(shape[1:])
            and _is_number(steady_spreads, -_MOST_SPREADS, _MOST_SPREADS)
            and _is_number(least_anomaly, _TINY, _MOST_LEAST_ANOMALY)
        ):
            raise BundleCorrupt(
                f"{bundle.path}: model.config must give window, a whole number from 1 to {min(shape[1:])}, steady_spreads, and "
                f"{_LEAST_ANOMALY}, {_TINY} to {_MOST_LEAST_ANOMALY}; got {window!r}, {steady_spreads!r} and {least_anomaly!r}; "
                "make the bundle again with oddsight-train"
            )
        return cls((shape[1], shape[2]), window, float(steady_spreads), float(least_anomaly))


def _is_number(value: object, least: float, most: float) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def place_grid(grid: tuple[int, int]) -> tuple[int, int]:
    """The size of the maps of :mod:`deploy.dwell` for maps of cells of this size."""
    return grid[0] // PLACE_CELLS, grid[1] // PLACE_CELLS


def to_cells(places: Map) -> Map:
    """Maps of places (..., a, b) on the grid of cells, (..., h, w)."""
    return places.repeat(PLACE_CELLS, axis=-2).repeat(PLACE_CELLS, axis=-1)


def picture_of(state: Map) -> Map:
    """The newest frames reduced to places, (N, a, b), from the states (N, C, h, w) that the network returned with them."""
    return state[:, _PICTURE, ::PLACE_CELLS, ::PLACE_CELLS]


def dwell_of(state: Map) -> Map:
    """The dwell (N, a, b) that the network found by the background of the profile that it was given.

    Of the cells of a place those on the left hold multiples of :data:`deploy.dwell.DWELL_UNIT`, those on the right what is left.
    """
    whole: Map = state[:, _DWELL, ::PLACE_CELLS, ::PLACE_CELLS] + state[:, _DWELL, ::PLACE_CELLS, 1::PLACE_CELLS]
    return whole


def state_maps(state: Map, dwell: Map, light: Lights, grid: Grid) -> ScoreMaps:
    """The score maps of frames, from the states (N, C, h, w) that the network returned with them.

    ``dwell``: of their places, (N, a, b); ``light``: (N,), see :func:`deploy.dwell.lights_of`.
    """
    speed = np.sqrt(np.square(state[:, _VELOCITY]).sum(axis=1) + _TINY)
    steady = speed - np.float32(grid.steady_spreads) * np.sqrt(state[:, _VARIANCE] + _TINY)
    observed = np.broadcast_to(state[:, _AGE].max(axis=(1, 2), keepdims=True) / np.float32(_FULL_AGE), steady.shape)
    means = [window_means(maps, grid.window) for maps in (steady, state[:, _ANOMALY], dwell)]
    return ScoreMaps(means[0], log_odds(means[1], grid.least_anomaly), observed, to_cells(means[2]), light)


def log_odds(probabilities: Map, least: float) -> Map:
    """Log-odds of probabilities, which are held between ``least`` and 1 minus it."""
    held = np.clip(probabilities, np.float32(least), np.float32(1.0 - least))
    odds: Map = np.log(held) - np.log(1.0 - held)
    return odds


def window_means(maps: Map, side: int) -> Map:
    """Means of maps (N, h, w) over windows that lie wholly inside; cells at the edge get the nearest one."""
    height, width = maps.shape[1] - side + 1, maps.shape[2] - side + 1
    across = reduce(np.add, [maps[:, :, first : first + width] for first in range(side)])  # (N, h, width)
    sums = reduce(np.add, [across[:, first : first + height] for first in range(side)])  # (N, height, width)
    before, after = (side - 1) // 2, side // 2
    return np.pad(sums / np.float32(side * side), ((0, 0), (before, after), (before, after)), mode="edge")
