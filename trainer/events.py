"""Events that the service would have announced, against the true ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from deploy.decide import DecisionRule, Observation, OpenEvent, decide, finish
from trainer.metrics import Labels, Scores


@dataclass(frozen=True, slots=True)
class Announced:
    """An event as the service announces it, in frames of one clip."""

    started: int
    announced: int
    ended: int
    """The last frame that belongs to it."""


@dataclass(frozen=True, slots=True)
class EventFigures:
    """How the announced events of some footage meet the true ones."""

    true: int
    found: int
    false: int
    false_per_camera_hour: float
    median_delay_s: float | None
    """From a true event's first frame to the announcement; None where nothing was found."""


def event_figures(rule: DecisionRule, scores: Scores, labels: Labels, fps: float) -> EventFigures:
    """Apply ``rule`` to every clip as to a camera of its own. NaN scores are frames that complete no clip."""
    true = found = false = 0
    delays_s: list[float] = []
    for name, row in labels.items():
        announced = announced_events(rule, scores[name], fps)
        runs = true_events(row)
        true += len(runs)
        meets = [[event for event in announced if _overlap(event, run)] for run in runs]
        found += sum(bool(events) for events in meets)
        delays_s += [max(0, events[0].announced - run[0]) / fps for run, events in zip(runs, meets, strict=True) if events]
        false += sum(not any(_overlap(event, run) for run in runs) for event in announced)
    hours = sum(len(row) for row in labels.values()) / fps / 3600
    return EventFigures(true, found, false, round(false / hours, 3), median(delays_s) if delays_s else None)


def true_events(labels: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """First and last frame of every unbroken run of label 1."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], labels, [0]]).astype(np.int8)))
    return [(int(first), int(after) - 1) for first, after in zip(edges[::2], edges[1::2], strict=True)]


def announced_events(rule: DecisionRule, scores: NDArray[np.float32], fps: float) -> list[Announced]:
    """The events that the service announces for one camera with these scores."""
    announced_at: dict[str, int] = {}
    events: list[Announced] = []
    for kind, event, frame in _changes(rule, scores, fps):
        if kind == "start":
            announced_at[event.event_id] = frame
        elif kind == "end":
            started, ended = (round(at_ms * fps / 1000) for at_ms in (event.started_at_ms, event.last_active_ms))
            events.append(Announced(started, announced_at[event.event_id], ended))
    return events


def _changes(rule: DecisionRule, scores: NDArray[np.float32], fps: float) -> Iterator[tuple[str, OpenEvent, int]]:
    state: OpenEvent | None = None
    for frame, score in enumerate(scores):
        observation = Observation(f"{frame}", round(frame * 1000 / fps), None if np.isnan(score) else float(score))
        state, changes = decide(rule, state, observation)
        for change in changes:
            yield change.kind, change.event, frame
    last = Observation("end", round(len(scores) * 1000 / fps), None)
    for change in finish(state, last):
        yield change.kind, change.event, len(scores)


def _overlap(event: Announced, run: tuple[int, int]) -> bool:
    return event.started <= run[1] and run[0] <= event.ended
