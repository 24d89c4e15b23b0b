"""Reads the streams of minutes of scores."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple, cast

import redis

from streamer.config import RedisSettings
from streamer.minutes import MINUTE_MS
from streamer.redis.client import redis_errors
from streamer.redis.subscriber import number_of, parts_backward, time_of


class MinuteEntry(NamedTuple):
    """A minute of a camera's scores, or a part of one, see :class:`~streamer.minutes.ScoreMinute`."""

    minute_at_ms: int
    frames: int
    mean: float
    highest: float
    highest_at_ms: int
    threshold: float
    profile_id: str | None = None
    event_frames: int = 0
    withheld_frames: int = 0


def minutes_between(
    client: redis.Redis, settings: RedisSettings, camera_id: str, from_ms: int, until_ms: int
) -> list[MinuteEntry]:
    """A camera's minutes that lie in a time, if only in part, oldest first. Raises RedisUnavailable."""
    found: list[MinuteEntry] = []
    for part in parts_backward(client, settings.minutes_key(camera_id)):
        minutes = [minute for fields in part for minute in minute_entries(fields)]
        found += [each for each in minutes if each.minute_at_ms <= until_ms]
        if minutes and minutes[-1].minute_at_ms + MINUTE_MS <= from_ms:
            break
    return sorted((each for each in found[::-1] if each.minute_at_ms + MINUTE_MS > from_ms), key=lambda each: each.minute_at_ms)


def oldest_minute_ms(client: redis.Redis, settings: RedisSettings, camera_id: str) -> int | None:
    """When the oldest minute of a camera begins that Redis has; None if it has none. Raises RedisUnavailable."""
    key = settings.minutes_key(camera_id)
    with redis_errors(key):
        oldest = cast("Any", client.xrange(key, count=1))
    return next((minute.minute_at_ms for _, fields in oldest for minute in minute_entries(fields)), None)


def minute_entries(fields: dict[str, str]) -> Iterator[MinuteEntry]:
    """What an entry of a stream of minutes says; nothing if it cannot be read."""
    with suppress(KeyError, ValueError):  # written by another version of the schema
        minute_at_ms, highest_at_ms = time_of(fields["minute_at_ms"]), time_of(fields["highest_at_ms"])
        mean, highest, threshold = (number_of(fields[name]) for name in ("mean", "highest", "threshold"))
        frames, event_frames, withheld_frames = (_count(fields[name]) for name in ("frames", "event_frames", "withheld_frames"))
        profile_id = fields.get("profile_id")
        if frames:
            yield MinuteEntry(
                minute_at_ms, frames, mean, highest, highest_at_ms, threshold, profile_id, event_frames, withheld_frames
            )


def _count(text: str) -> int:
    count = int(text)
    if not 0 <= count <= 1_000_000_000:
        raise ValueError(f"{count} is no count of frames")
    return count
