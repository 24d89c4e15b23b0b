"""What a receiver gets: one line for people, and the same as fields for templates and as JSON for programs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from streamer.notify.notices import Notice, Problem, key_of
from streamer.notify.policy import CameraSummary, QuietSummary
from streamer.receivers import NotifySettings
from streamer.types import Event

_UNKNOWN = "something out of the ordinary"


@dataclass(frozen=True, slots=True)
class Message:
    """One message."""

    key: str
    """The same if it is sent again; printable ASCII."""
    text: str
    """One line."""
    content: Mapping[str, Any]
    """All of it, as JSON."""
    camera_id: str | None = None
    """None if it is of no camera in particular."""
    event: Event | None = None

    @property
    def fields(self) -> dict[str, str]:
        """The content as texts, for templates."""
        return {name: str(value) for name, value in self.content.items() if isinstance(value, str | int | float)}


def message_of(notice: Notice, settings: NotifySettings, more: int = 0) -> Message:
    """What is told of an entry; ``more``: how many events of its camera were counted since the last one that was told."""
    known = _content(notice)
    text = _text(notice) + (f", and {more} more since the last one told" if more else "")
    content: dict[str, Any] = {
        "type": "health" if isinstance(notice, Problem) else "event",
        "key": key_of(notice),
        "message": text,
        **known,
        "started_at": _local(notice.started_at_ms, settings),
    }
    if more:
        content["more"] = more
    if settings.dashboard_url is not None:
        content["dashboard_url"] = settings.dashboard_url.rstrip("/") + _page(notice)
    return Message(content["key"], text, content, notice.camera_id, notice if isinstance(notice, Event) else None)


def summary_message(quiet: QuietSummary, settings: NotifySettings) -> Message:
    """What was not told in quiet hours."""
    cameras = {camera_id: _told(camera) for camera_id, camera in quiet.cameras.items()}
    since = _local(quiet.since_ms, settings)
    text = f"quiet hours, since {since}: " + "; ".join(f"{camera_id}: {told}" for camera_id, told in cameras.items())
    key = f"summary-{quiet.since_ms}"
    events = {camera_id: camera.events for camera_id, camera in quiet.cameras.items() if camera.events}
    problems = {camera_id: dict(camera.problems) for camera_id, camera in quiet.cameras.items() if camera.problems}
    content: dict[str, Any] = {"type": "summary", "key": key, "message": text, "events": events, "problems": problems}
    content["started_at_ms"], content["started_at"] = quiet.since_ms, since
    if settings.dashboard_url is not None:
        content["dashboard_url"] = settings.dashboard_url.rstrip("/") + "/#/events"
    return Message(key, text, content)


def trial_message(receiver: str, now: datetime) -> Message:
    """What ``--test`` sends."""
    text, key = f"a test of the receiver {receiver}: all is well", f"test-{round(now.timestamp() * 1000)}"
    return Message(key, text, {"type": "test", "key": key, "message": text})


def _text(notice: Notice) -> str:
    return _problem_text(notice) if isinstance(notice, Problem) else _event_text(notice)


def _event_text(event: Event) -> str:
    if event.kind == "end":
        lasted_s = ((event.ended_at_ms or event.captured_at_ms) - event.started_at_ms) / 1000
        return f"{event.camera_id}: over after {max(0.0, lasted_s):.0f} s"
    begin = "" if event.kind == "start" else "still: "
    where = f" ({event.zones})" if event.zones else ""
    scores = f"{event.peak_score:.3g}, threshold {event.threshold:.3g}"
    return f"{event.camera_id}: {begin}{event.text or _UNKNOWN}{where}; score {scores}"


def _problem_text(problem: Problem) -> str:
    return f"{problem.camera_id}: {'is well again, no longer: ' if problem.kind == 'end' else ''}{problem.text}"


def _content(notice: Notice) -> dict[str, Any]:
    if isinstance(notice, Event):
        return notice.model_dump(by_alias=True, exclude_none=True)
    known = "kind", "camera_id", "problem", "text", "started_at_ms", "captured_at_ms"
    return {name: getattr(notice, name) for name in known}


def _page(notice: Notice) -> str:
    """Where the dashboard shows it."""
    return f"/#/event/{notice.event_id}" if isinstance(notice, Event) else "/#/"


def _told(camera: CameraSummary) -> str:
    events = [f"{camera.events} event{'s' if camera.events > 1 else ''}"] if camera.events else []
    problems = [problem if kind == "start" else f"{problem}, over" for problem, kind in camera.problems.items()]
    return ", ".join([*events, *problems])


def _local(at_ms: int, settings: NotifySettings) -> str:
    return datetime.fromtimestamp(at_ms / 1000, settings.zone).astimezone(settings.zone).isoformat(" ", "seconds")
