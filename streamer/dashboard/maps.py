"""What a camera's profile holds for usual, as maps to be laid over its picture."""

from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.dwell import DWELL_S, Map
from deploy.image import encode_png
from deploy.profile import Profile, require_profile_of
from deploy.profile_learning import Normal
from deploy.score_maps import Grid
from deploy.usual_maps import UNDERSTOOD
from streamer.areas import Polygon
from streamer.config import Settings, served_bundle
from streamer.pipeline.areas import covered

MapKind = Literal["speed", "dwell", "anomaly"]
"""Fields of :class:`~deploy.profile_learning.Normal`."""

_MOST_OPAQUE: Final = 190
_LEAST_HIGH: Final = 1e-6
_LEVELS: Final = (0.0, 0.5, 1.0)
_COLOURS: Final = ((130, 60, 20), (140, 110, 235), (120, 230, 255))
"""Of these levels: blue, green and red from 0 to 255."""


class Meaning(NamedTuple):
    """What a map shows, for people."""

    title: str
    text: str
    unit: str
    to_unit: Callable[[Map], Map]
    """Converts the values of a profile to this unit."""


def _percent_beyond_40(log_odds: Map) -> Map:
    """By how many percent points a probability lies beyond 40 %, from its log-odds beyond those of 0.4."""
    percent: Map = 100.0 / (1.0 + np.exp(-log_odds - np.float32(UNDERSTOOD))) - 40.0
    return percent


MEANINGS: Final[dict[MapKind, Meaning]] = {
    "speed": Meaning(
        "Usual speed",
        "How fast things usually move at each height of the picture: what is much faster there raises the score.",
        "pixels a frame",
        lambda speed: speed,
    ),
    "dwell": Meaning(
        "Usually stays",
        "How long something stays at each place in one frame of twenty: what stays longer there raises the score.",
        "s",
        lambda dwell: dwell * np.float32(DWELL_S),
    ),
    "anomaly": Meaning(
        "Usually looks odd",
        "Where the network often finds something odd that is ordinary here: as much of it raises no score there.",
        "% beyond 40",
        _percent_beyond_40,
    ),
}


def learned_normal(settings: Settings, profile: Profile) -> Normal:
    """What a profile says is normal, on the grid of the bundle.

    Raises:
        BundleError: the bundle cannot be read.
        ProfileIncompatible: the profile belongs to another network, or to one that learns no maps.
    """
    bundle = served_bundle(settings)
    require_profile_of(bundle, profile)
    return Normal.from_values(profile.values, Grid.of(bundle).shape)


def usual(normal: Normal, kind: MapKind) -> Map:
    """The values of a map in its unit, float32 (h, w)."""
    return np.broadcast_to(MEANINGS[kind].to_unit(getattr(normal, kind)), normal.anomaly.shape)


def map_png(values: Map, masks: Sequence[Polygon]) -> bytes:
    """A PNG to be laid over the picture: the higher, the brighter and the less transparent; under masks, nothing."""
    shares = np.clip(values / max(float(values.max()), _LEAST_HIGH), 0, 1)
    colours = [np.interp(shares, _LEVELS, levels) for levels in zip(*_COLOURS, strict=True)]
    alpha = shares * _MOST_OPAQUE
    for mask in masks:
        alpha[covered(mask, (values.shape[0], values.shape[1]))] = 0
    pixels: NDArray[np.uint8] = np.round(np.dstack([*colours, alpha])).astype(np.uint8)
    return encode_png(pixels)
