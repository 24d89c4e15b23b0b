"""The store of areas that operators draw, and of what they called normal."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import redis
from pydantic import ValidationError

from streamer.areas import CameraAreas
from streamer.config import RedisSettings
from streamer.redis.client import redis_errors

# Keys:
#   {prefix}:areas          hash: camera_id -> CameraAreas as JSON
#   {prefix}:areas:version  counter, raised in the same transaction as every change


class RedisAreaStore:
    """:class:`~streamer.interfaces.AreaStore` in Redis. Every method raises RedisUnavailable."""

    def __init__(self, client: redis.Redis, settings: RedisSettings) -> None:
        self._client = client
        self._key = f"{settings.prefix}:areas"
        self._version_key = f"{self._key}:version"

    def version(self) -> str:
        with redis_errors():
            return cast("str | None", self._client.get(self._version_key)) or "0"

    def read(self) -> Mapping[str, CameraAreas]:
        with redis_errors():
            stored = cast("dict[str, str]", self._client.hgetall(self._key))
        parsed = {camera_id: _parsed(text) for camera_id, text in stored.items()}
        return {camera_id: areas for camera_id, areas in parsed.items() if areas is not None}

    def change(self, camera_id: str, change: Callable[[CameraAreas], CameraAreas]) -> CameraAreas:
        """Change what is stored of one camera, whoever else does at the same time; what is stored then."""
        changed = CameraAreas()

        def transaction(pipeline: Any) -> None:
            nonlocal changed
            before = _parsed(cast("str | None", pipeline.hget(self._key, camera_id)) or "{}") or CameraAreas()
            changed = CameraAreas.model_validate(change(before).model_dump())
            pipeline.multi()
            pipeline.hset(self._key, camera_id, changed.model_dump_json())
            pipeline.incr(self._version_key)

        with redis_errors():
            self._client.transaction(transaction, self._key)
        return changed


def _parsed(text: str) -> CameraAreas | None:
    """None for what is damaged, or of another version."""
    try:
        return CameraAreas.model_validate_json(text)
    except ValidationError:
        return None
