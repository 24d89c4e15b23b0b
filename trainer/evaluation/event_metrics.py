"""Matches the events that the service would announce with the labelled ones: precision, recall, delay and false events.

Announced events come from :mod:`deploy.decision`, the rule that the streamer applies; every clip counts as a camera of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.decision import DecisionRule, Observation, OpenEvent, decide, finish
from trainer.evaluation.metrics import Labels, Scores

EARLY_S = 1.0
"""An alarm that starts longer than this before its true event is a false one, even if it goes on until then."""


class TrueEvent(NamedTuple):
    """A maximal run of frames with label 1, both ends included."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class AnnouncedEvent:
    """An event as the service announces it; frame numbers within one clip, ``ended`` included."""

    started: int
    announced: int
    ended: int
    active: tuple[int, ...]
    """Frames whose score reached the exit threshold, from ``started`` to ``ended``."""


@dataclass(frozen=True, slots=True)
class ClipEvents:
    """True and announced events of one clip, matched: a true event is found if an announced one is active in it."""

    true: Sequence[TrueEvent]
    announced: Sequence[AnnouncedEvent]
    delays: Sequence[int]
    """One per found event: frames from its first one to the first announcement among its matches, 0 if that came earlier."""
    false: int
    """Announced events that match no true event or are early."""
    early: int
    """Announced events that match a true event but started longer before it than the tolerance: false alarms as well as finds."""

    @property
    def found(self) -> int:
        return len(self.delays)


@dataclass(frozen=True, slots=True)
class EventMetrics:
    """Event metrics of all clips together."""

    true: int
    announced: int
    found: int
    false: int
    early: int
    precision: float | None
    """Matched announced events / (matched + false); an early event is in both. None if nothing was announced."""
    recall: float | None
    """Found / true events; None if there are no true events."""
    f1: float | None
    """Harmonic mean of precision and recall, 0 if either is 0 or None; None if both are None."""
    median_delay_s: float | None
    """Over the found events; None if nothing was found."""
    worst_delay_s: float | None
    """Longest delay of a found event; None if nothing was found."""
    false_per_camera_hour: float
    """False events / duration of all footage, anomalous frames included."""
    normal_frames: int
    normal_s: float
    """Duration of the frames with label 0."""
    false_per_camera_day_bound: float | None
    """One-sided 95 % Poisson bound on false events per day of normal footage; None without normal frames."""
    alarmed_normal_share: float | None
    """Share of the normal frames inside announced events: exposes an alarm that never ends."""


def event_metrics(clips: Mapping[str, ClipEvents], labels: Labels, fps: float) -> EventMetrics:
    """Summarise the events of all clips."""
    counts = ((len(c.true), len(c.announced), c.found, c.false, c.early) for c in clips.values())
    true, announced, found, false, early = map(sum, zip(*counts, strict=True))
    matched = announced - false + early
    precision, recall = _share(matched, matched + false), _share(found, true)
    f1 = 2 * precision * recall / (precision + recall) if precision and recall else 0.0
    delays_s = [delay / fps for clip in clips.values() for delay in clip.delays]
    normal_frames = sum(int((row == 0).sum()) for row in labels.values())
    alarms = [labels[name][event.started : event.ended + 1] for name, clip in clips.items() for event in clip.announced]
    return EventMetrics(
        true=true,
        announced=announced,
        found=found,
        false=false,
        early=early,
        precision=precision,
        recall=recall,
        f1=None if precision is None and recall is None else f1,
        median_delay_s=median(delays_s) if delays_s else None,
        worst_delay_s=max(delays_s, default=None),
        false_per_camera_hour=round(false / (sum(len(row) for row in labels.values()) / fps / 3600), 3),
        normal_frames=normal_frames,
        normal_s=normal_frames / fps,
        false_per_camera_day_bound=rate_bound(false, normal_frames / fps / 86400),
        alarmed_normal_share=_share(sum(int((alarm == 0).sum()) for alarm in alarms), normal_frames),
    )


def rate_bound(count: int, exposure: float) -> float | None:
    """Exact one-sided 95 % upper bound on the rate of a Poisson process, after ``count`` events in ``exposure`` units of time.

    It is the rate at which ``count`` or fewer events would come with a probability of 5 % (Garwood, Biometrika 1936).
    """
    from scipy.stats import chi2

    return float(chi2.ppf(0.95, 2 * (count + 1)) / 2 / exposure) if exposure > 0 else None


def clip_events(rule: DecisionRule, scores: Scores, labels: Labels, fps: float) -> dict[str, ClipEvents]:
    """The matched events of every clip. NaN scores are frames that complete no clip of the model."""
    tolerance = round(EARLY_S * fps)
    return {
        name: match_events(true_events(row), announced_events(rule, scores[name], fps), tolerance) for name, row in labels.items()
    }


def true_events(labels: NDArray[np.uint8]) -> list[TrueEvent]:
    """Every maximal run of label 1."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], labels, [0]]).astype(np.int8)))
    return [TrueEvent(int(first), int(end) - 1) for first, end in zip(edges[::2], edges[1::2], strict=True)]


def announced_events(rule: DecisionRule, scores: NDArray[np.float32], fps: float) -> list[AnnouncedEvent]:
    """The events that the service announces for a camera with these scores, float32 (frames,)."""
    announced_at: dict[str, int] = {}
    events: list[AnnouncedEvent] = []
    active = np.flatnonzero(scores >= rule.exit)
    state: OpenEvent | None = None
    for frame in range(len(scores) + 1):
        at_end = frame == len(scores)
        score = None if at_end or np.isnan(scores[frame]) else float(scores[frame])
        observation = Observation(f"{frame}", round(frame * 1000 / fps), score)
        state, changes = (None, finish(state, observation)) if at_end else decide(rule, state, observation)
        for change in changes:
            event = change.event
            if change.kind == "start":
                announced_at[event.event_id] = frame
            elif change.kind == "end":
                started, ended = (round(at_ms * fps / 1000) for at_ms in (event.started_at_ms, event.last_active_ms))
                within = active[(active >= started) & (active <= ended)]
                events.append(AnnouncedEvent(started, announced_at[event.event_id], ended, tuple(within.tolist())))
    return events


def match_events(true: Sequence[TrueEvent], announced: Sequence[AnnouncedEvent], tolerance: int) -> ClipEvents:
    """Match the events of one clip; ``tolerance``: frames that an announced event may start before its first true event."""
    finds = [[event for event in announced if _overlap(event, target)] for target in true]
    targets = [next((target for target in true if _overlap(event, target)), None) for event in announced]
    early = sum(
        target is not None and target.first - event.started > tolerance for event, target in zip(announced, targets, strict=True)
    )
    return ClipEvents(
        true=true,
        announced=announced,
        delays=[max(0, events[0].announced - target.first) for target, events in zip(true, finds, strict=True) if events],
        false=targets.count(None) + early,
        early=early,
    )


def _overlap(event: AnnouncedEvent, target: TrueEvent) -> bool:
    return any(target.first <= frame <= target.last for frame in event.active)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
