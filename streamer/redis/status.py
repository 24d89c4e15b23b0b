"""What running services say of themselves in Redis."""

from typing import Any, Final, cast

import redis

from streamer.config import RedisSettings
from streamer.interfaces import Fields
from streamer.redis.client import redis_errors

EXPIRES_S: Final = 15
"""A service that says nothing for so long has ended."""


def put_status(client: redis.Redis, settings: RedisSettings, instance: str, fields: Fields) -> None:
    """Replace what an instance of the service says of itself. Raises RedisUnavailable."""
    key = settings.status_key(instance)
    with redis_errors(key):
        client.hset(key, mapping=cast("Any", fields))
        client.expire(key, EXPIRES_S)


def read_statuses(client: redis.Redis, settings: RedisSettings) -> dict[str, dict[str, str]]:
    """Instance -> what each service that runs says of itself. Raises RedisUnavailable."""
    prefix = settings.status_key("")
    with redis_errors():
        keys = [str(key) for key in client.scan_iter(match=f"{prefix}*", _type="HASH")]
        statuses = {key.removeprefix(prefix): cast("dict[str, str]", client.hgetall(key)) for key in keys}
    return {instance: fields for instance, fields in statuses.items() if fields}
