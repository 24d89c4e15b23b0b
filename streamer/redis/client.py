"""The Redis client, what its errors mean, and the store of progress that every partition is committed to."""

import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from uuid import uuid4

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
)
from redis.retry import Retry

from deploy.errors import ConfigError
from streamer.areas import Quieted
from streamer.config import RedisSettings
from streamer.interfaces import CameraState, Fenced, Progress, RedisUnavailable, Step
from streamer.redis.script import STEP, Entry, step_arguments
from streamer.redis.stored import CAMERA_FIELDS, camera_field, forgotten_fields, parse_cameras, parse_progress, progress_fields
from streamer.redis.topology import connect_cluster, connect_sentinel
from streamer.types import Partition

_CONNECT_TIMEOUT_S = 3.0
_REPLY_TIMEOUT_S = 5.0
_MAX_HEATMAPS = 2_000
"""Of all cameras, some 3 KB each. Who needs one for longer stores it with the event's evidence."""
_FIELDS_AT_ONCE = 1_000

# Special before general. The cause of a failed connection is in the error's context.
_EXPLANATIONS: tuple[tuple[type[Exception], str], ...] = (
    (BusyLoadingError, "it is still loading its data from disk: wait"),
    (NoPermissionError, "its ACL forbids this user the command or the key: allow keys that start with redis.prefix"),
    (AuthenticationError, "user name or password missing or refused: check redis.password and redis.url"),
    (ReadOnlyError, "this is a read-only replica: redis.url must name the primary"),
    (OutOfMemoryError, "its memory is full: raise maxmemory, or lower redis.max_scores, minutes_keep_days and max_events"),
    (socket.gaierror, "the host name does not resolve: check redis.url and the DNS of this machine"),
    (ConnectionRefusedError, "nothing listens there: check that Redis runs, then the port in redis.url"),
    (ssl.SSLError, "TLS failed: check the certificate, and whether redis.url should start with redis:// instead of rediss://"),
    (FileNotFoundError, "the socket file does not exist: check that Redis runs, then redis.url"),
    (
        redis.TimeoutError,
        "no answer in time: it hangs, is not a Redis, is behind a firewall, or redis.url mixes up redis:// and rediss://",
    ),
)
# Errors that the client has no class for, by what Redis says.
_EXPLAINED_TEXTS = (
    ("WRONGTYPE", "something else lies under this key: rename or delete it, or set another redis.prefix"),
    ("NOREPLICAS", "too few of its replicas are connected: start them, or lower min-replicas-to-write"),
    ("No master found", "none of the Sentinels knows a primary of this name: check the addresses and the name in redis.url"),
    ("Redis Cluster cannot be connected", "none of the nodes in redis.url answers, or they are no cluster: check that they run"),
    ("CLUSTERDOWN", "a part of the cluster has no primary: wait for the failover, or start its nodes"),
    ("MISCONF", "it cannot save its data: look into its log, and whether its disk is full"),
    ("ACL failure in script", "its ACL forbids this user a command of the service's script: allow it"),
    (
        "can't run this command",
        "its ACL forbids this user HSET, HGET, XADD or TYPE, of which the service's script consists: allow them",
    ),
)


def make_redis(settings: RedisSettings) -> redis.Redis:
    """A client that returns text, with U+FFFD in place of what is not UTF-8.

    It connects with the first command and reconnects after a lost connection.
    A failed command is not retried: it may have been executed, and only the caller knows whether twice does harm.
    That of a cluster connects at once, and does retry.

    Raises:
        ConfigError: the URL is not valid.
        RedisUnavailable: none of the cluster's nodes answers.
    """
    options: dict[str, Any] = {
        "socket_connect_timeout": _CONNECT_TIMEOUT_S,
        "socket_timeout": _REPLY_TIMEOUT_S,
        "decode_responses": True,
        "encoding_errors": "replace",
    }
    if not settings.url.startswith("unix:"):  # redis-py refuses the option for Unix sockets
        options["socket_keepalive"] = True
    if settings.password is not None:
        options["password"] = settings.password.get_secret_value()
    try:
        with redis_errors():
            return _checked(_connect(settings.url, options))
    except (ValueError, TypeError):  # their text may show a part of the password; TypeError: an option that does not exist
        text = "redis.url is not valid; write redis://USER:PASSWORD@HOST:PORT/DATABASE, with %2F for a /, or see the settings"
        raise ConfigError(text) from None


def _connect(url: str, options: dict[str, Any]) -> redis.Redis:
    scheme = url.partition("://")[0]
    if scheme.endswith("+cluster"):
        return connect_cluster(url, options)
    if scheme.endswith("+sentinel"):
        return connect_sentinel(url, options)
    client = redis.Redis.from_url(url, **options, retry=Retry(NoBackoff(), 0))
    if "password" in options:  # from_url lets a password in the URL win
        client.connection_pool.connection_kwargs["password"] = options["password"]
    return client


def _checked(client: redis.Redis) -> redis.Redis:
    """The client, if a connection can be made of its options, which would else be found out by the first command."""
    if (pool := getattr(client, "connection_pool", None)) is not None:  # a cluster has one for each node, and has connected
        pool.connection_class(**pool.connection_kwargs)
    return client


def check_redis(client: redis.Redis) -> None:
    """Ping Redis; raises RedisUnavailable, which says what is wrong and what to check."""
    with redis_errors():
        client.ping()


@contextmanager
def redis_errors(key: str | None = None) -> Iterator[None]:
    """Turn errors of the Redis client inside the block into RedisUnavailable, which names the key."""
    try:
        yield
    except (redis.RedisError, RedisClusterException) as error:  # the latter is no subclass
        where = "Redis" if key is None else f"Redis, {key}"
        raise RedisUnavailable(f"{where}: {_explain(error)}") from error


def _explain(error: Exception) -> str:
    causes = error, error.__context__
    explanations = [text for kind, text in _EXPLANATIONS if any(isinstance(cause, kind) for cause in causes)]
    explanations += [text for part, text in _EXPLAINED_TEXTS if part in str(error)]
    return f"{explanations[0]} ({error})" if explanations else f"{error}: check redis.url, and whether a Redis answers there"


class RedisProgressStore:
    """:class:`~streamer.interfaces.ProgressStore` in Redis."""

    def __init__(self, client: redis.Redis, settings: RedisSettings, consumer_group: str, script: str = STEP) -> None:
        self._client, self._settings, self._consumer_group = client, settings, consumer_group
        self._step = client.register_script(script)

    def _progress_key(self, topic: str, partition: int | str) -> str:
        return f"{self._settings.prefix}:progress:{self._consumer_group}:{topic}:{partition}"

    def read(self, partition: Partition) -> Progress:
        key = self._progress_key(*partition)
        return parse_progress(self._hash(key), key)

    def camera_states(self, topic: str) -> dict[str, CameraState]:
        """The stored states of the cameras of all partitions of a topic."""
        with redis_errors():
            keys = list(self._client.scan_iter(match=self._progress_key(topic, "*"), _type="HASH"))
        return {camera_id: state for key in keys for camera_id, state in parse_cameras(self._camera_fields(key)).items()}

    def quieted(self, topic: str, camera_id: str) -> dict[str, Quieted]:
        """What stayed quiet at a camera, by the event that was called normal."""
        name = camera_field(camera_id)
        with redis_errors():
            keys = list(self._client.scan_iter(match=self._progress_key(topic, "*"), _type="HASH"))
            stored = [cast("str | None", self._client.hget(key, name)) for key in keys]
        states = [parse_cameras({name: text}).get(camera_id) for text in stored if text]
        # Of a camera that came to another partition there are two; the later one has begun anew.
        found = [item for state in states if state is not None for item in state.quieted.items()]
        return dict(sorted(found, key=lambda item: item[1].events))

    def _camera_fields(self, key: str) -> dict[str, str]:
        with redis_errors(key):  # not all of the hash: a camera's memory takes a hundred times as much
            return dict(self._client.hscan_iter(key, match=CAMERA_FIELDS, count=_FIELDS_AT_ONCE))

    def _hash(self, key: str) -> dict[str, str]:
        with redis_errors(key):
            return cast("dict[str, str]", self._client.hgetall(key))

    def apply(self, step: Step) -> None:
        self._apply(step, self._progress_key(*step.partition), self._settings.scores_key)

    def try_step(self) -> None:
        """Write a step to keys of its own and delete them again, to find out whether Redis takes the steps of the service.

        Raises RedisUnavailable, which names the right, the key or the setting of Redis that is in the way.
        """
        trial = f"{self._settings.prefix}:trial:{uuid4().hex}"
        scores_key = f"{trial}:scores"
        with redis_errors():
            self._client.delete(trial, scores_key)  # first, so that a user who may not delete leaves nothing behind
        try:
            self._apply(Step(Partition("trial", 0), None, 0, scores=[("trial", {"score": "0"})]), trial, lambda _: scores_key)
        finally:
            with redis_errors():
                self._client.delete(trial, scores_key)

    def _apply(self, step: Step, progress_key: str, scores_key: Callable[[str], str]) -> None:
        settings, entries = self._settings, self._entries(step, scores_key)
        shared = progress_key, settings.events_key, settings.health_key, settings.heatmaps_key
        # Streams of forgotten cameras may be older than their expiry.
        forgotten = [key(camera_id) for camera_id in step.forgotten for key in (scores_key, settings.minutes_key)]
        keys = list(dict.fromkeys([*shared, *(entry.key for entry in entries), *forgotten]))
        with redis_errors():
            answer = self._step(keys=keys, args=self._arguments(step, entries, keys))
        match cast("list[str]", answer):
            case ["fenced", stored]:
                raise Fenced(f"{step.partition}: stored progress is {stored or 'empty'}, expected {step.expected}")
            case ["type", key, found, needed]:
                remedy = "rename or delete it, or set another redis.prefix"
                raise RedisUnavailable(f"Redis: the key {key} is a {found}, but must be a {needed}: {remedy}")
            case ["right", key, command]:
                raise RedisUnavailable(f"Redis: its ACL forbids this user the command {command} on the key {key}: allow both")

    def _entries(self, step: Step, scores_key: Callable[[str], str]) -> list[Entry]:
        settings = self._settings
        scores = [Entry(scores_key(camera_id), settings.max_scores, fields) for camera_id, fields in step.scores]
        minutes = [Entry(settings.minutes_key(camera_id), settings.max_minutes, fields) for camera_id, fields in step.minutes]
        events = [Entry(settings.events_key, settings.max_events, fields) for fields in step.events]
        health = [Entry(settings.health_key, settings.max_events, fields) for fields in step.health]
        heatmaps = [Entry(settings.heatmaps_key, _MAX_HEATMAPS, fields) for fields in step.heatmaps]
        return [*scores, *minutes, *events, *health, *heatmaps]

    def _arguments(self, step: Step, entries: Sequence[Entry], keys: Sequence[str]) -> list[Any]:
        expire_s = round(self._settings.scores_expire_days * 86_400)
        return step_arguments(step, expire_s, forgotten_fields(step), entries, keys, progress_fields(step))
