"""The demo's closing table: which edited stretches were found, how soon, and which events were false.

The demo's sidecar: what was edited into its footage, and which of it the events found. Pure.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict
from rich.table import Table
from rich.text import Text

from streamer.event import Event
from streamer.redis.subscriber import ScoreEntry


class AnomalyInterval(BaseModel):
    """One edited stretch of one camera's footage, in seconds from its first frame."""

    model_config = ConfigDict(frozen=True)

    camera_id: str
    kind: str
    description: str
    start_s: float
    end_s: float


class _Sidecar(BaseModel):
    stretches: tuple[AnomalyInterval, ...]


def read_ground_truth(path: Path) -> tuple[AnomalyInterval, ...]:
    """Read ``stretches.json``."""
    return _Sidecar.model_validate_json(path.read_bytes()).stretches


@dataclass(slots=True)
class DetectedEvent:
    """One event as a subscriber knows it once it is over."""

    camera_id: str
    started_at_ms: int
    announced_at_ms: int
    """Capture time of the frame that made the service announce it."""
    ended_at_ms: int
    """Capture time of the last entry, where no ``end`` came."""
    peak_score: float
    threshold: float


def collect_events(entries: list[Event]) -> list[DetectedEvent]:
    """Event entries joined by their id, in the order of their starts."""
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
    """What became of the stretches: the first event of each (None: missed), and events of no stretch."""

    found: dict[AnomalyInterval, DetectedEvent | None]
    false_events: list[DetectedEvent]


def match_events(
    stretches: tuple[AnomalyInterval, ...], events: list[DetectedEvent], first_frame_ms: int, slack_ms: int
) -> DetectionResult:
    """Match events with stretches. An event may reach ``slack_ms`` past a stretch: a clip's last frames still show it."""

    def overlap(stretch: AnomalyInterval, event: DetectedEvent) -> bool:
        begin_ms = first_frame_ms + stretch.start_s * 1000
        end_ms = first_frame_ms + stretch.end_s * 1000 + slack_ms
        return event.camera_id == stretch.camera_id and event.started_at_ms <= end_ms and event.ended_at_ms >= begin_ms

    found = {stretch: next((event for event in events if overlap(stretch, event)), None) for stretch in stretches}
    false_events = [event for event in events if not any(overlap(stretch, event) for stretch in stretches)]
    return DetectionResult(found, false_events)


def result_table(verdict: DetectionResult, cameras: list[str], first_frame_ms: int) -> Table:
    """A row for each edited stretch and for each camera without one; false events in rows of their own."""
    table = Table(title="what was hidden in the footage, and what became of it", title_justify="left")
    for heading in ("camera", "edited", "what", "found", "delay", "peak score / threshold"):
        table.add_column(heading)
    for stretch, event in verdict.found.items():
        table.add_row(*_stretch_cells(stretch, event, first_frame_ms))
    untouched = sorted(set(cameras) - {stretch.camera_id for stretch in verdict.found})
    for camera_id in untouched:
        quiet = not any(event.camera_id == camera_id for event in verdict.false_events)
        table.add_row(camera_id, "never", "the control", Text("quiet", style="green") if quiet else "", "", "")
    for event in verdict.false_events:
        begin_s = (event.started_at_ms - first_frame_ms) / 1000
        table.add_row(event.camera_id, f"{begin_s:.1f} s", "nothing", Text("FALSE EVENT", style="yellow"), "", _peak(event))
    return table


def summary_line(verdict: DetectionResult, scores: list[ScoreEntry], n_cameras: int) -> str:
    """Found, false, frames scored, frames a second, and the time from capture to score."""
    found = sum(event is not None for event in verdict.found.values())
    seconds = (max(entry.scored_at_ms for entry in scores) - min(entry.scored_at_ms for entry in scores)) / 1000
    latency_ms = median(entry.scored_at_ms - entry.captured_at_ms for entry in scores)
    return (
        f"{found} of {len(verdict.found)} stretches found, {len(verdict.false_events)} false events; "
        f"{len(scores)} frames of {n_cameras} cameras scored at {len(scores) / seconds:.0f} frames/s, "
        f"median {latency_ms:.0f} ms from capture to score."
    )


def _stretch_cells(stretch: AnomalyInterval, event: DetectedEvent | None, first_frame_ms: int) -> tuple[str | Text, ...]:
    edited = f"{stretch.start_s:.0f} to {stretch.end_s:.0f} s"
    if event is None:
        return stretch.camera_id, edited, stretch.description, Text("MISSED", style="bold red"), "", ""
    delay_s = (event.announced_at_ms - first_frame_ms) / 1000 - stretch.start_s
    return stretch.camera_id, edited, stretch.description, Text("found", style="bold green"), f"{delay_s:.1f} s", _peak(event)


def _peak(event: DetectedEvent) -> str:
    return f"{event.peak_score:.2f} / {event.threshold:.2f}"
