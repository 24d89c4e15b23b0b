"""The result of the demo: events compared with the anomalies that the footage shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict
from rich.table import Table
from rich.text import Text

from streamer.redis.subscriber import HealthEntry, ScoreEntry
from streamer.types import Event


class AnomalyInterval(BaseModel):
    """An anomaly in one camera's footage; times in seconds from its first frame."""

    model_config = ConfigDict(frozen=True)

    camera_id: str
    kind: str
    description: str
    start_s: float
    end_s: float
    limit: str | None = None
    """Why the detector cannot find it, for what it is not made for."""


class CameraFault(BaseModel):
    """A problem of a camera's health that lasts to the end of its footage."""

    model_config = ConfigDict(frozen=True)

    camera_id: str
    problem: str
    description: str
    start_s: float


class GroundTruth(BaseModel):
    """What the footage shows."""

    model_config = ConfigDict(frozen=True)

    stretches: tuple[AnomalyInterval, ...]
    health: tuple[CameraFault, ...]


def read_ground_truth(path: Path) -> GroundTruth:
    """The content of ``stretches.json``."""
    return GroundTruth.model_validate_json(path.read_bytes())


@dataclass(slots=True)
class DetectedEvent:
    """One event, from all its entries in the event stream."""

    camera_id: str
    started_at_ms: int
    announced_at_ms: int
    """Capture time of the frame on which the service announced the event."""
    ended_at_ms: int
    """Capture time of the last entry if the event has no ``end``."""
    peak_score: float
    threshold: float
    channel: str | None
    """What raised it, where that is known."""


def collect_events(entries: list[Event]) -> list[DetectedEvent]:
    """Join entries by event id, in the order of the events' starts."""
    by_id: dict[str, DetectedEvent] = {}
    for entry in entries:
        if entry.kind == "start":
            times_ms = entry.started_at_ms, entry.captured_at_ms, entry.captured_at_ms
            peak = entry.peak_score, entry.threshold, entry.channel
            by_id[entry.event_id] = DetectedEvent(entry.camera_id, *times_ms, *peak)
        elif entry.event_id in by_id:
            event = by_id[entry.event_id]
            event.ended_at_ms = entry.ended_at_ms or entry.captured_at_ms
            event.peak_score = entry.peak_score
    return list(by_id.values())


class DetectionResult(NamedTuple):
    """Which anomalies were detected."""

    detections: dict[AnomalyInterval, DetectedEvent | None]
    """The first event of each anomaly; None if it was missed."""
    false_events: list[DetectedEvent]


def match_events(
    intervals: tuple[AnomalyInterval, ...], events: list[DetectedEvent], first_frame_ms: int, tolerance_ms: int
) -> DetectionResult:
    """Match events with anomalies that overlap them; an event may begin ``tolerance_ms`` after its anomaly has ended."""

    def overlap(interval: AnomalyInterval, event: DetectedEvent) -> bool:
        begin_ms = first_frame_ms + interval.start_s * 1000
        end_ms = first_frame_ms + interval.end_s * 1000 + tolerance_ms
        return event.camera_id == interval.camera_id and event.started_at_ms <= end_ms and event.ended_at_ms >= begin_ms

    detections = {interval: next((event for event in events if overlap(interval, event)), None) for interval in intervals}
    false_events = [event for event in events if not any(overlap(interval, event) for interval in intervals)]
    return DetectionResult(detections, false_events)


def result_table(result: DetectionResult, cameras: list[str], first_frame_ms: int) -> Table:
    """A row for each anomaly, each camera without one, and each false event."""
    headings = ("camera", "when", "what", "found", "delay", "peak / threshold", "by")
    table = Table(*headings, title="what happens in the footage, and what was detected", title_justify="left")
    for interval, event in result.detections.items():
        when = f"{interval.start_s:.0f} to {interval.end_s:.0f} s"
        missed = Text("cannot be found", style="yellow") if interval.limit else Text("MISSED", style="bold red")
        outcome: tuple[Text | str, ...] = missed, "", "", ""
        if event is not None:
            delay_s = (event.announced_at_ms - first_frame_ms) / 1000 - interval.start_s
            outcome = Text("found", style="bold green"), f"{delay_s:.1f} s", _peak(event), event.channel or ""
        table.add_row(interval.camera_id, when, interval.description, *outcome)
    for camera_id in sorted(set(cameras) - {interval.camera_id for interval in result.detections}):
        quiet = not any(event.camera_id == camera_id for event in result.false_events)
        table.add_row(camera_id, "never", "the control", Text("quiet", style="green") if quiet else "", "", "", "")
    for event in result.false_events:
        begin_s = (event.started_at_ms - first_frame_ms) / 1000
        table.add_row(
            event.camera_id,
            f"{begin_s:.1f} s",
            "nothing",
            Text("FALSE EVENT", style="yellow"),
            "",
            _peak(event),
            event.channel or "",
        )
    return table


def limit_lines(result: DetectionResult) -> list[str]:
    """Why what the detector is not made for was not found."""
    missed = [interval for interval, event in result.detections.items() if event is None and interval.limit]
    return [f"{interval.camera_id}: {interval.description}, which cannot be found: {interval.limit}." for interval in missed]


def fault_cells(fault: CameraFault, entries: Sequence[HealthEntry], first_frame_ms: int) -> tuple[Text | str, ...]:
    """The row of a fault of a camera: whether it was told, and is still open at the end."""
    begin_ms = first_frame_ms + round(fault.start_s * 1000)
    own = [entry for entry in entries if entry.camera_id == fault.camera_id and entry.captured_at_ms >= begin_ms]
    told = next((entry for entry in own if entry.kind == "start" and entry.problem == fault.problem), None)
    what = fault.camera_id, f"from {fault.start_s:.0f} s", fault.description
    if told is None:
        return *what, Text("MISSED", style="bold red"), "", "", ""
    lasts = own[-1].kind == "start"
    outcome = Text("told, still open", style="green") if lasts else Text("told, then ended", style="yellow")
    return *what, outcome, f"{(told.captured_at_ms - begin_ms) / 1000:.1f} s", "", "health"


def _peak(event: DetectedEvent) -> str:
    return f"{event.peak_score:.2f} / {event.threshold:.2f}"


def learning_line(camera_id: str, scores: list[ScoreEntry], first_frame_ms: int) -> str:
    """When a camera that had no profile was learned."""
    own = (entry for entry in scores if entry.camera_id == camera_id and entry.profile_id is not None)
    if (first := next(own, None)) is None:
        return f"{camera_id} was unknown, and was still being learned at the end: no event could be raised."
    watched_s = (first.captured_at_ms - first_frame_ms) / 1000
    return f"{camera_id} was unknown, was learned live, and has been on watch since second {watched_s:.0f}."


def summary_line(result: DetectionResult, scores: list[ScoreEntry], cameras_n: int) -> str:
    """Anomalies found, false events, frames scored, frames per second, and the time from capture to score."""
    found = sum(event is not None for event in result.detections.values())
    seconds = (max(entry.scored_at_ms for entry in scores) - min(entry.scored_at_ms for entry in scores)) / 1000
    latency_ms = median(entry.scored_at_ms - entry.captured_at_ms for entry in scores)
    return (
        f"{found} of {len(result.detections)} anomalies found, {len(result.false_events)} false events; "
        f"{len(scores)} frames of {cameras_n} cameras scored at {len(scores) / seconds:.0f} frames/s, "
        f"median {latency_ms:.0f} ms from capture to score."
    )
