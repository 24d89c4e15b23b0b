"""What Redis tells of the whole: the cameras' pictures, the running services, and Redis itself."""

import base64
import binascii
from collections.abc import Collection
from itertools import chain, islice
from typing import Any, NamedTuple, cast

import redis
from redis.exceptions import NoPermissionError

from streamer.config import RedisSettings
from streamer.interfaces import RedisUnavailable
from streamer.redis.client import redis_errors
from streamer.redis.minutes import MinuteEntry, minutes_between, oldest_minute_ms
from streamer.redis.status import read_statuses
from streamer.redis.subscriber import scores_between

_MAX_PICTURE_CHARS = 4 << 20


class Picture(NamedTuple):
    """The newest picture of a camera, small, with its privacy masks burnt in."""

    captured_at_ms: int
    jpeg: bytes


class OverviewReader:
    """Reads what other parts of Oddsight, and Redis itself, tell of themselves; pictures can be deleted.

    Every method raises RedisUnavailable.
    """

    def __init__(self, client: redis.Redis, settings: RedisSettings) -> None:
        self._client, self._settings = client, settings

    def picture_times(self, camera_ids: Collection[str]) -> dict[str, int]:
        """When the newest picture of each camera that has one was taken, in milliseconds since the Unix epoch."""
        with redis_errors(), self._client.pipeline(transaction=False) as pipeline:
            for camera_id in camera_ids:
                pipeline.hget(self._settings.picture_key(camera_id), "captured_at_ms")
            times = pipeline.execute(raise_on_error=False)
        return {name: int(time) for name, time in zip(camera_ids, times, strict=True) if isinstance(time, str) and time.isdigit()}

    def picture(self, camera_id: str) -> Picture | None:
        """A camera's newest picture; None if there is none, or it cannot be read."""
        key = self._settings.picture_key(camera_id)
        with redis_errors(key):
            at_ms, text = cast("list[str | None]", self._client.hmget(key, ["captured_at_ms", "jpeg"]))
        if at_ms is None or text is None or len(text) > _MAX_PICTURE_CHARS:
            return None
        try:
            return Picture(int(at_ms), base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError):
            return None

    def forget_picture(self, camera_id: str) -> None:
        """Delete a camera's newest picture, because it shows what nobody may see any more; the next one does not."""
        key = self._settings.picture_key(camera_id)
        with redis_errors(key):
            self._client.delete(key)

    def scores(self, camera_id: str, from_ms: int, until_ms: int) -> list[tuple[int, float, float]]:
        """See :func:`~streamer.redis.subscriber.scores_between`."""
        return scores_between(self._client, self._settings, camera_id, from_ms, until_ms)

    def minutes(self, camera_id: str, from_ms: int, until_ms: int) -> list[MinuteEntry]:
        """See :func:`~streamer.redis.minutes.minutes_between`."""
        return minutes_between(self._client, self._settings, camera_id, from_ms, until_ms)

    def minutes_since_ms(self, camera_id: str) -> int | None:
        """See :func:`~streamer.redis.minutes.oldest_minute_ms`."""
        return oldest_minute_ms(self._client, self._settings, camera_id)

    def services(self) -> dict[str, dict[str, str]]:
        """What each running service says of itself, by its instance."""
        return read_statuses(self._client, self._settings)

    def stream_lengths(self, camera_ids: Collection[str]) -> dict[str, int]:
        """How many entries each stream holds, by its key; those of scores as one sum, and those of minutes."""
        settings = self._settings
        names = [settings.events_key, settings.health_key, settings.heatmaps_key, settings.marks_key, settings.audit_key]
        keys = {name: [name] for name in names}
        keys |= {key("*"): [key(camera_id) for camera_id in camera_ids] for key in (settings.scores_key, settings.minutes_key)}
        with redis_errors(), self._client.pipeline(transaction=False) as pipeline:
            for key in chain.from_iterable(keys.values()):
                pipeline.xlen(key)
            lengths = pipeline.execute(raise_on_error=False)
        counts = (length if isinstance(length, int) else 0 for length in lengths)
        return {name: sum(islice(counts, len(own))) for name, own in keys.items()}

    def server(self) -> dict[str, str]:
        """Version, memory and uptime of the Redis server, as far as its user may ask for them."""
        try:
            with redis_errors():
                said: dict[str, Any] = self._client.info()
        except RedisUnavailable as error:
            if isinstance(error.__cause__, NoPermissionError):
                return {}
            raise
        wanted = ("server_name", "valkey_version", "redis_version", "used_memory_human", "maxmemory_human", "uptime_in_seconds")
        return {name: str(said[name]) for name in wanted if name in said}
