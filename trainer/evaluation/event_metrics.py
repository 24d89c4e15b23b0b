"""Events that the service would have announced, against the true ones."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from deploy.decision import DecisionRule, Observation, OpenEvent, decide, finish
from trainer.evaluation.metrics import Labels, Scores


@dataclass(frozen=True, slots=True)
class Announced:
    """An event as the service announces it, in frames of one clip."""

    started: int
    announced: int
    ended: int
    """The last frame that belongs to it."""


@dataclass(frozen=True, slots=True)
class ClipEvents:
    """True and announced events of one clip. Two meet if they share a frame; a true event that meets none was missed."""

    true: tuple[tuple[int, int], ...]
    """First and last frame of each."""
    announced: tuple[Announced, ...]

    @property
    def found(self) -> int:
        """True events that meet an announced one."""
        return len(self.delays)

    @property
    def false(self) -> int:
        """Announced events that meet no true one."""
        return sum(not any(_meet(event, run) for run in self.true) for event in self.announced)

    @property
    def delays(self) -> list[int]:
        """Of each found event: frames from its first one to the announcement that came first; 0 if that came before it."""
        meeting = [(run, [event for event in self.announced if _meet(event, run)]) for run in self.true]
        return [max(0, events[0].announced - run[0]) for run, events in meeting if events]


@dataclass(frozen=True, slots=True)
class EventFigures:
    """How the announced events of some footage meet the true ones."""

    true: int
    announced: int
    found: int
    false: int
    precision: float | None
    """Share of the announced events that are not false; None where nothing was announced."""
    recall: float | None
    """Share of the true events that were found; None where there are none."""
    f1: float | None
    """Harmonic mean of both, 0 if one of them is 0 or None; None if both are None."""
    median_delay_s: float | None
    """Over the found events; None where nothing was found."""
    worst_delay_s: float | None
    """The same."""
    false_per_camera_hour: float
    """False events by the duration of all footage, anomalous parts included."""
    alarmed_normal_share: float | None
    """Share of the normal frames that lie inside announced events: what an alarm that never ends would pay for its recall."""


def event_figures(rule: DecisionRule, scores: Scores, labels: Labels, fps: float) -> EventFigures:
    """Apply ``rule`` to every clip as to a camera of its own. NaN scores are frames that complete no clip."""
    clips = {name: clip_events(rule, scores[name], row, fps) for name, row in labels.items()}
    true, announced = sum(len(clip.true) for clip in clips.values()), sum(len(clip.announced) for clip in clips.values())
    found, false = sum(clip.found for clip in clips.values()), sum(clip.false for clip in clips.values())
    precision, recall = _share(announced - false, announced), _share(found, true)
    delays_s = [delay / fps for clip in clips.values() for delay in clip.delays]
    hours = sum(len(row) for row in labels.values()) / fps / 3600
    return EventFigures(
        true=true,
        announced=announced,
        found=found,
        false=false,
        precision=precision,
        recall=recall,
        f1=_f1(precision, recall),
        median_delay_s=median(delays_s) if delays_s else None,
        worst_delay_s=max(delays_s, default=None),
        false_per_camera_hour=round(false / hours, 3),
        alarmed_normal_share=_alarmed_normal_share(clips, labels),
    )


def clip_events(rule: DecisionRule, scores: NDArray[np.float32], labels: NDArray[np.uint8], fps: float) -> ClipEvents:
    """The true events of one clip, and those that the service would announce."""
    return ClipEvents(tuple(true_events(labels)), tuple(announced_events(rule, scores, fps)))


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


def _meet(event: Announced, run: tuple[int, int]) -> bool:
    return event.started <= run[1] and run[0] <= event.ended


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _f1(precision: float | None, recall: float | None) -> float | None:
    if precision is None and recall is None:
        return None
    return 2 * precision * recall / (precision + recall) if precision and recall else 0.0


def _alarmed_normal_share(clips: Mapping[str, ClipEvents], labels: Labels) -> float | None:
    alarmed = normal = 0
    for name, row in labels.items():
        inside = np.zeros(len(row), np.bool_)
        for event in clips[name].announced:
            inside[event.started : event.ended + 1] = True
        alarmed += int((inside & (row == 0)).sum())
        normal += int((row == 0).sum())
    return _share(alarmed, normal)
