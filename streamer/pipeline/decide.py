"""Scored frames to events: applies each camera's decision rule and builds the score and event entries for Redis."""

import base64
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

import cv2
import numpy as np
from numpy.typing import NDArray

from deploy.bundle import Bundle
from deploy.calibration import Calibration, Thresholds
from deploy.decision import DecisionRule, EventChange, Observation, OpenEvent, decide
from deploy.health import HealthChange
from deploy.profile import Profile
from deploy.profile_learning import Channel
from streamer.areas import count_quieted
from streamer.config import Settings, camera_thresholds, decision_rule
from streamer.interfaces import CameraState, Fields
from streamer.minutes import ScoredFrame, ScoreMinute, sum_up
from streamer.types import Event, FrameInfo, LearningProgress, Outcome, Partition, event_id

TEXTS: Final[Mapping[Channel, str]] = {
    "speed": "moves faster than things do there",
    "appearance": "looks or moves unlike anything seen there",
    "dwell": "stays where nothing stays so long",
}
_REGION_LEVEL = 0.5
"""Heat map cells above this fraction of the way from the minimum to the maximum belong to the region."""
_TINY = 1e-9


class Decision(NamedTuple):
    """The effects of one frame, among them the camera's new state."""

    state: CameraState
    score: Fields | None
    events: list[Event]
    heatmaps: Sequence[Fields] = ()
    """Of the entries of events that have one."""
    minute: Fields | None = None
    """Of the minute of scores that ended before it."""


class Decided(NamedTuple):
    """A frame, its effects, and what it changed of its camera's health."""

    info: FrameInfo
    score: float | None
    decision: Decision
    health: tuple[HealthChange, ...]


class CameraRule(NamedTuple):
    """A camera's decision rule, and where its thresholds come from."""

    rule: DecisionRule
    thresholds: Thresholds
    calibration: Calibration


class Decider:
    """Applies the decision rules; the state of each camera is passed in and returned."""

    def __init__(
        self, settings: Settings, bundle: Bundle, engine_name: str, wall_clock_s: Callable[[], float] = time.time
    ) -> None:
        """Raises ConfigError if a camera's own thresholds contradict each other."""
        self._settings, self._bundle, self._engine_name, self._wall_clock_s = settings, bundle, engine_name, wall_clock_s
        self._default_rule = self._make_rule("", bundle.calibration)
        self._default_rules = {camera_id: self._make_rule(camera_id, bundle.calibration) for camera_id in settings.cameras}
        self._profile_rules: WeakKeyDictionary[Profile, CameraRule] = WeakKeyDictionary()

    def rule(self, camera_id: str, profile: Profile | None) -> CameraRule:
        """The rule of a camera with its profile, or with the bundle's default."""
        if profile is None:
            return self._default_rules.get(camera_id, self._default_rule)
        if profile not in self._profile_rules:
            self._profile_rules[profile] = self._make_rule(camera_id, profile.info.calibration)
        return self._profile_rules[profile]

    def least_exit(self, profiles: Iterable[Profile]) -> float:
        """The lowest exit threshold of all cameras: no frame that scores less starts, continues or updates an event."""
        own = [self.rule(profile.info.camera_id, profile) for profile in profiles]
        return min(each.rule.exit for each in (self._default_rule, *self._default_rules.values(), *own))

    def decide(self, state: CameraState, outcome: Outcome, learning: LearningProgress | None = None) -> Decision:
        """Apply a camera's rule to its next frame, unless its health is in doubt.

        ``learning``: how far the camera is learned, if it is being learned.
        """
        info, own = outcome.info, self.rule(outcome.info.camera_id, outcome.profile)
        only_learns = learning is not None and self._settings.learning.events == "withhold"
        withheld = only_learns or not state.health.is_trusted
        observed = None if withheld else outcome.score
        rule = own.rule.at_interval(info.interval_ms)
        event, changes = decide(rule, state.event, Observation(event_id(info), info.captured_at_ms, observed))
        hidden = {} if withheld else dict(outcome.quieted)
        quieted = count_quieted(state.quieted, hidden, rule, event_id(info), info.captured_at_ms)
        scored_at_ms = round(self._wall_clock_s() * 1000)
        events = [self._event(outcome, own, change, scored_at_ms, provisional=learning is not None) for change in changes]
        score = None if outcome.score is None else _score_fields(outcome, outcome.score, own.rule, scored_at_ms)
        if score is not None and learning is not None:
            score = {**score, "learning": f"{learning.share:.3f}", "learning_left_s": f"{learning.left_s:.0f}"}
        minute, ended = _sum_up(state.minute, outcome, own.rule, event, withheld=withheld)
        update: dict[str, object] = {
            "clip_from": outcome.clip_from,
            "clip_clock": outcome.clip_clock,
            "event": event,
            "minute": minute,
            "quieted": quieted,
        }
        heatmaps = [] if outcome.heatmap is None else [_heatmap_fields(event, outcome.heatmap, own.rule) for event in events]
        told = [each for each in heatmaps if each is not None]
        return Decision(state.model_copy(update=update), score, events, told, None if ended is None else ended.fields())

    def end_event(
        self, camera_id: str, profile: Profile | None, event: OpenEvent, partition: Partition, offset: int, *, provisional: bool
    ) -> Event:
        """The end of an event whose camera sends no more frames.

        ``offset``: of the newest frame that was decided on; ``provisional``: whether the camera is being learned.
        """
        info = FrameInfo(partition, offset, camera_id, event.last_active_ms, 0, 0)
        change = EventChange("end", event, Observation(event.event_id, event.last_active_ms, None))
        own, outcome = self.rule(camera_id, profile), Outcome(info, None, profile)
        return self._event(outcome, own, change, round(self._wall_clock_s() * 1000), provisional=provisional)

    def _make_rule(self, camera_id: str, calibration: Calibration) -> CameraRule:
        limits = camera_thresholds(self._settings, camera_id, calibration)
        return CameraRule(decision_rule(self._settings, limits), limits, calibration)

    def _event(self, outcome: Outcome, own: CameraRule, change: EventChange, scored_at_ms: int, *, provisional: bool) -> Event:
        info, profile, region = outcome.info, outcome.profile, None
        channel = None if change.kind == "end" else outcome.channel
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
            threshold=own.rule.enter,
            budget=self._settings.decision.false_events_per_camera_day,
            bound=own.thresholds.bound if isfinite(own.thresholds.bound) else None,
            observed_s=own.calibration.observed_s,
            provisional="true" if provisional else None,
            calibration_id=own.calibration.calibration_id,
            profile_id=None if profile is None else profile.profile_id,
            model_id=self._bundle.model_id,
            engine=self._engine_name,
            channel=channel,
            text=None if channel is None else TEXTS[channel],
            region=region,
            zones=None if change.kind == "end" else ",".join(outcome.zones) or None,
            topic=info.partition.topic,
            partition=info.partition.number,
            offset=info.offset,
            scored_at_ms=scored_at_ms,
        )


def _sum_up(
    minute: ScoreMinute | None, outcome: Outcome, rule: DecisionRule, event: OpenEvent | None, *, withheld: bool
) -> tuple[ScoreMinute | None, ScoreMinute | None]:
    """A camera's minute after its next frame, which may have no score, and the one that ended with it."""
    if outcome.score is None:
        return minute, None
    frame = ScoredFrame(
        captured_at_ms=outcome.info.captured_at_ms,
        score=outcome.score,
        threshold=rule.enter,
        profile_id=None if outcome.profile is None else outcome.profile.profile_id,
        channel=outcome.channel,
        in_event=event is not None and event.announced_at_ms is not None,
        withheld=withheld,
    )
    return sum_up(minute, frame)


def _score_fields(outcome: Outcome, score: float, rule: DecisionRule, scored_at_ms: int) -> Fields:
    fields = {
        "captured_at_ms": str(outcome.info.captured_at_ms),
        "score": f"{score:.6g}",
        "threshold": f"{rule.enter:.6g}",
        "partition": str(outcome.info.partition.number),
        "offset": str(outcome.info.offset),
        "scored_at_ms": str(scored_at_ms),
    }
    return fields if outcome.profile is None else {**fields, "profile_id": outcome.profile.profile_id}


def _heatmap_fields(event: Event, heatmap: NDArray[np.float32], rule: DecisionRule) -> Fields | None:
    """The entry of the stream of heat maps; None for an end, and where the engine gave no heat map."""
    low, high = float(heatmap.min()), float(heatmap.max())
    if event.kind == "end" or not isfinite(low + high):
        return None
    levels = np.round((heatmap - low) * (255 / max(high - low, _TINY))).astype(np.uint8)
    origin = event.model_dump(include={"event_id", "kind", "camera_id", "captured_at_ms", "topic", "partition", "offset"})
    limits = {"score": event.score, "low": low, "high": high, "enter": rule.enter, "exit": rule.exit}
    return {
        "schema": "1",
        **{name: str(value) for name, value in origin.items()},
        **{name: f"{value:.6g}" for name, value in limits.items() if value is not None},
        "png": base64.b64encode(cv2.imencode(".png", levels)[1].tobytes()).decode(),
    }


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
