"""What people leave in Redis: marks of events, the trail of what they did, their sessions, and failed logins."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal, NamedTuple, TypeVar, cast

import redis
from pydantic import BaseModel, ConfigDict, Field

from streamer.config import RedisSettings
from streamer.redis.client import redis_errors
from streamer.redis.subscriber import entries_after

MarkKind = Literal["acknowledge", "comment", "true", "false", "normal", "unmark"]
"""``true`` and ``false`` judge the alarm, ``normal`` says that this is ordinary at that camera, ``unmark`` takes either back."""
MAX_COMMENT_CHARS = 1_000

Entry = TypeVar("Entry", "Mark", "AuditEntry")


class Mark(BaseModel):
    """One entry of the stream ``{prefix}:marks``: what somebody said of an event."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal["1"] = Field(default="1", alias="schema")
    event_id: str
    camera_id: str
    kind: MarkKind
    text: str | None = Field(default=None, max_length=MAX_COMMENT_CHARS)
    """Only of a comment."""
    user: str
    at_ms: int


class AuditEntry(BaseModel):
    """One entry of the stream ``{prefix}:audit``: what somebody did, or was refused."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal["1"] = Field(default="1", alias="schema")
    user: str
    role: str
    action: str
    target: str
    address: str
    outcome: Literal["ok", "refused"]
    at_ms: int


class Attempts(NamedTuple):
    """Failed logins that count against the next one, and until when they do."""

    number: int
    left_s: int


class OperatorStore:
    """Marks, trail, sessions and failed logins in Redis. Every method raises RedisUnavailable."""

    def __init__(self, client: redis.Redis, settings: RedisSettings) -> None:
        self._client, self._settings = client, settings

    def add_mark(self, mark: Mark) -> None:
        self._add(self._settings.marks_key, mark)

    def marks_after(self, last_id: str) -> tuple[str, list[Mark]]:
        """The next marks, oldest first, and the id to go on from; no marks at the end."""
        entries = entries_after(self._client, self._settings.marks_key, last_id)
        return (entries[-1][0] if entries else last_id), [mark for _, fields in entries for mark in _parsed(Mark, fields)]

    def audit(self, entry: AuditEntry) -> None:
        self._add(self._settings.audit_key, entry)

    def newest_audit(self, count: int) -> list[AuditEntry]:
        """The newest entries of the trail, newest first."""
        with redis_errors(self._settings.audit_key):
            entries = cast("Any", self._client.xrevrange(self._settings.audit_key, count=count))
        return [entry for _, fields in entries for entry in _parsed(AuditEntry, fields)]

    def put_session(self, token: str, content: str, expire_s: int) -> None:
        with redis_errors():
            self._client.set(self._session_key(token), content, ex=expire_s)

    def read_session(self, token: str) -> str | None:
        with redis_errors():
            return cast("str | None", self._client.get(self._session_key(token)))

    def delete_session(self, token: str) -> None:
        with redis_errors():
            self._client.delete(self._session_key(token))

    def put_flow(self, token: str, content: str, expire_s: int) -> None:
        with redis_errors():
            self._client.set(self._flow_key(token), content, ex=expire_s)

    def take_flow(self, token: str) -> str | None:
        """Read and delete, so that nobody comes back twice."""
        key = self._flow_key(token)
        with redis_errors(), self._client.pipeline() as pipeline:
            pipeline.get(key)
            pipeline.delete(key)
            return cast("str | None", pipeline.execute()[0])

    def count_attempt(self, name: str, window_s: int) -> Attempts:
        """Count one more attempt under a name; all are forgotten ``window_s`` after the first."""
        key = f"{self._settings.prefix}:login:{_digest(name)}"
        with redis_errors():
            self._client.set(key, 0, ex=window_s, nx=True)
            return Attempts(self._client.incr(key), max(1, self._client.ttl(key)))

    def uncount_attempt(self, name: str) -> None:
        """Take one attempt back, because it succeeded."""
        with redis_errors():
            self._client.decr(f"{self._settings.prefix}:login:{_digest(name)}")

    def forget_attempts(self, name: str) -> None:
        with redis_errors():
            self._client.delete(f"{self._settings.prefix}:login:{_digest(name)}")

    def _session_key(self, token: str) -> str:
        return f"{self._settings.prefix}:session:{_digest(token)}"  # who reads Redis cannot take a session over

    def _flow_key(self, token: str) -> str:
        return f"{self._settings.prefix}:signin:{_digest(token)}"

    def _add(self, key: str, entry: Mark | AuditEntry) -> None:
        fields = {name: str(value) for name, value in entry.model_dump(by_alias=True, exclude_none=True).items()}
        with redis_errors(key):
            self._client.xadd(key, cast("Any", fields), maxlen=self._settings.max_events, approximate=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _parsed(model: type[Entry], fields: dict[str, str]) -> Iterator[Entry]:
    with suppress(ValueError):  # written by another version of the schema
        yield model.model_validate(fields)
