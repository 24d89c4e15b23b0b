"""What the service has written to Redis, as effects that can be compared."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

from streamer.chaos.audit import Effect
from streamer.config import RedisSettings
from streamer.redis.client import make_redis, redis_errors

Entry = tuple[str, dict[str, str]]


class StreamCopy:
    """The entries of one stream, read on at each call.

    What was added between the last two calls is read once more: a Redis that was killed may come back without its newest steps,
    which are then written again. That is as it should be, and no doubling.
    """

    def __init__(self) -> None:
        self._settled = 0
        self.entries: list[Entry] = []

    def read(self, read_from: Callable[[str], list[Entry]]) -> None:
        """``read_from`` gives the entries from an id on, in Redis' words: ``-``, or ``(`` and an id that is left out."""
        before = len(self.entries)
        first = f"({self.entries[self._settled - 1][0]}" if self._settled else "-"
        self.entries[self._settled :] = read_from(first)
        self._settled = min(before, len(self.entries))


class Results:
    """The scores and events of all cameras. Its methods raise RedisUnavailable."""

    def __init__(self, settings: RedisSettings) -> None:
        self._client, self._settings = make_redis(settings), settings
        self._scores: dict[str, StreamCopy] = {}
        self._events = StreamCopy()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def read(self, cameras: Iterable[str]) -> None:
        """Read on; ``cameras`` that were named before are read as well."""
        for camera_id in cameras:
            self._scores.setdefault(camera_id, StreamCopy())
        for camera_id, stream in self._scores.items():
            stream.read(partial(self._entries, self._settings.scores_key(camera_id)))
        self._events.read(partial(self._entries, self._settings.events_key))

    def newest_ms(self, camera_id: str) -> int:
        """Capture time of the newest frame of a camera that was scored, -1 if none was."""
        with redis_errors():
            newest = cast("list[Entry]", self._client.xrevrange(self._settings.scores_key(camera_id), count=1))
        return int(newest[0][1]["captured_at_ms"]) if newest else -1

    def effects(self) -> list[tuple[Effect, float | None]]:
        """All that was read, of each stream in order."""
        scores = [
            (Effect("score", camera_id, int(fields["partition"]), int(fields["offset"])), float(fields["score"]))
            for camera_id, stream in self._scores.items()
            for _, fields in stream.entries
        ]
        return [*scores, *((_event(fields), None) for _, fields in self._events.entries)]

    def _entries(self, key: str, first: str) -> list[Entry]:
        with redis_errors():
            return cast("list[Entry]", self._client.xrange(key, min=first))


def _event(fields: dict[str, str]) -> Effect:
    detail = f"{fields['event_id']} {fields['kind']}"
    return Effect("event", fields["camera_id"], int(fields["partition"]), int(fields["offset"]), detail)
