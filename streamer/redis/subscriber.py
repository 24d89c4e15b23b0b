"""Redis to values: what a subscriber reads, score by score and event by event."""

import time
from typing import Any, NamedTuple, cast

import redis
from pydantic import ValidationError

from streamer.config import RedisSettings
from streamer.event import Event
from streamer.redis.client import redis_errors

_LOOK_FOR_CAMERAS_EVERY_S = 1.0
_MAX_ENTRIES = 1_000
"""Entries of one stream taken at a time."""


class ScoreEntry(NamedTuple):
    """One score as it stands in a camera's stream."""

    camera_id: str
    captured_at_ms: int
    score: float
    threshold: float
    scored_at_ms: int


class Updates(NamedTuple):
    """What came since the last look, each in its stream's order."""

    scores: list[ScoreEntry]
    events: list[Event]


class Subscriber:
    """Follows the stream of events and every camera's stream of scores."""

    def __init__(self, client: redis.Redis, settings: RedisSettings, *, from_start: bool) -> None:
        """Follow from the oldest entry kept, or only what comes from now on."""
        self._client = client
        self._prefix = settings.prefix
        self._events_key = f"{settings.prefix}:events"
        self._scores_prefix = f"{settings.prefix}:scores:"
        self._last_ids: dict[str, bytes] = {}
        self._look_at_s = 0.0
        with redis_errors():
            self._find_cameras(from_start=from_start)
            self._follow(self._events_key, from_start=from_start)

    def poll(self, wait_s: float) -> Updates:
        """What is new; waits at most ``wait_s`` for something.

        Raises:
            RedisUnavailable: try again later; nothing is skipped.
        """
        with redis_errors():
            if time.monotonic() >= self._look_at_s:
                self._find_cameras(from_start=True)
            answer = self._client.xread(cast("Any", self._last_ids), count=_MAX_ENTRIES, block=max(1, round(wait_s * 1000)))
        news = Updates([], [])
        for key, entries in _by_stream(answer):
            self._last_ids[key] = entries[-1][0]
            self._take(key, [_text(fields) for _, fields in entries], news)
        return news

    def _take(self, key: str, entries: list[dict[str, str]], news: Updates) -> None:
        if key != self._events_key:
            news.scores.extend(_score_entry(key.removeprefix(self._scores_prefix), fields) for fields in entries)
            return
        for fields in entries:
            try:
                news.events.append(Event.model_validate(fields))
            except ValidationError:
                continue  # another version's entry: not ours to read

    def _find_cameras(self, *, from_start: bool) -> None:
        self._look_at_s = time.monotonic() + _LOOK_FOR_CAMERAS_EVERY_S
        for key in self._client.scan_iter(match=f"{self._scores_prefix}*", _type="STREAM"):
            if key.decode() not in self._last_ids:
                self._follow(key.decode(), from_start=from_start)

    def _follow(self, key: str, *, from_start: bool) -> None:
        newest = [] if from_start else cast("list[tuple[bytes, Any]]", self._client.xrevrange(key, count=1))
        self._last_ids[key] = newest[0][0] if newest else b"0-0"


def _by_stream(answer: Any) -> list[tuple[str, list[tuple[bytes, dict[bytes, bytes]]]]]:
    """Both shapes that redis-py gives: a list of pairs, or a dict with each stream's entries in a list of their own."""
    if isinstance(answer, dict):
        return [(key.decode(), entries[0]) for key, entries in answer.items()]
    return [(key.decode(), entries) for key, entries in answer or ()]


def _text(fields: dict[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}


def _score_entry(camera_id: str, fields: dict[str, str]) -> ScoreEntry:
    return ScoreEntry(
        camera_id,
        int(fields["captured_at_ms"]),
        float(fields["score"]),
        float(fields["threshold"]),
        int(fields["scored_at_ms"]),
    )
