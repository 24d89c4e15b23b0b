"""One of several processes holds a lease at a time: a key that expires unless it is renewed."""

import time
from collections.abc import Callable
from typing import Final, cast
from uuid import uuid4

import redis

from streamer.redis.client import redis_errors

EXPIRES_S: Final = 10.0

# KEYS: the lease. ARGV: token of the holder, and milliseconds until it expires. Answers who had it: nobody, we or another one.
_RENEW = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 'other' end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return holder and 'own' or 'none'
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class Lease:
    """Renewed on one thread, asked on another."""

    def __init__(
        self, client: redis.Redis, key: str, expires_s: float = EXPIRES_S, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._renew, self._release = client.register_script(_RENEW), client.register_script(_RELEASE)
        self._key, self._token, self._expires_s, self._clock_s = key, uuid4().hex, expires_s, clock_s
        self._held_until_s = 0.0
        self.term = 0
        """Another number whenever somebody else may have held it in between."""

    @property
    def is_held(self) -> bool:
        """Whether this process holds it."""
        return self._clock_s() < self._held_until_s

    def renew(self) -> None:
        """Take the lease if nobody has it, or keep it. Raises RedisUnavailable: what is held then expires."""
        asked_s = self._clock_s()
        with redis_errors(self._key):
            had = cast("str", self._renew(keys=[self._key], args=[self._token, round(self._expires_s * 1000)]))
        if had == "none":
            self.term += 1
        self._held_until_s = 0.0 if had == "other" else asked_s + self._expires_s

    def release(self) -> None:
        """Let another process have it at once. Raises RedisUnavailable."""
        self._held_until_s = 0.0
        with redis_errors(self._key):
            self._release(keys=[self._key], args=[self._token])
