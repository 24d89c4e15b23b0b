"""Compares the demo's events with the anomalies that were edited into its footage, and formats the result."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict
from rich.table import Table
from rich.text import Text

from streamer.redis.subscriber import ScoreEntry
from streamer.types import Event


class AnomalyInterval(BaseModel):
    """One anomaly edited into one camera's footage; times in seconds from its first frame."""

    model_config = ConfigDict(frozen=True)

    camera_id: str
    kind: str
    description: str
    start_s: float
    end_s: float


def read_ground_truth(path: Path) -> tuple[AnomalyInterval, ...]:
    """The edited anomalies of all cameras, from ``stretches.json``."""
    return tuple(map(AnomalyInterval.model_validate, json.loads(path.read_bytes())["stretches"]))


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


def collect_events(entries: list[Event]) -> list[DetectedEvent]:
    """Join entries by event id, in the order of the events' starts."""
    by_id: dict[str, DetectedEvent] = {}
    for entry in entries:
        if entry.kind == "start":
            times_ms = entry.started_at_ms, entry.captured_at_ms, entry.captured_at_ms
            by_id[entry.event_id] = DetectedEvent(entry.camera_id, *times_ms, entry.peak_score, entry.threshold)
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
    """Match events with anomalies that overlap them; an event may begin ``tolerance_ms`` late, while its clip still shows one."""

    def overlap(interval: AnomalyInterval, event: DetectedEvent) -> bool:
        begin_ms = first_frame_ms + interval.start_s * 1000
        end_ms = first_frame_ms + interval.end_s * 1000 + tolerance_ms
        return event.camera_id == interval.camera_id and event.started_at_ms <= end_ms and event.ended_at_ms >= begin_ms

    detections = {interval: next((event for event in events if overlap(interval, event)), None) for interval in intervals}
    false_events = [event for event in events if not any(overlap(interval, event) for interval in intervals)]
    return DetectionResult(detections, false_events)


def result_table(result: DetectionResult, cameras: list[str], first_frame_ms: int) -> Table:
    """A row for each anomaly, each camera without one, and each false event."""
    headings = ("camera", "edited", "what", "found", "delay", "peak score / threshold")
    table = Table(*headings, title="anomalies edited into the footage, and what was detected", title_justify="left")
    for interval, event in result.detections.items():
        edited = f"{interval.start_s:.0f} to {interval.end_s:.0f} s"
        outcome: tuple[Text | str, ...] = Text("MISSED", style="bold red"), "", ""
        if event is not None:
            delay_s = (event.announced_at_ms - first_frame_ms) / 1000 - interval.start_s
            outcome = Text("found", style="bold green"), f"{delay_s:.1f} s", _peak(event)
        table.add_row(interval.camera_id, edited, interval.description, *outcome)
    for camera_id in sorted(set(cameras) - {interval.camera_id for interval in result.detections}):
        quiet = not any(event.camera_id == camera_id for event in result.false_events)
        table.add_row(camera_id, "never", "the control", Text("quiet", style="green") if quiet else "", "", "")
    for event in result.false_events:
        begin_s = (event.started_at_ms - first_frame_ms) / 1000
        table.add_row(event.camera_id, f"{begin_s:.1f} s", "nothing", Text("FALSE EVENT", style="yellow"), "", _peak(event))
    return table


def _peak(event: DetectedEvent) -> str:
    return f"{event.peak_score:.2f} / {event.threshold:.2f}"


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
