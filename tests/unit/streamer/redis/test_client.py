"""The Redis client's options, and error messages that say what to check."""

import pytest
import redis
from pydantic import SecretStr, ValidationError

from deploy.errors import ConfigError
from streamer.config import RedisSettings
from streamer.interfaces import RedisUnavailable
from streamer.redis.client import make_redis, redis_errors
from streamer.redis.topology import parse_servers


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
    "url", ["redis://host?no_such_option=1", "rediss://host?hunter2=1", "redis+sentinel://host/main?no_such_option=1"]
)
def test_rejects_options_in_the_url_that_do_not_exist(url: str) -> None:
    """Else the first command would find out."""
    with pytest.raises(ConfigError, match=r"redis\.url") as raised:
        make_redis(RedisSettings(url=url))
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["redis+cluster://", "redis+cluster://a:b", "redis+cluster://a/3", "redis+sentinel://a", "redis+sentinel://a/b/c"]
)
def test_rejects_invalid_url_of_several_servers(url: str) -> None:
    with pytest.raises(ConfigError, match=r"redis\.url"):
        make_redis(RedisSettings(url=url, prefix="{oddsight}"))


@pytest.mark.parametrize("prefix", ["oddsight", "odd{}sight", "odd}sight{"])
def test_cluster_needs_hash_tag(prefix: str) -> None:
    with pytest.raises(ValidationError, match=r"must hold a hash tag, such as {oddsight}"):
        RedisSettings(url="redis+cluster://a:1", prefix=prefix)


def test_reads_urls_of_several_servers() -> None:
    servers = parse_servers("rediss+sentinel://me:p%40ss@one:1,[::1]:2,three/main/4?protocol=2", 26379)

    assert servers.addresses == [("one", 1), ("::1", 2), ("three", 26379)]
    assert (servers.path, servers.tls) == (["main", "4"], True)
    assert servers.options == {"username": "me", "password": "p@ss", "protocol": 2}


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
