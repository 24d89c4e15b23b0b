"""What one receiver of notifications reads: events and health as a member of a consumer group, and what people said of events."""

from collections import OrderedDict
from collections.abc import Collection
from typing import Final, Literal, NamedTuple, cast

import redis

from streamer.config import RedisSettings
from streamer.interfaces import Fields
from streamer.redis.client import redis_errors
from streamer.redis.groups import GroupReader
from streamer.redis.lease import Lease
from streamer.redis.operators import Mark, OperatorStore

_MEMBER: Final = "notify"
"""One process works for a receiver at a time, and takes up at once what the last one had not done."""
_MAX_EVENTS: Final = 100_000
_HARDLY_S: Final = 0.001

StreamName = Literal["events", "health"]
_KEY_NUMBERS: Final[dict[StreamName, str]] = {"events": "1", "health": "2"}

# KEYS: the streams of events and of health, the state. ARGV: the group, the new state or '', then pairs: the number of a key and
# the id of an entry. The state comes first: if Redis is full, that fails before anything is written.
_DONE = """
if ARGV[2] ~= '' then redis.call('SET', KEYS[3], ARGV[2]) end
for i = 3, #ARGV, 2 do redis.call('XACK', KEYS[tonumber(ARGV[i])], ARGV[1], ARGV[i + 1]) end
"""


class StreamEntry(NamedTuple):
    """An entry of one of the two streams."""

    stream: StreamName
    entry_id: str
    fields: Fields


class HandledEvents:
    """The events that somebody has acknowledged or judged, by the stream of marks."""

    def __init__(self, client: redis.Redis, settings: RedisSettings) -> None:
        self._store, self._position = OperatorStore(client, settings), "0-0"
        self._acknowledged: OrderedDict[str, None] = OrderedDict()
        self._judged: OrderedDict[str, None] = OrderedDict()

    def poll(self) -> None:
        """Take up new marks; does not wait. Raises RedisUnavailable."""
        position = ""
        while position != self._position:  # a part may hold nothing that can be read
            position = self._position
            self._position, marks = self._store.marks_after(position)
            for mark in marks:
                self._add(mark)

    def __contains__(self, event_id: object) -> bool:
        return event_id in self._acknowledged or event_id in self._judged

    def _add(self, mark: Mark) -> None:
        if mark.kind == "unmark":
            self._judged.pop(mark.event_id, None)
        elif mark.kind != "comment":
            events = self._acknowledged if mark.kind == "acknowledge" else self._judged
            events[mark.event_id] = None
            if len(events) > _MAX_EVENTS:
                events.popitem(last=False)


class RedisNotices:
    """What there is to tell to one receiver, and what it was told. Every method raises RedisUnavailable."""

    def __init__(self, client: redis.Redis, settings: RedisSettings, receiver: str) -> None:
        self._client, self._settings, self._receiver = client, settings, receiver
        self._group = f"notify.{receiver}"
        self._keys: dict[StreamName, str] = {"events": settings.events_key, "health": settings.health_key}
        self._state_key = f"{settings.prefix}:notify:{receiver}:state"
        self._done = client.register_script(_DONE)
        self._readers: dict[StreamName, GroupReader] = {}
        self.handled = HandledEvents(client, settings)

    def lease(self) -> Lease:
        """Who holds it works for the receiver."""
        return Lease(self._client, f"{self._settings.prefix}:notify:{self._receiver}:lease")

    def open(self) -> str | None:
        """Begin with what was not done, whoever had it, then what is new; the stored state.

        A receiver that is new begins with the next entry.
        """
        self._readers = {name: GroupReader(self._client, key, self._group, _MEMBER) for name, key in self._keys.items()}
        with redis_errors(self._state_key):
            return cast("str | None", self._client.get(self._state_key))

    def poll(self, wait_s: float) -> list[StreamEntry]:
        """New entries, or those that were not done; waits at most ``wait_s`` for the first event."""
        found = [StreamEntry("health", *each) for each in self._readers["health"].poll(_HARDLY_S)]
        return found + [StreamEntry("events", *each) for each in self._readers["events"].poll(_HARDLY_S if found else wait_s)]

    def unread(self) -> float:
        """How many entries of events were not read yet."""
        return self._readers["events"].unread()

    def done(self, entries: Collection[tuple[StreamName, str]], state: str | None = None) -> None:
        """These entries do not come again, and this is the state from now on, if it has changed; both or neither is stored."""
        places = [text for stream, entry_id in entries for text in (_KEY_NUMBERS[stream], entry_id)]
        with redis_errors(self._state_key):
            self._done(keys=[*self._keys.values(), self._state_key], args=[self._group, state or "", *places])
