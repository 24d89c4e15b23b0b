"""The demo's sidecar: what was edited into its footage, and which of it the events found. Pure."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from streamer.events import Event


class Stretch(BaseModel):
    """One edited stretch of one camera's footage, in seconds from its first frame."""

    model_config = ConfigDict(frozen=True)

    camera_id: str
    kind: str
    description: str
    start_s: float
    end_s: float


class _Sidecar(BaseModel):
    stretches: tuple[Stretch, ...]


def read_stretches(path: Path) -> tuple[Stretch, ...]:
    """Read ``stretches.json``."""
    return _Sidecar.model_validate_json(path.read_bytes()).stretches


@dataclass(slots=True)
class Announced:
    """One event as a subscriber knows it once it is over."""

    camera_id: str
    started_at_ms: int
    announced_at_ms: int
    """Capture time of the frame that made the service announce it."""
    ended_at_ms: int
    """Capture time of the last entry, where no ``end`` came."""
    peak_score: float
    threshold: float


def announced(entries: list[Event]) -> list[Announced]:
    """Event entries joined by their id, in the order of their starts."""
    by_id: dict[str, Announced] = {}
    for entry in entries:
        if entry.kind == "start":
            times_ms = entry.started_at_ms, entry.captured_at_ms, entry.captured_at_ms
            by_id[entry.event_id] = Announced(entry.camera_id, *times_ms, entry.peak_score, entry.threshold)
        elif entry.event_id in by_id:
            event = by_id[entry.event_id]
            event.ended_at_ms = entry.ended_at_ms or entry.captured_at_ms
            event.peak_score = entry.peak_score
    return list(by_id.values())


class Verdict(NamedTuple):
    """What became of the stretches: the first event of each (None: missed), and events of no stretch."""

    found: dict[Stretch, Announced | None]
    false_events: list[Announced]


def judge(stretches: tuple[Stretch, ...], events: list[Announced], first_frame_ms: int, slack_ms: int) -> Verdict:
    """Match events with stretches. An event may reach ``slack_ms`` past a stretch: a clip's last frames still show it."""

    def overlap(stretch: Stretch, event: Announced) -> bool:
        begin_ms = first_frame_ms + stretch.start_s * 1000
        end_ms = first_frame_ms + stretch.end_s * 1000 + slack_ms
        return event.camera_id == stretch.camera_id and event.started_at_ms <= end_ms and event.ended_at_ms >= begin_ms

    found = {stretch: next((event for event in events if overlap(stretch, event)), None) for stretch in stretches}
    false_events = [event for event in events if not any(overlap(stretch, event) for stretch in stretches)]
    return Verdict(found, false_events)
