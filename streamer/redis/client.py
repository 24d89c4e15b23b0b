"""The Redis client, what its errors mean, and the store of progress that every partition is committed to."""

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, NoPermissionError, OutOfMemoryError, ReadOnlyError
from redis.retry import Retry

from deploy.errors import ConfigError
from streamer.config import RedisSettings
from streamer.interfaces import CameraState, Fenced, Fields, LearnerSnapshot, Progress, RedisUnavailable, Step, TopicVersion
from streamer.types import Partition

_CAMERA, _LEARNER = "camera:", "learner:"  # first parts of field names in the hash of a partition
_TOPIC = "topic"

_CONNECT_TIMEOUT_S = 3.0
_REPLY_TIMEOUT_S = 5.0

# Special before general. The cause of a failed connection is in the error's context.
_EXPLANATIONS: tuple[tuple[type[Exception], str], ...] = (
    (BusyLoadingError, "it is still loading its data from disk: wait"),
    (NoPermissionError, "its ACL forbids this user the command or the key: allow keys that start with redis.prefix"),
    (AuthenticationError, "user name or password missing or refused: check redis.password and redis.url"),
    (ReadOnlyError, "this is a read-only replica: redis.url must name the primary"),
    (OutOfMemoryError, "its memory is full: raise maxmemory, or lower redis.max_scores and redis.max_events"),
    (socket.gaierror, "the host name does not resolve: check redis.url and the DNS of this machine"),
    (ConnectionRefusedError, "nothing listens there: check that Redis runs, then the port in redis.url"),
    (ssl.SSLError, "TLS failed: check the certificate, and whether redis.url should start with redis:// instead of rediss://"),
    (FileNotFoundError, "the socket file does not exist: check that Redis runs, then redis.url"),
    (
        redis.TimeoutError,
        "no answer in time: it hangs, is not a Redis, is behind a firewall, or redis.url mixes up redis:// and rediss://",
    ),
)


def make_redis(settings: RedisSettings) -> redis.Redis:
    """A client that returns text, with U+FFFD in place of what is not UTF-8.

    It connects with the first command and reconnects after a lost connection.
    A failed command is not retried: it may have been executed, and only the caller knows whether twice does harm.

    Raises:
        ConfigError: the URL is not valid.
    """
    # redis-py refuses the option for Unix sockets.
    options: dict[str, Any] = {} if settings.url.startswith("unix:") else {"socket_keepalive": True}
    try:
        client = redis.Redis.from_url(
            settings.url,
            **options,
            socket_connect_timeout=_CONNECT_TIMEOUT_S,
            socket_timeout=_REPLY_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
            encoding_errors="replace",
        )
    except ValueError as error:
        raise ConfigError(f"redis.url: {error}; write redis://HOST:PORT/DATABASE") from error
    if settings.password is not None:  # passed to from_url, a password in the URL would win
        client.connection_pool.connection_kwargs["password"] = settings.password.get_secret_value()
    return client


def check_redis(client: redis.Redis) -> None:
    """Ping Redis; raises RedisUnavailable, which says what is wrong and what to check."""
    with redis_errors():
        client.ping()


@contextmanager
def redis_errors() -> Iterator[None]:
    """Turn errors of the Redis client inside the block into RedisUnavailable."""
    try:
        yield
    except redis.RedisError as error:
        causes = error, error.__context__
        explanations = [text for kind, text in _EXPLANATIONS if any(isinstance(cause, kind) for cause in causes)]
        text = f"{explanations[0]} ({error})" if explanations else f"{error}: check redis.url, and whether a Redis answers there"
        raise RedisUnavailable(f"Redis: {text}") from error


# One hash for each partition and consumer group holds the next offset and each camera's state. A step is one call of this
# script: it advances the next offset, replaces the states of its cameras and appends scores and events, but only if the stored
# next offset is the one the step starts from. Otherwise nothing is written and the caller is fenced. That covers a consumer that
# was suspended and wakes up, two consumers that both believe they own a partition, a lost reply, and a Redis restored from an
# older snapshot; the remedy is always to read the progress again and go on from it.
#
# KEYS: progress hash, stream of events, stream of health, then the stream of scores of each camera that has scores in the step.
# ARGV: expected next offset ('' for none), number of hash pairs, the pairs, max events, max scores, number of entries, then for
# each entry: index of its key, number of strings, the strings.
_STEP = """
local stored = redis.call('HGET', KEYS[1], 'next_offset') or ''
if stored ~= ARGV[1] then return {0, stored} end
local at = 3
for _ = 1, tonumber(ARGV[2]) do
  redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
  at = at + 2
end
local max_events, max_scores, entries = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
at = at + 3
for _ = 1, entries do
  local key, count = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local kept = key <= 3 and max_events or max_scores
  redis.call('XADD', KEYS[key], 'MAXLEN', '~', kept, '*', unpack(ARGV, at + 2, at + 1 + count))
  at = at + 2 + count
end
return {1, ARGV[4]}
"""


class RedisProgressStore:
    """:class:`~streamer.interfaces.ProgressStore` in Redis."""

    def __init__(self, client: redis.Redis, settings: RedisSettings, consumer_group: str) -> None:
        self._client, self._settings, self._consumer_group = client, settings, consumer_group
        self._step = client.register_script(_STEP)

    def _progress_key(self, topic: str, partition: int | str) -> str:
        return f"{self._settings.prefix}:progress:{self._consumer_group}:{topic}:{partition}"

    def read(self, partition: Partition) -> Progress:
        return self._read_key(self._progress_key(*partition))

    def camera_states(self, topic: str) -> dict[str, CameraState]:
        """The stored states of the cameras of all partitions of a topic."""
        with redis_errors():
            keys = list(self._client.scan_iter(match=self._progress_key(topic, "*"), _type="HASH"))
        return {camera_id: state for key in keys for camera_id, state in self._read_key(key).cameras.items()}

    def _read_key(self, key: str) -> Progress:
        with redis_errors():
            stored = cast("dict[str, str]", self._client.hgetall(key))
        next_offset = stored.pop("next_offset", None)
        cameras = {name: CameraState.model_validate_json(text) for name, text in _with_prefix(_CAMERA, stored)}
        learners = {name: LearnerSnapshot.model_validate_json(text) for name, text in _with_prefix(_LEARNER, stored) if text}
        topic = TopicVersion.model_validate_json(stored[_TOPIC]) if _TOPIC in stored else None
        return Progress(None if next_offset is None else int(next_offset), cameras, learners, topic)

    def apply(self, step: Step) -> None:
        keys, arguments = self._script_call(step)
        with redis_errors():
            applied, stored = cast("tuple[int, str]", self._step(keys=keys, args=arguments))
        if not applied:
            raise Fenced(f"{step.partition}: stored progress is {stored or 'empty'}, expected {step.expected}")

    def _script_call(self, step: Step) -> tuple[list[str], list[Any]]:
        cameras = list(dict.fromkeys(camera_id for camera_id, _ in step.scores))
        streams = self._settings.events_key, self._settings.health_key
        keys = [self._progress_key(*step.partition), *streams, *map(self._settings.scores_key, cameras)]
        pairs = {"next_offset": str(step.next_offset)}
        if step.topic is not None:
            pairs[_TOPIC] = step.topic.model_dump_json()
        pairs |= {_CAMERA + camera_id: state.model_dump_json() for camera_id, state in step.cameras.items()}
        # An empty text instead of a deletion: the script only sets.
        pairs |= {_LEARNER + camera_id: each.model_dump_json() if each else "" for camera_id, each in step.learners.items()}
        key_index = {camera_id: index for index, camera_id in enumerate(cameras, start=4)}
        entries = [(key_index[camera_id], fields) for camera_id, fields in step.scores]
        entries += [(2, fields) for fields in step.events]
        entries += [(3, fields) for fields in step.health]
        arguments: list[Any] = ["" if step.expected is None else step.expected, len(pairs), *_flat(pairs)]
        arguments += [self._settings.max_events, self._settings.max_scores, len(entries)]
        for index, fields in entries:
            arguments += [index, 2 * len(fields), *_flat(fields)]
        return keys, arguments


def _with_prefix(prefix: str, stored: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    return ((name.removeprefix(prefix), text) for name, text in stored.items() if name.startswith(prefix))


def _flat(fields: Fields) -> list[str]:
    return [text for pair in fields.items() for text in pair]
