"""The Redis client, and a plain reason when Redis cannot be reached or refuses us."""

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
_ANSWER_TIMEOUT_S = 5.0


def make_redis(settings: RedisSettings) -> redis.Redis:
    """A client that answers in bytes. It connects at the first command and again after every loss.

    A command that fails is not tried again: it may have been carried out, and only its sender knows whether twice is harmless.

    Raises:
        ConfigError: the URL cannot be read.
    """
    # A Unix socket takes no keepalive.
    options: dict[str, Any] = {} if settings.url.startswith("unix:") else {"socket_keepalive": True}
    try:
        client = redis.Redis.from_url(
            settings.url,
            **options,
            socket_connect_timeout=_CONNECT_TIMEOUT_S,
            socket_timeout=_ANSWER_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            decode_responses=False,
        )
    except ValueError as error:
        raise ConfigError(f"redis.url: {error}; write redis://HOST:PORT/DATABASE") from error
    if settings.password is not None:  # from_url would let one in the URL win
        client.connection_pool.connection_kwargs["password"] = settings.password.get_secret_value()
    return client


def check_redis(client: redis.Redis) -> None:
    """Ask Redis for a sign of life.

    Raises:
        RedisUnavailable: says what is wrong and what to check.
    """
    with redis_errors():
        client.ping()


@contextmanager
def redis_errors() -> Iterator[None]:
    """Errors of the Redis client inside the block become RedisUnavailable, chained."""
    try:
        yield
    except redis.RedisError as error:
        raise RedisUnavailable(f"Redis: {_explain(error)}") from error


def _explain(error: redis.RedisError) -> str:
    for kind, explanation in _EXPLANATIONS:
        if isinstance(error, kind) or isinstance(error.__context__, kind):
            return f"{explanation} ({error})"
    return f"{error}: check redis.url, and whether a Redis answers there"


# From special to general; the cause of a failed connection is in the error's context, its own type says only "connection".
_EXPLANATIONS: tuple[tuple[type[Exception], str], ...] = (
    (BusyLoadingError, "it is still loading its data from disk: wait until it has"),
    (NoPermissionError, "this user may not run the command or touch the key: check its ACL against redis.prefix"),
    (AuthenticationError, "user name or password missing or refused: check redis.password and redis.url"),
    (ReadOnlyError, "this is a replica, which takes no writes: redis.url must name the primary"),
    (OutOfMemoryError, "its memory is full: raise maxmemory, or lower redis.max_scores and redis.max_events"),
    (socket.gaierror, "the name does not resolve: redis.url is wrong, or this machine's DNS does not know it"),
    (ConnectionRefusedError, "nothing listens there: it is down or the port is wrong; check that it runs, then redis.url"),
    (ssl.SSLError, "TLS fails: check the certificate, and whether redis.url should begin with redis:// instead of rediss://"),
    (FileNotFoundError, "there is no such socket file: check redis.url and that it runs"),
    (
        redis.TimeoutError,
        "no answer in time: it hangs, it is no Redis, a firewall is in the way, or redis.url should not (or should) begin with rediss://",
    ),
)
