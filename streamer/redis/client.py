"""The Redis client, and what its errors mean."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, NoPermissionError, OutOfMemoryError, ReadOnlyError
from redis.retry import Retry

from deploy.errors import ConfigError
from streamer.config import RedisSettings
from streamer.errors import RedisUnavailable

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
