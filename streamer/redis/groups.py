"""Reads a stream as a member of a Redis consumer group: each entry goes to one member, and comes again until it is done."""

import math
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

import redis

from streamer.interfaces import Fields
from streamer.redis.client import redis_errors

_MAX_ENTRIES: Final = 100
_RECLAIM_AFTER_S: Final = 900.0
"""An entry that a member has held for so long goes to another one: that member is gone."""
_RECLAIM_EVERY_S: Final = 60.0


class Entry(NamedTuple):
    """An entry of a stream."""

    entry_id: str
    fields: Fields


class GroupReader:
    """One member of a consumer group. After a restart under the same name it first gets what it had not done."""

    def __init__(self, client: redis.Redis, key: str, group: str, member: str, *, from_start: bool = False) -> None:
        """A new group begins with the next entry, or ``from_start`` of the stream. Raises RedisUnavailable."""
        self._client, self._key, self._group, self._member = client, key, group, member
        self._position, self._reclaim_at_s = "0", 0.0
        self._create_group("0" if from_start else "$")

    def poll(self, wait_s: float) -> Sequence[Entry]:
        """New entries, or those that were not done; waits at most ``wait_s`` for the first one. Raises RedisUnavailable."""
        with redis_errors(self._key):
            try:
                return self._reclaimed() or self._read(wait_s)
            except redis.ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
        self._create_group("0")  # Redis has been emptied: nothing in it has been seen
        return []

    def done(self, entry_ids: Sequence[str]) -> None:
        """These entries do not come again. Raises RedisUnavailable."""
        if entry_ids:
            with redis_errors(self._key):
                self._client.xack(self._key, self._group, *entry_ids)

    def unread(self) -> float:
        """How many entries nobody of the group has read yet; NaN if Redis does not say. Raises RedisUnavailable."""
        with redis_errors(self._key):
            try:
                groups = self._client.xinfo_groups(self._key)
            except redis.ResponseError:  # there is no such stream: Redis has been emptied
                return 0.0
        lag = next((group.get("lag") for group in groups if group["name"] == self._group), 0)
        return math.nan if lag is None else float(lag)

    def _create_group(self, begin: str) -> None:
        with redis_errors(self._key):
            try:
                self._client.xgroup_create(self._key, self._group, begin, mkstream=True)
            except redis.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    def _read(self, wait_s: float) -> Sequence[Entry]:
        block_ms = max(1, round(wait_s * 1000))
        answer: Any = self._client.xreadgroup(
            self._group, self._member, {self._key: self._position}, count=_MAX_ENTRIES, block=block_ms
        )
        by_stream = answer.values() if isinstance(answer, dict) else [entries for _, entries in answer or ()]
        entries = _entries([pair for part in by_stream for pair in (part[0] if isinstance(answer, dict) else part)])
        if self._position != ">":  # through what this member had not done, then on with what is new
            self._position = entries[-1].entry_id if entries else ">"
        return entries

    def _reclaimed(self) -> Sequence[Entry]:
        """What members had taken on that are gone."""
        if self._position != ">" or time.monotonic() < self._reclaim_at_s:
            return []
        self._reclaim_at_s = time.monotonic() + _RECLAIM_EVERY_S
        idle_ms = round(_RECLAIM_AFTER_S * 1000)
        answer = self._client.xautoclaim(self._key, self._group, self._member, idle_ms, count=_MAX_ENTRIES)
        return _entries(cast("Any", answer)[1])


def _entries(pairs: Sequence[Any]) -> list[Entry]:
    """Entries that were trimmed away meanwhile have no fields."""
    return [Entry(entry_id, fields or {}) for entry_id, fields in pairs if entry_id is not None]
