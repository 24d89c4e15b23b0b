"""Follows the streams of scores and events that the service writes."""

import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from math import isfinite
from typing import Any, NamedTuple, cast

import redis

from streamer.config import RedisSettings
from streamer.redis.client import redis_errors
from streamer.types import LATEST_MS, Event, read_event

_CAMERA_SCAN_EVERY_S = 1.0
_MAX_ENTRIES = 1_000
"""Entries read from one stream in one poll. An event that is open repeats itself every few seconds."""
_MAX_HEALTH_ENTRIES = 10_000
"""A problem that goes on is told once."""
_MAX_SEEN = 10_000
"""Newest entries of events among which one that comes twice is found."""


class ScoreEntry(NamedTuple):
    """One entry of a camera's stream of scores."""

    camera_id: str
    captured_at_ms: int
    score: float
    threshold: float
    scored_at_ms: int
    profile_id: str | None = None
    """None for the bundle's default."""
    learning: float | None = None
    """Share of the least time of learning that is over, 0 to 1; None if the camera is not being learned."""
    learning_left_s: float | None = None
    """The rest of the least time."""


class HealthEntry(NamedTuple):
    """One entry of the stream of health: the start or the end of a problem with a camera."""

    camera_id: str
    kind: str
    problem: str
    text: str
    """The problem in words."""
    captured_at_ms: int


class Updates(NamedTuple):
    """Entries added since the last poll; of each stream in order."""

    scores: list[ScoreEntry]
    events: list[Event]
    health: Sequence[HealthEntry] = ()


class Subscriber:
    """Follows the stream of events and every camera's stream of scores.

    Entries of events that come twice are left out: a Redis whose replica took over may have lost the newest step, which the
    service then writes again.
    """

    def __init__(self, client: redis.Redis, settings: RedisSettings, *, from_start: bool) -> None:
        """``from_start``: read all entries that Redis still has, instead of only those added from now on."""
        self._client = client
        self._events_key, self._health_key = settings.events_key, settings.health_key
        self._scores_prefix = settings.scores_key("")
        self._last_ids: dict[str, str] = {}
        self._seen: OrderedDict[tuple[str, ...], None] = OrderedDict()
        self._scan_at_s = 0.0
        with redis_errors():
            self._find_cameras(from_start=from_start)
            for key in (self._events_key, self._health_key):
                self._follow(key, from_start=from_start)

    def poll(self, wait_s: float) -> Updates:
        """The new entries; waits at most ``wait_s`` for the first one.

        Raises:
            RedisUnavailable: call again later; no entry is skipped.
        """
        with redis_errors():
            if time.monotonic() >= self._scan_at_s:
                self._find_cameras(from_start=True)
            answer: Any = self._client.xread(cast("Any", self._last_ids), count=_MAX_ENTRIES, block=max(1, round(wait_s * 1000)))
        # redis-py returns a list of pairs, or a dict of lists of entry lists.
        by_stream = [(key, entries[0]) for key, entries in answer.items()] if isinstance(answer, dict) else answer or []
        for key, entries in by_stream:
            self._last_ids[key] = entries[-1][0]
        return self._updates(by_stream)

    def recent(self) -> Updates:
        """Each camera's newest score and the newest events and health, enough to hold all that is still going on.

        With ``from_start`` false and before the first poll, these are the entries up to which that poll skips. Raises
        RedisUnavailable.
        """
        counts = {self._events_key: _MAX_ENTRIES, self._health_key: _MAX_HEALTH_ENTRIES}
        with redis_errors():
            by_stream = [
                (key, cast("Any", self._client.xrevrange(key, max=last_id, count=counts.get(key, 1)))[::-1])
                for key, last_id in self._last_ids.items()
            ]
        return self._updates(by_stream)

    def history(self) -> Iterator[list[Event]]:
        """All entries of events up to the one where :meth:`poll` goes on, oldest first, in parts. Raises RedisUnavailable.

        To be read before the first poll.
        """
        position, last = "0-0", self._last_ids[self._events_key]
        while entries := entries_after(self._client, self._events_key, position, last):
            yield self._updates([(self._events_key, entries)]).events
            position = entries[-1][0]

    def _updates(self, by_stream: list[tuple[str, Any]]) -> Updates:
        scores: list[ScoreEntry] = []
        events: list[Event] = []
        health: list[HealthEntry] = []
        for key, entries in by_stream:
            for _, fields in entries:
                if key == self._health_key:
                    health += health_entries(fields)
                elif key == self._events_key:
                    events += filter(self._is_new, _events(fields))
                else:
                    scores += _score_entries(key.removeprefix(self._scores_prefix), fields)
        return Updates(scores, events, health)

    def _is_new(self, event: Event) -> bool:
        key = event.key
        if key in self._seen:
            return False
        self._seen[key] = None
        if len(self._seen) > _MAX_SEEN:
            self._seen.popitem(last=False)
        return True

    def _find_cameras(self, *, from_start: bool) -> None:
        self._scan_at_s = time.monotonic() + _CAMERA_SCAN_EVERY_S
        for key in _score_keys(self._client, self._scores_prefix):
            if key not in self._last_ids:
                self._follow(key, from_start=from_start)

    def _follow(self, key: str, *, from_start: bool) -> None:
        newest = [] if from_start else cast("list[tuple[str, Any]]", self._client.xrevrange(key, count=1))
        self._last_ids[key] = newest[0][0] if newest else "0-0"


def newest_scores(client: redis.Redis, settings: RedisSettings) -> dict[str, ScoreEntry]:
    """The newest score of each camera that has any."""
    prefix = settings.scores_key("")
    with redis_errors():
        newest = {str(key): cast("Any", client.xrevrange(key, count=1)) for key in _score_keys(client, prefix)}
    cameras = {key.removeprefix(prefix): entries[0][1] for key, entries in newest.items() if entries}
    return {entry.camera_id: entry for camera_id, fields in cameras.items() for entry in _score_entries(camera_id, fields)}


def entries_after(client: redis.Redis, key: str, last_id: str, until: str = "+") -> list[tuple[str, dict[str, str]]]:
    """The next entries of a stream up to the id ``until``, oldest first; none at the end. Raises RedisUnavailable."""
    with redis_errors(key):
        return cast("list[tuple[str, dict[str, str]]]", client.xrange(key, min=f"({last_id}", max=until, count=_MAX_ENTRIES))


def scores_between(
    client: redis.Redis, settings: RedisSettings, camera_id: str, from_ms: int, until_ms: int
) -> list[tuple[int, float, float]]:
    """Capture time, score and threshold of a camera's newest scores that were captured then, as far as Redis has them."""
    found: list[tuple[int, float, float]] = []
    for part in parts_backward(client, settings.scores_key(camera_id)):
        scores = [score for fields in part for score in _score_entries(camera_id, fields)]
        found += [(each.captured_at_ms, each.score, each.threshold) for each in scores if each.captured_at_ms <= until_ms]
        if scores and scores[-1].captured_at_ms < from_ms:
            break
    return sorted(each for each in found if each[0] >= from_ms)


def camera_scores(client: redis.Redis, settings: RedisSettings, camera_id: str, most: int) -> list[ScoreEntry]:
    """A camera's newest scores that Redis still has, at most so many, in the order in which they were written."""
    entries = _newest(client, settings.scores_key(camera_id), most)
    return [score for fields in entries for score in _score_entries(camera_id, fields)]


def health_changes(client: redis.Redis, settings: RedisSettings, camera_id: str) -> list[HealthEntry]:
    """The changes of a camera's health, oldest first, as far as Redis has them."""
    entries = [entry for fields in _newest(client, settings.health_key, _MAX_HEALTH_ENTRIES) for entry in health_entries(fields)]
    return [entry for entry in entries if entry.camera_id == camera_id]


def _newest(client: redis.Redis, key: str, most: int) -> list[dict[str, str]]:
    """The fields of a stream's newest entries, oldest first."""
    return list(islice(chain.from_iterable(parts_backward(client, key)), most))[::-1]


def parts_backward(client: redis.Redis, key: str) -> Iterator[list[dict[str, str]]]:
    """The fields of a stream's entries, the newest first, as they are read."""
    last = "+"
    while True:
        with redis_errors(key):
            entries = cast("Any", client.xrevrange(key, max=last, count=_MAX_ENTRIES))
        if not entries:
            return
        yield [fields for _, fields in entries]
        last = f"({entries[-1][0]}"


def count_events(client: redis.Redis, settings: RedisSettings, since_ms: int) -> Counter[str]:
    """How many events of each camera were announced since then, of those that Redis still has; a wall clock time."""
    counts: Counter[str] = Counter()
    first = str(since_ms)
    with redis_errors():
        while entries := cast("Any", client.xrange(settings.events_key, min=first, count=_MAX_ENTRIES)):
            counts.update(fields.get("camera_id", "") for _, fields in entries if fields.get("kind") == "start")
            first = f"({entries[-1][0]}"
    return counts


def _score_keys(client: redis.Redis, prefix: str) -> Iterator[Any]:
    return client.scan_iter(match=f"{prefix}*", _type="STREAM")


def _events(fields: dict[str, str]) -> Iterator[Event]:
    if (event := read_event(fields)) is not None:
        yield event


def health_entries(fields: dict[str, str]) -> Iterator[HealthEntry]:
    """What an entry of the stream of health says; nothing if it cannot be read."""
    with suppress(KeyError, ValueError):  # written by another version of the schema
        camera_id, kind, problem, text = (fields[name] for name in ("camera_id", "kind", "problem", "text"))
        yield HealthEntry(camera_id, kind, problem, text, time_of(fields["captured_at_ms"]))


def _score_entries(camera_id: str, fields: dict[str, str]) -> Iterator[ScoreEntry]:
    with suppress(KeyError, ValueError):  # likewise
        captured_at_ms, scored_at_ms = time_of(fields["captured_at_ms"]), time_of(fields["scored_at_ms"])
        score, threshold = number_of(fields["score"]), number_of(fields["threshold"])
        learning, left_s = (number_of(fields[name]) if name in fields else None for name in ("learning", "learning_left_s"))
        profile_id = fields.get("profile_id")
        yield ScoreEntry(camera_id, captured_at_ms, score, threshold, scored_at_ms, profile_id, learning, left_s)


def time_of(value: str | int) -> int:
    """A field that tells a time; raises ValueError if it cannot be one."""
    time_ms = int(value)
    if not 0 <= time_ms <= LATEST_MS:
        raise ValueError(f"{time_ms} is no time")
    return time_ms


def number_of(text: str) -> float:
    """A field that tells a finite number; raises ValueError if it is none."""
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text} is no number")
    return number
