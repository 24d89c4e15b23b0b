"""Events and problems with cameras for tests of notifications, and where they come from, in memory."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from streamer.interfaces import DeliveryFailed, MessageRefused, RedisUnavailable
from streamer.notify.messages import Message
from streamer.redis.notices import StreamEntry, StreamName
from streamer.types import Event
from tests.harness.stream_entries import EVENT, HEALTH

NOON_S = 1_700_049_600
"""2023-11-15 12:00:00 UTC."""


def event_entry(event_id: str = "e", kind: str = "start", at_s: float = NOON_S, **more: Any) -> dict[str, str]:
    """An entry of an event that the service wrote at ``at_s``."""
    times = {"started_at_ms": NOON_S * 1000, "captured_at_ms": round(at_s * 1000), "scored_at_ms": round(at_s * 1000)}
    return {name: str(value) for name, value in {**EVENT, "event_id": event_id, "kind": kind, **times, **more}.items()}


def event(event_id: str = "e", kind: str = "start", at_s: float = NOON_S, **more: Any) -> Event:
    """The event of :func:`event_entry`."""
    return Event.model_validate(event_entry(event_id, kind, at_s, **more))


def health_entry(kind: str = "start", at_s: float = NOON_S, **more: Any) -> dict[str, str]:
    """An entry of the stream of health."""
    times = {"started_at_ms": NOON_S * 1000, "captured_at_ms": round(at_s * 1000), "written_at_ms": round(at_s * 1000)}
    return {name: str(value) for name, value in {**HEALTH, "kind": kind, **times, **more}.items()}


class HandledSet(set[str]):
    """Ids of events of which somebody has taken care."""

    def poll(self) -> None:
        """There is nothing to take up."""


@dataclass
class MemoryNotices:
    """:class:`streamer.notify.worker.Notices` in memory: what is not done comes again when it is opened again."""

    pending: dict[tuple[StreamName, str], Mapping[str, str]] = field(default_factory=dict)
    state: str | None = None
    handled: HandledSet = field(default_factory=HandledSet)
    is_down: bool = False
    given: set[tuple[StreamName, str]] = field(default_factory=set)
    count: int = 0

    def add(self, stream: StreamName, fields: Mapping[str, str]) -> None:
        self.count += 1
        self.pending[stream, f"{self.count}-0"] = fields

    def open(self) -> str | None:
        self._check()
        self.given.clear()
        return self.state

    def poll(self, wait_s: float = 0.0) -> list[StreamEntry]:
        self._check()
        new = [where for where in self.pending if where not in self.given][:100]
        self.given.update(new)
        return [StreamEntry(*where, self.pending[where]) for where in new]

    def unread(self) -> float:
        self._check()
        return float(len(self.pending.keys() - self.given))

    def done(self, entries: Collection[tuple[StreamName, str]], state: str | None = None) -> None:
        self._check()
        for where in entries:
            del self.pending[where]
        self.state = self.state if state is None else state

    def _check(self) -> None:
        if self.is_down:
            raise RedisUnavailable("Redis is down")


@dataclass
class MemorySender:
    """:class:`streamer.notify.senders.sender.Sender` that keeps what it is given."""

    place: str = "memory"
    told: list[Message] = field(default_factory=list)
    is_down: bool = False
    refuses: Sequence[str] = ()
    attempts: int = 0
    lacking: bool = False

    def send(self, message: Message) -> None:
        self.attempts += 1
        if self.is_down:
            raise DeliveryFailed("memory: nothing listens there")
        if message.key in self.refuses:
            raise MessageRefused("memory answered 400")
        self.told.append(message)

    def lacks(self, message: Message) -> bool:
        return self.lacking

    def close(self) -> None:
        """Nothing is open."""

    @property
    def texts(self) -> list[str]:
        return [message.text for message in self.told]

    @property
    def keys(self) -> list[str]:
        return [message.key for message in self.told]


@dataclass
class MemoryLease:
    """:class:`streamer.redis.lease.Lease` of a process that is alone."""

    is_held: bool = True
    term: int = 1
