"""The Redis client's options, and error messages that say what to check."""

import pytest
import redis
from pydantic import SecretStr

from deploy.errors import ConfigError
from streamer.config import RedisSettings
from streamer.interfaces import RedisUnavailable
from streamer.redis.client import make_redis, redis_errors


def test_password_setting_wins_over_url() -> None:
    url = "redis://:from-url@host:1234/5"
    for password, expected in ((None, "from-url"), (SecretStr("own"), "own")):
        with make_redis(RedisSettings(url=url, password=password)) as client:
            options = client.connection_pool.connection_kwargs
        assert (options["host"], options["port"], options["db"], options["password"]) == ("host", 1234, 5, expected)


def test_rejects_invalid_url() -> None:
    with pytest.raises(ConfigError, match=r"redis\.url"):
        make_redis(RedisSettings(url="redis://host:port"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (redis.exceptions.AuthenticationError("WRONGPASS"), r"missing or refused: check redis\.password.*WRONGPASS"),
        (redis.exceptions.NoPermissionError("no xadd"), "ACL"),
        (redis.exceptions.BusyLoadingError("LOADING"), "still loading"),
        (redis.exceptions.ReadOnlyError("READONLY"), "replica"),
        (redis.exceptions.OutOfMemoryError("OOM"), "memory is full"),
        (redis.exceptions.TimeoutError("Timeout"), "no answer in time"),
        (redis.exceptions.ResponseError("surprise"), "surprise"),
    ],
)
def test_error_says_what_to_check(error: Exception, message: str) -> None:
    with pytest.raises(RedisUnavailable, match=message) as raised, redis_errors():
        raise error
    assert raised.value.__cause__ is error
    assert raised.value.retriable


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(KeyError), redis_errors():
        raise KeyError("own")
