"""Outcomes to decisions: applies each camera's rule, in frame order, and words the events. Pure but for the clock it is given.

Heat map to region: where in the camera's picture the score comes from.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from deploy.bundle import Bundle
from deploy.decision import DecisionRule, EventChange, Observation, decide
from streamer.config import Settings, camera_rule
from streamer.event import Event, event_id
from streamer.interfaces import CameraState, Fields
from streamer.types import Outcome, Partition

_HALF = 0.5
"""Cells at least half as hot as the hottest one belong to the region."""


def hot_region(heatmap: NDArray[np.float32], width_px: int, height_px: int) -> str:
    """The box around the hottest connected patch of ``heatmap``, float32 (h, w), as ``x,y,w,h`` in pixels of the picture."""
    floor = float(heatmap.min())
    hot = heatmap >= floor + _HALF * (float(heatmap.max()) - floor)
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(hot.astype(np.uint8), connectivity=8)
    peak = np.unravel_index(int(heatmap.argmax()), heatmap.shape)
    left, top, width, height = (int(value) for value in boxes[labels[peak]][:4])
    rows, columns = heatmap.shape
    x, right = left * width_px // columns, (left + width) * width_px // columns
    y, bottom = top * height_px // rows, (top + height) * height_px // rows
    return f"{x},{y},{max(right - x, 1)},{max(bottom - y, 1)}"


@dataclass(frozen=True, slots=True)
class Provenance:
    """What every event names, so that a decision can be explained afterwards."""

    model_id: str
    calibration_id: str
    engine: str


class Decision(NamedTuple):
    """What one frame changes."""

    state: CameraState
    score: Fields | None
    events: list[Event]


class Decider:
    """Knows the rules; keeps no state of its own."""

    def __init__(
        self, settings: Settings, bundle: Bundle, engine_name: str, wall_clock_s: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._calibration = bundle.calibration
        self._provenance = Provenance(bundle.model_id, bundle.calibration.calibration_id, engine_name)
        self._wall_clock_s = wall_clock_s
        self._rules: dict[str, DecisionRule] = {}
        for camera_id in settings.cameras:
            self.rule(camera_id)  # a wrong threshold is an error at start, not at that camera's first frame

    def rule(self, camera_id: str) -> DecisionRule:
        """The rule in force for a camera."""
        if camera_id not in self._settings.cameras:
            camera_id = ""  # all cameras without thresholds of their own share one rule
        if camera_id not in self._rules:
            self._rules[camera_id] = camera_rule(
                self._settings, camera_id, enter=self._calibration.enter, exit_=self._calibration.exit
            )
        return self._rules[camera_id]

    @property
    def least_exit(self) -> float:
        """The lowest of all cameras' exit thresholds: no event begins, goes on or is shown by a frame that scores less."""
        return min(self.rule(camera_id).exit for camera_id in ("", *self._settings.cameras))

    def take(self, partition: Partition, state: CameraState, outcome: Outcome) -> Decision:
        """Take the next frame of a camera into account."""
        rule = self.rule(outcome.camera_id)
        origin = event_id(partition, outcome.offset, outcome.camera_id, outcome.captured_at_ms)
        observation = Observation(origin, outcome.captured_at_ms, outcome.score)
        event, changes = decide(rule, state.event, observation)
        following = CameraState(clip_from=outcome.clip_from, event=event)
        scored_at_ms = round(self._wall_clock_s() * 1000)
        events = [self._event(partition, outcome, change, scored_at_ms) for change in changes]
        return Decision(following, self._score_fields(partition, outcome, scored_at_ms), events)

    def _score_fields(self, partition: Partition, outcome: Outcome, scored_at_ms: int) -> Fields | None:
        if outcome.score is None:
            return None
        return {
            "captured_at_ms": str(outcome.captured_at_ms),
            "score": f"{outcome.score:.6g}",
            "threshold": f"{self.rule(outcome.camera_id).enter:.6g}",
            "partition": str(partition.number),
            "offset": str(outcome.offset),
            "scored_at_ms": str(scored_at_ms),
        }

    def _event(self, partition: Partition, outcome: Outcome, change: EventChange, scored_at_ms: int) -> Event:
        return Event(
            event_id=change.event.event_id,
            kind=change.kind,
            camera_id=outcome.camera_id,
            started_at_ms=change.event.started_at_ms,
            captured_at_ms=outcome.captured_at_ms,
            ended_at_ms=change.ended_at_ms,
            score=outcome.score,
            peak_score=change.event.peak_score,
            threshold=self.rule(outcome.camera_id).enter,
            calibration_id=self._provenance.calibration_id,
            model_id=self._provenance.model_id,
            engine=self._provenance.engine,
            region=_region(outcome) if change.kind != "end" else None,
            topic=partition.topic,
            partition=partition.number,
            offset=outcome.offset,
            scored_at_ms=scored_at_ms,
        )


def _region(outcome: Outcome) -> str | None:
    if outcome.heatmap is None:
        return None
    return hot_region(outcome.heatmap, outcome.width_px, outcome.height_px)
