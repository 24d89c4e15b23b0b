"""The store of camera profiles: what each camera is served with, and its earlier versions to go back to."""

import base64
import binascii
from collections.abc import Callable, Collection
from typing import Any, TypeVar, cast

import redis

from deploy.errors import ProfileCorrupt, ProfileError
from deploy.health import Reference, parse_reference, reference_text
from deploy.profile import MAX_FILE_BYTES, Profile, parse_profile, profile_bytes
from streamer.config import RedisSettings
from streamer.redis.client import redis_errors

MAX_VERSIONS = 10
"""Versions kept of each camera; the content of older ones is deleted."""
_MAX_CHARS = 4 * -(-MAX_FILE_BYTES // 3)

Pipeline = Any
"""A transaction of the client, whose types do not tell the replies of a pipeline from those of the client."""
T = TypeVar("T")

# Keys, in which everything is text:
#   {prefix}:profiles                      hash: camera_id -> profile_id in force; cameras with the default profile are missing
#   {prefix}:profiles:version              counter, raised in the same transaction as every change
#   {prefix}:profiles:frozen               set: cameras whose profiles stay as they are
#   {prefix}:profiles:references           hash: camera_id -> how its picture looks when all is well, see deploy.health
#   {prefix}:profiles:history:{camera_id}  list: profile_ids, the one imported last first
#   {prefix}:profiles:content:{camera_id}  hash: profile_id -> the profile's file in base64, of the versions in the list


class RedisProfileStore:
    """:class:`~streamer.interfaces.ProfileStore` and ``ReferenceStore`` in Redis, with the changes that operators make."""

    def __init__(self, client: redis.Redis, settings: RedisSettings) -> None:
        self._client = client
        self._current_key = f"{settings.prefix}:profiles"
        self._version_key = f"{self._current_key}:version"
        self._frozen_key = f"{self._current_key}:frozen"
        self._references_key = f"{self._current_key}:references"

    def version(self) -> str:
        with redis_errors():
            return cast("str | None", self._client.get(self._version_key)) or "0"

    def current(self) -> dict[str, str]:
        with redis_errors():
            return cast("dict[str, str]", self._client.hgetall(self._current_key))

    def frozen(self) -> set[str]:
        with redis_errors():
            return cast("set[str]", self._client.smembers(self._frozen_key))

    def freeze(self, camera_id: str, *, frozen: bool) -> None:
        """Keep a camera's profile as it is, or let it follow the camera again; raises ProfileError if it has none of its own."""

        def change(pipeline: Pipeline) -> None:
            _require_profile(camera_id, served=pipeline.hexists(self._current_key, camera_id))
            pipeline.multi()
            (pipeline.sadd if frozen else pipeline.srem)(self._frozen_key, camera_id)

        self._change(camera_id, change)

    def read_references(self) -> dict[str, Reference]:
        with redis_errors():
            stored = cast("dict[str, str]", self._client.hgetall(self._references_key))
        parsed = {camera_id: parse_reference(text) for camera_id, text in stored.items()}
        return {camera_id: reference for camera_id, reference in parsed.items() if reference is not None}

    def put_reference(self, camera_id: str, reference: Reference) -> None:
        with redis_errors():
            self._client.hset(self._references_key, camera_id, reference_text(reference))

    def delete_references(self, camera_ids: Collection[str]) -> None:
        with redis_errors():
            self._client.hdel(self._references_key, *camera_ids)

    def served(self, camera_id: str) -> str:
        """The profile_id of a camera's current profile. Raises ProfileError if it has the default."""
        profile_id = self.current().get(camera_id)
        if profile_id is None:
            raise _no_profile(camera_id)
        return profile_id

    def versions(self, camera_id: str) -> list[str]:
        """The profile_ids kept of a camera, the one imported last first."""
        with redis_errors():
            return cast("list[str]", self._client.lrange(self._history_key(camera_id), 0, -1))

    def read(self, camera_id: str, profile_id: str) -> Profile:
        name = f"profile {profile_id} of camera {camera_id!r} in Redis"
        profile = parse_profile(_decoded(self._text(camera_id, profile_id, name), name), name)
        if (profile.info.camera_id, profile.profile_id) != (camera_id, profile_id):
            raise ProfileCorrupt(f"{name}: the content is that of {profile.profile_id}; import the profile again")
        return profile

    def put_first(self, profile: Profile) -> None:
        self._put(profile, lambda served: served is None)

    def put_after(self, profile: Profile, before: str) -> bool:
        return self._put(profile, lambda served: served == before)

    def put(self, profile: Profile) -> None:
        """Make a profile its camera's current one and its newest version."""
        self._put(profile, lambda _: True)

    def _put(self, profile: Profile, replaces: Callable[[str | None], bool]) -> bool:
        """Whether the profile was stored. ``replaces``: whether it is to replace the one with this id, None for the default."""
        camera_id, profile_id = profile.info.camera_id, profile.profile_id
        text = base64.b64encode(profile_bytes(profile)).decode()
        history, content = self._history_key(camera_id), self._content_key(camera_id)

        def change(pipeline: Pipeline) -> bool:
            others = [each for each in pipeline.lrange(history, 0, -1) if each != profile_id]
            served = pipeline.hget(self._current_key, camera_id)
            pipeline.multi()
            if not replaces(served):
                return False
            pipeline.hset(content, profile_id, text)
            pipeline.lrem(history, 0, profile_id)
            pipeline.lpush(history, profile_id)
            pipeline.ltrim(history, 0, MAX_VERSIONS - 1)
            for old in others[MAX_VERSIONS - 1 :]:
                pipeline.hdel(content, old)
            pipeline.hset(self._current_key, camera_id, profile_id)
            return True

        return self._change(camera_id, change)

    def roll_back(self, camera_id: str, profile_id: str | None = None) -> str:
        """Make an earlier version current, by default the one imported before the current one; returns its profile_id.

        A camera that is back at the default profile gets its newest version. Raises ProfileError if there is no such version.
        """

        def change(pipeline: Pipeline) -> str:
            history = pipeline.lrange(self._history_key(camera_id), 0, -1)
            chosen = profile_id or _version_before(camera_id, history, pipeline.hget(self._current_key, camera_id))
            if chosen not in history:
                raise ProfileError(f"camera {camera_id!r} has no version {chosen}; see: oddsight-stream cameras show {camera_id}")
            pipeline.multi()
            pipeline.hset(self._current_key, camera_id, chosen)
            return chosen

        return self._change(camera_id, change)

    def remove(self, camera_id: str) -> None:
        """Put a camera back to the default profile; its versions are kept. Raises ProfileError if it has the default."""

        def change(pipeline: Pipeline) -> None:
            _require_profile(camera_id, served=pipeline.hexists(self._current_key, camera_id))
            pipeline.multi()
            pipeline.hdel(self._current_key, camera_id)
            pipeline.srem(self._frozen_key, camera_id)
            pipeline.hdel(self._references_key, camera_id)

        self._change(camera_id, change)

    def _change(self, camera_id: str, change: Callable[[Pipeline], T]) -> T:
        """Run ``change`` and raise the counter in one transaction; again from the start if the camera's keys change meanwhile."""

        def whole_change(pipeline: Pipeline) -> T:
            result = change(pipeline)
            pipeline.incr(self._version_key)
            return result

        with redis_errors():
            transaction = cast("Any", self._client.transaction)
            keys = self._current_key, self._history_key(camera_id)
            return cast("T", transaction(whole_change, *keys, value_from_callable=True))

    def _text(self, camera_id: str, profile_id: str, name: str) -> str:
        content = self._content_key(camera_id)
        with redis_errors():
            try:
                if self._client.hstrlen(content, profile_id) > _MAX_CHARS:
                    raise ProfileCorrupt(f"{name}: larger than {MAX_FILE_BYTES} bytes; import the profile again")
                text = cast("str | None", self._client.hget(content, profile_id))
            except redis.ResponseError as error:
                raise ProfileCorrupt(f"{name}: {error}; delete the key {content} and import the profile again") from error
        if text is None:
            raise ProfileCorrupt(f"{name}: its content is missing; import the profile again")
        return text

    def _history_key(self, camera_id: str) -> str:
        return f"{self._current_key}:history:{camera_id}"

    def _content_key(self, camera_id: str) -> str:
        return f"{self._current_key}:content:{camera_id}"


def _require_profile(camera_id: str, *, served: bool) -> None:
    if not served:
        raise _no_profile(camera_id)


def _no_profile(camera_id: str) -> ProfileError:
    return ProfileError(f"camera {camera_id!r} has no profile of its own; see: oddsight-stream cameras")


def _decoded(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProfileCorrupt(f"{name}: not base64 ({error}); import the profile again") from error


def _version_before(camera_id: str, history: list[str], current: str | None) -> str:
    place = history.index(current) + 1 if current in history else 0
    if place >= len(history):
        raise ProfileError(f"camera {camera_id!r} has no earlier version of its profile; to have it learned anew: relearn")
    return history[place]
