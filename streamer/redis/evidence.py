"""What evidence is made of in Redis: events, their heat maps and scores; and where the cameras' pictures are put."""

import base64
import binascii
import socket
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from math import isfinite
from typing import Any, Final, NamedTuple, cast

import redis

from streamer.config import RedisSettings
from streamer.interfaces import Fields
from streamer.redis.client import redis_errors
from streamer.redis.groups import Entry, GroupReader
from streamer.redis.subscriber import entries_after, health_entries, scores_between
from streamer.types import Partition

GROUP: Final = "evidence"
_PICTURE_EXPIRES_S: Final = 86_400
_MAX_EVENTS: Final = 1_000


class EventHeatmap(NamedTuple):
    """A heat map of an event, and the frame that it belongs to."""

    event_id: str
    score: float
    captured_at_ms: int
    partition: Partition
    offset: int
    png: bytes


class HeatmapFollower:
    """The highest heat maps of the newest events."""

    def __init__(self, client: redis.Redis, settings: RedisSettings) -> None:
        self._client, self._key = client, settings.heatmaps_key
        self._position = "0-0"
        self._best: OrderedDict[str, EventHeatmap] = OrderedDict()

    def poll(self) -> None:
        """Take up new entries; does not wait. Raises RedisUnavailable."""
        while entries := entries_after(self._client, self._key, self._position):
            self._position = entries[-1][0]
            for _, fields in entries:
                self._add(fields)

    def best(self, event_id: str) -> EventHeatmap | None:
        """The one with the highest score so far; None if the engine gave none, or it is no longer kept."""
        return self._best.get(event_id)

    def _add(self, fields: Fields) -> None:
        with suppress(KeyError, ValueError, binascii.Error):  # written by another version
            heatmap = EventHeatmap(
                fields["event_id"],
                float(fields["score"]),
                int(fields["captured_at_ms"]),
                Partition(fields["topic"], int(fields["partition"])),
                int(fields["offset"]),
                base64.b64decode(fields["png"], validate=True),
            )
            best = self._best.get(heatmap.event_id)
            if isfinite(heatmap.score) and (best is None or heatmap.score > best.score):
                self._best[heatmap.event_id] = heatmap
            if len(self._best) > _MAX_EVENTS:
                self._best.popitem(last=False)


class HealthFollower:
    """The cameras with which something is wrong."""

    def __init__(self, client: redis.Redis, settings: RedisSettings) -> None:
        self._client, self._key = client, settings.health_key
        self._position = "0-0"
        self.unwell: set[str] = set()

    def poll(self) -> None:
        """Take up new entries; does not wait. Raises RedisUnavailable."""
        while entries := entries_after(self._client, self._key, self._position):
            self._position = entries[-1][0]
            for entry in (each for _, fields in entries for each in health_entries(fields)):
                (self.unwell.add if entry.kind == "start" else self.unwell.discard)(entry.camera_id)


class RedisEvidence:
    """Events as a member of their consumer group, and what belongs to them. Every method raises RedisUnavailable."""

    def __init__(self, client: redis.Redis, settings: RedisSettings) -> None:
        self._client, self._settings = client, settings
        self._events = GroupReader(client, settings.events_key, GROUP, socket.gethostname())
        self._marks = GroupReader(client, settings.marks_key, GROUP, socket.gethostname(), from_start=True)
        self._heatmaps, self._health = HeatmapFollower(client, settings), HealthFollower(client, settings)

    def poll(self, wait_s: float) -> Sequence[Entry]:
        """Entries of events that are new, or were not done; waits at most ``wait_s`` for the first one."""
        entries = self._events.poll(wait_s)
        self._heatmaps.poll()
        return entries

    def unread(self) -> float:
        """How many entries of events were not read yet."""
        return self._events.unread()

    def done(self, entry_id: str) -> None:
        """This entry does not come again."""
        self._events.done([entry_id])

    def marks(self) -> Sequence[Entry]:
        """Entries of operators' marks that are new, or were not done; hardly waits."""
        return self._marks.poll(0.001)

    def mark_done(self, entry_id: str) -> None:
        """This mark does not come again."""
        self._marks.done([entry_id])

    def heatmap(self, event_id: str) -> EventHeatmap | None:
        """The event's highest heat map so far; None if the engine gave none, or it is no longer kept."""
        return self._heatmaps.best(event_id)

    def scores(self, camera_id: str, from_ms: int, until_ms: int) -> list[tuple[int, float, float]]:
        """Capture time, score and threshold of a camera's frames that were captured then."""
        return scores_between(self._client, self._settings, camera_id, from_ms, until_ms)

    def unwell_cameras(self) -> set[str]:
        """The cameras with which something is wrong now, so that their pictures are not usual."""
        self._health.poll()
        return self._health.unwell

    def put_picture(self, camera_id: str, captured_at_ms: int, jpeg: bytes, width_px: int, height_px: int) -> None:
        """Store what a camera shows now, for a day."""
        key = self._settings.picture_key(camera_id)
        fields = {
            "captured_at_ms": captured_at_ms,
            "width_px": width_px,
            "height_px": height_px,
            "jpeg": base64.b64encode(jpeg).decode(),
        }
        with redis_errors(key):
            self._client.hset(key, mapping=cast("Any", fields))
            self._client.expire(key, _PICTURE_EXPIRES_S)
