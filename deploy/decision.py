"""The decision rule: turns the scores of one camera into events. A pure function.

An event begins as a candidate at the first score at or above ``enter``. A score below ``exit`` drops a candidate; a candidate
that lasts ``min_duration_ms`` is announced (``start``). An announced event ends when no score at or above ``exit`` came for more
than ``merge_gap_ms``, so that short dips do not split it.

Training uses the same rule as serving, to count detected events and false events.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from deploy.clock import gap_limit_ms

MAX_TIME_MS = 366 * 86_400_000
"""A year: longer times have no use, and numbers without a limit break arithmetic."""

EventKind = Literal["start", "update", "end"]


class DecisionTimes(BaseModel):
    """The times by which scores become events, in milliseconds of capture time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_duration_ms: int = Field(default=300, ge=0, le=MAX_TIME_MS)
    merge_gap_ms: int = Field(default=10_000, ge=0, le=MAX_TIME_MS)


class DecisionRule(DecisionTimes):
    """Thresholds in score units, times in milliseconds of capture time."""

    enter: FiniteFloat
    exit: FiniteFloat
    update_interval_ms: int = Field(default=2000, ge=1, le=MAX_TIME_MS)

    @model_validator(mode="after")
    def _exit_at_most_enter(self) -> "DecisionRule":
        if self.exit > self.enter:
            raise ValueError(f"exit must be at most enter ({self.enter}), got {self.exit}")
        return self

    def at_interval(self, interval_ms: int) -> "DecisionRule":
        """The rule for a camera with this usual interval: that few frames come of it does not end its events."""
        merge_gap_ms = gap_limit_ms(self.merge_gap_ms, interval_ms)
        return self if merge_gap_ms == self.merge_gap_ms else self.model_copy(update={"merge_gap_ms": merge_gap_ms})


class OpenEvent(BaseModel):
    """A candidate or an announced event of one camera. Its field names are part of the format in Redis; others are ignored."""

    model_config = ConfigDict(frozen=True)

    event_id: str
    started_at_ms: int
    last_active_ms: int  # capture time of the last frame whose score was at or above exit
    peak_score: float
    announced_at_ms: int | None = None  # capture time of the last start or update; None for a candidate


@dataclass(frozen=True, slots=True)
class Observation:
    """The score of one frame, None if it completes no clip. ``event_id`` is the id of an event that begins with it."""

    event_id: str
    captured_at_ms: int
    score: float | None


@dataclass(frozen=True, slots=True)
class EventChange:
    """A start, update or end of an event, caused by ``observation``."""

    kind: EventKind
    event: OpenEvent
    observation: Observation

    @property
    def ended_at_ms(self) -> int | None:
        """Capture time of the last active frame, for an ``end``."""
        return self.event.last_active_ms if self.kind == "end" else None


Decision = tuple[OpenEvent | None, tuple[EventChange, ...]]


def decide(rule: DecisionRule, event: OpenEvent | None, observation: Observation) -> Decision:
    """Apply one frame, in capture order: the camera's open event after it, and what is to be published."""
    if event is not None and abs(observation.captured_at_ms - event.last_active_ms) > rule.merge_gap_ms:
        # abs: also after the clock jumped back, when frames are no longer in order.
        ended = (EventChange("end", event, observation),) if event.announced_at_ms is not None else ()
        state, changes = _begin(rule, observation)
        return state, ended + changes
    if event is None:
        return _begin(rule, observation)
    if observation.score is None or observation.score < rule.exit:
        return (event if event.announced_at_ms is not None else None), ()
    return _continue(rule, event, observation, observation.score)


def finish(event: OpenEvent | None, observation: Observation) -> tuple[EventChange, ...]:
    """End an open event because no frame follows ``observation``."""
    if event is None or event.announced_at_ms is None:
        return ()
    return (EventChange("end", event, observation),)


def _begin(rule: DecisionRule, observation: Observation) -> Decision:
    if observation.score is None or observation.score < rule.enter:
        return None, ()
    now_ms = observation.captured_at_ms
    candidate = OpenEvent(
        event_id=observation.event_id, started_at_ms=now_ms, last_active_ms=now_ms, peak_score=observation.score
    )
    return _continue(rule, candidate, observation, observation.score)


def _continue(rule: DecisionRule, event: OpenEvent, observation: Observation, score: float) -> Decision:
    now_ms = observation.captured_at_ms
    event = event.model_copy(
        update={"last_active_ms": max(now_ms, event.last_active_ms), "peak_score": max(score, event.peak_score)}
    )
    if event.announced_at_ms is None:
        kind: EventKind = "start"
        due = now_ms - event.started_at_ms >= rule.min_duration_ms
    else:
        kind, due = "update", now_ms - event.announced_at_ms >= rule.update_interval_ms
    if not due:
        return event, ()
    event = event.model_copy(update={"announced_at_ms": now_ms})
    return event, (EventChange(kind, event, observation),)
