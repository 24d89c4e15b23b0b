"""Applies a camera's areas to its scores: masks hide, zones have their own budget, what was called normal is quiet.

A score is the highest value of its heat map, or moves with it. So each area changes the heat map, and the score by as much as the
heat map's highest value changes. The model, its state and what is learned of a camera know nothing of areas.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
import structlog
from numpy.typing import NDArray

from deploy.calibration import Calibration, thresholds
from deploy.decision import DecisionTimes
from deploy.profile import Profile
from streamer.areas import CameraAreas, Polygon, Quiet, Zone
from streamer.config import Settings, decision_times
from streamer.interfaces import AreaStore, RedisUnavailable
from streamer.pipeline.decide import CameraRule, Decider
from streamer.types import Outcome

log = structlog.get_logger("oddsight.areas")

_BELOW: Final = 1e-3
"""How far below the exit threshold that is which was called normal."""
_STEPS: Final = 8
"""Parts of a cell's side: half a cell belongs to a mask as a whole."""

Cells = NDArray[np.bool_]  # (h, w)


@dataclass(frozen=True, slots=True)
class _Cells:
    """A camera's areas on the grid of its heat maps."""

    hidden: Cells
    zones: tuple[tuple[Zone, Cells], ...]
    quiet: tuple[tuple[Quiet, Cells], ...]


class KnownAreas:
    """The areas of all cameras, from the settings and from what operators drew, which is read again when it has changed."""

    def __init__(self, settings: Settings, store: AreaStore) -> None:
        self._store = store
        self._own = {camera_id: camera.areas for camera_id, camera in settings.cameras.items()}
        self._areas: Mapping[str, CameraAreas] = dict(self._own)
        self._version: str | None = None

    def get(self, camera_id: str) -> CameraAreas | None:
        """The areas of a camera, None if it never had any."""
        return self._areas.get(camera_id)

    def masks(self, camera_id: str) -> Sequence[Polygon]:
        """The parts of a camera's picture that nobody may see."""
        areas = self._areas.get(camera_id)
        return () if areas is None else areas.masks

    def zones(self) -> Sequence[Zone]:
        """The zones of all cameras."""
        return [zone for areas in self._areas.values() for zone in areas.zones]

    def load(self) -> bool:
        """Read what has changed; whether anything has. After a RedisUnavailable all is as before."""
        version = self._store.version()  # before the areas: a change in between is then found the next time
        if version == self._version:
            return False
        drawn = self._store.read()
        names = self._own.keys() | drawn.keys()
        self._areas = {name: self._own.get(name, CameraAreas()).with_more(drawn.get(name, CameraAreas())) for name in names}
        self._version = version
        return True


class AreaRules:
    """Applies the areas of cameras to the outcomes of their frames."""

    def __init__(self, settings: Settings, known: KnownAreas, decider: Decider) -> None:
        self._settings, self._known, self._decider = settings, known, decider
        self._cells: dict[tuple[str, tuple[int, int]], _Cells] = {}

    def refresh(self) -> bool:
        """Read the areas again, and say whether they have changed; while the store is unavailable they stay in force."""
        try:
            changed = self._known.load()
        except RedisUnavailable:
            return False
        if changed:
            self._cells = {}
        return changed

    def apply(self, outcome: Outcome) -> Outcome:
        """The outcome with the score and heat map that count."""
        areas, heatmap = self._known.get(outcome.info.camera_id), outcome.heatmap
        if areas is None or outcome.score is None or heatmap is None or not np.isfinite(heatmap).all():
            return outcome
        own = self._decider.rule(outcome.info.camera_id, outcome.profile)
        cells = self._on_grid(outcome.info.camera_id, areas, (heatmap.shape[0], heatmap.shape[1]))
        shaped, hidden = self._shaped(heatmap, cells, outcome, own)
        peak = np.unravel_index(int(shaped.argmax()), shaped.shape)
        zones = tuple(zone.name for zone, inside in cells.zones if inside[peak])
        above = outcome.score - float(heatmap.max())
        score = above + float(shaped.max())
        quieted = tuple((event_id, above + value) for event_id, value in hidden.items() if score < own.rule.exit <= above + value)
        return replace(outcome, score=score, heatmap=shaped, zones=zones, quieted=quieted)

    def least_exit(self, profiles: Collection[Profile]) -> float:
        """The lowest score that may matter to a camera, before a zone raises it."""
        rules = [self._decider.rule("", None), *(self._decider.rule(each.info.camera_id, each) for each in profiles)]
        gains = [self._gain(zone, own) for zone in self._known.zones() for own in rules]
        return self._decider.least_exit(profiles) - max([0.0, *gains])

    def _shaped(
        self, heatmap: NDArray[np.float32], cells: _Cells, outcome: Outcome, own: CameraRule
    ) -> tuple[NDArray[np.float32], dict[str, float]]:
        """The heat map that counts, and the highest value that was quieted by each event that was called normal."""
        shaped, hidden = heatmap.astype(np.float32), {}
        for zone, inside in cells.zones:
            shaped[inside] += np.float32(self._gain(zone, own))
        for quiet, inside in cells.quiet:
            if None in {quiet.channel, outcome.channel} or quiet.channel == outcome.channel:
                usual = inside & ~cells.hidden & (shaped <= quiet.up_to)
                hidden[quiet.event_id] = float(shaped[usual].max(initial=-np.inf))
                shaped[usual] = np.minimum(shaped[usual], np.float32(own.rule.exit - _BELOW * (1 + abs(own.rule.exit))))
        shaped[cells.hidden] = min(float(heatmap.min()), float(shaped.min()))
        return shaped, hidden

    def _gain(self, zone: Zone, own: CameraRule) -> float:
        """What is added to scores in the zone, so that the camera's threshold keeps the zone's budget there."""
        if zone.false_events_per_camera_day is None:
            return 0.0
        times, usual = decision_times(self._settings), self._settings.decision.false_events_per_camera_day
        return _enter(own.calibration, usual, times) - _enter(own.calibration, zone.false_events_per_camera_day, times)

    def _on_grid(self, camera_id: str, areas: CameraAreas, shape: tuple[int, int]) -> _Cells:
        if (camera_id, shape) not in self._cells:
            hidden = np.zeros(shape, bool)
            for mask in areas.masks:
                hidden |= covered(mask, shape)
            zones = tuple((zone, covered(zone.polygon, shape)) for zone in areas.zones)
            quiet = tuple((each, covered(_corners(each.box), shape)) for each in areas.quiet)
            self._cells[camera_id, shape] = _Cells(hidden, zones, quiet)
        return self._cells[camera_id, shape]


@lru_cache(maxsize=1_000)
def _enter(calibration: Calibration, budget: float, times: DecisionTimes) -> float:
    """The threshold that keeps a budget."""
    return thresholds(calibration, budget, times).enter


def covered(polygon: Polygon, shape: tuple[int, int]) -> Cells:
    """Which cells of a grid (h, w) lie at least half inside a polygon."""
    height, width = (side * _STEPS for side in shape)
    corners = np.array([(x * width - 0.5, y * height - 0.5) for x, y in polygon])
    filled = np.zeros((height, width), np.uint8)
    cv2.fillPoly(filled, [np.round(corners).astype(np.int32)], 1)
    shares = filled.reshape(shape[0], _STEPS, shape[1], _STEPS).mean(axis=(1, 3))
    inside: Cells = shares >= 0.5
    return inside


def _corners(box: Sequence[float]) -> Polygon:
    x, y, width, height = box
    return ((x, y), (x + width, y), (x + width, y + height), (x, y + height))
