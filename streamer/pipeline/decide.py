"""Scored frames to events: applies each camera's decision rule and builds the score and event entries for Redis."""

import time
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from deploy.bundle import Bundle
from deploy.decision import DecisionRule, EventChange, Observation, decide
from streamer.config import Settings, camera_rule
from streamer.interfaces import CameraState, Fields
from streamer.types import Event, Outcome, event_id

_REGION_LEVEL = 0.5
"""Heat map cells above this fraction of the way from the minimum to the maximum belong to the region."""


class Decision(NamedTuple):
    """The effects of one frame, among them the camera's new state."""

    state: CameraState
    score: Fields | None
    events: list[Event]


class Decider:
    """Applies the decision rules; the state of each camera is passed in and returned."""

    def __init__(
        self, settings: Settings, bundle: Bundle, engine_name: str, wall_clock_s: Callable[[], float] = time.time
    ) -> None:
        """Raises ConfigError if a camera's own thresholds contradict each other."""
        self._bundle, self._engine_name, self._wall_clock_s = bundle, engine_name, wall_clock_s
        calibrated = {"enter": bundle.calibration.enter, "exit_": bundle.calibration.exit}
        self._default_rule = camera_rule(settings, "", **calibrated)
        self._rules = {camera_id: camera_rule(settings, camera_id, **calibrated) for camera_id in settings.cameras}

    def rule(self, camera_id: str) -> DecisionRule:
        """The decision rule of a camera."""
        return self._rules.get(camera_id, self._default_rule)

    @property
    def least_exit(self) -> float:
        """The lowest exit threshold of all cameras: no frame that scores less starts, continues or updates an event."""
        return min(rule.exit for rule in (self._default_rule, *self._rules.values()))

    def decide(self, state: CameraState, outcome: Outcome) -> Decision:
        """Apply a camera's rule to its next frame."""
        info, rule = outcome.info, self.rule(outcome.info.camera_id)
        event, changes = decide(rule, state.event, Observation(event_id(info), info.captured_at_ms, outcome.score))
        scored_at_ms = round(self._wall_clock_s() * 1000)
        events = [self._event(outcome, change, scored_at_ms) for change in changes]
        score: Fields | None = None
        if outcome.score is not None:
            score = {
                "captured_at_ms": str(info.captured_at_ms),
                "score": f"{outcome.score:.6g}",
                "threshold": f"{rule.enter:.6g}",
                "partition": str(info.partition.number),
                "offset": str(info.offset),
                "scored_at_ms": str(scored_at_ms),
            }
        return Decision(CameraState(clip_from=outcome.clip_from, event=event), score, events)

    def _event(self, outcome: Outcome, change: EventChange, scored_at_ms: int) -> Event:
        info, region = outcome.info, None
        if change.kind != "end" and outcome.heatmap is not None:
            region = hot_region(outcome.heatmap, info.width_px, info.height_px)
        return Event(
            event_id=change.event.event_id,
            kind=change.kind,
            camera_id=info.camera_id,
            started_at_ms=change.event.started_at_ms,
            captured_at_ms=info.captured_at_ms,
            ended_at_ms=change.ended_at_ms,
            score=outcome.score,
            peak_score=change.event.peak_score,
            threshold=self.rule(info.camera_id).enter,
            calibration_id=self._bundle.calibration.calibration_id,
            model_id=self._bundle.model_id,
            engine=self._engine_name,
            region=region,
            topic=info.partition.topic,
            partition=info.partition.number,
            offset=info.offset,
            scored_at_ms=scored_at_ms,
        )


def hot_region(heatmap: NDArray[np.float32], width_px: int, height_px: int) -> str:
    """Bounding box of the connected hot area around the maximum of ``heatmap``, float32 (h, w).

    Returns ``x,y,w,h`` in pixels of the camera's image.
    """
    low = float(heatmap.min())
    hot = heatmap >= low + _REGION_LEVEL * (float(heatmap.max()) - low)
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(hot.astype(np.uint8), connectivity=8)
    peak = np.unravel_index(int(heatmap.argmax()), heatmap.shape)
    left, top, width, height = (int(value) for value in boxes[labels[peak]][:4])
    rows, columns = heatmap.shape
    x, right = left * width_px // columns, (left + width) * width_px // columns
    y, bottom = top * height_px // rows, (top + height) * height_px // rows
    return f"{x},{y},{max(right - x, 1)},{max(bottom - y, 1)}"
