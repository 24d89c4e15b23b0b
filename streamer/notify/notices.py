"""What there is to tell: entries of the streams of events and of health, and whom they concern."""

import hashlib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, cast

from streamer.interfaces import Fields
from streamer.receivers import EmailSettings, KafkaTopicSettings, MqttSettings, WebhookSettings
from streamer.types import LATEST_MS, Event

ReceiverSettings = WebhookSettings | MqttSettings | EmailSettings | KafkaTopicSettings


@dataclass(frozen=True, slots=True)
class Problem:
    """The start or the end of a problem with a camera."""

    kind: Literal["start", "end"]
    camera_id: str
    problem: str
    text: str
    """The problem in words."""
    started_at_ms: int
    captured_at_ms: int
    written_at_ms: int

    @property
    def is_of(self) -> tuple[str, str, int]:
        """The same for the start and the end of one problem."""
        return self.camera_id, self.problem, self.started_at_ms


Notice = Event | Problem


def problem_of(fields: Fields) -> Problem | None:
    """The problem of an entry of the stream of health; None if it is of another version, or was trimmed away meanwhile."""
    try:
        kind, captured_at_ms = fields["kind"], _time_ms(fields["captured_at_ms"])
        started_at_ms = _time_ms(fields.get("started_at_ms", "0"))
        written_at_ms = _time_ms(fields.get("written_at_ms", fields["captured_at_ms"]))
        about = fields["camera_id"], fields["problem"], fields["text"]
    except (KeyError, ValueError):
        return None
    if kind not in {"start", "end"}:
        return None
    return Problem(cast("Literal['start', 'end']", kind), *about, started_at_ms, captured_at_ms, written_at_ms)


def at_ms(notice: Notice) -> int:
    """When the service wrote it, by its clock."""
    return notice.scored_at_ms if isinstance(notice, Event) else notice.written_at_ms


def key_of(notice: Notice) -> str:
    """The same for entries that tell the same; printable ASCII."""
    if isinstance(notice, Problem):
        about = "\n".join(map(str, (*notice.is_of, notice.kind)))
        return f"health-{hashlib.sha256(about.encode()).hexdigest()[:16]}-{notice.kind}"
    key = "-".join(notice.key)
    return key if key.isascii() and key.isprintable() else hashlib.sha256(key.encode()).hexdigest()


def concerns(receiver: ReceiverSettings, notice: Notice) -> bool:
    """Whether a receiver may be told of this, or must know it because another channel raised it than those that it wants."""
    if not any(fnmatchcase(notice.camera_id, pattern) for pattern in receiver.cameras):
        return False
    if isinstance(notice, Problem):
        return receiver.health
    return bool(receiver.kinds) and (notice.kind in receiver.kinds or not wants(receiver, notice))


def wants(receiver: ReceiverSettings, event: Event) -> bool:
    """Whether a receiver wants events that are raised by this, if that is known."""
    return event.channel is None or event.channel in receiver.channels


def is_due_ms(receiver: ReceiverSettings, notice: Notice) -> int:
    """When it is time to tell this, if nobody has taken care of it until then. The end of something waits for nothing."""
    if receiver.escalate_after_s is None or notice.kind == "end":
        return at_ms(notice)
    return at_ms(notice) + round(receiver.escalate_after_s * 1000)


def _time_ms(text: str) -> int:
    time_ms = int(text)
    if not 0 <= time_ms <= LATEST_MS:
        raise ValueError(f"{time_ms} is no time")
    return time_ms
