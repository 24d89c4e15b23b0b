"""What subscribers do with entries that the service did not write."""

from typing import cast

import pytest
import redis

from streamer.config import RedisSettings
from streamer.redis.subscriber import HealthEntry, ScoreEntry, Subscriber, Updates, newest_scores

SCORE = {"captured_at_ms": "1", "score": "0.25", "threshold": "0.5", "scored_at_ms": "2"}
HEALTH = {"kind": "start", "camera_id": "gate", "problem": "dark", "text": "dark", "captured_at_ms": "1"}


class Streams:
    """A client whose streams hold these entries."""

    def __init__(self, scores: list[dict[str, str]], health: list[dict[str, str]]) -> None:
        self._streams = {"oddsight:scores:gate": scores, "oddsight:health": health}

    def scan_iter(self, **_: object) -> list[str]:
        return ["oddsight:scores:gate"]

    def xrevrange(self, key: str, *_: object, **__: object) -> list[tuple[str, dict[str, str]]]:
        return [("1-0", fields) for fields in self._streams.get(key, [])]

    def xread(self, *_: object, **__: object) -> list[tuple[str, list[tuple[str, dict[str, str]]]]]:
        return [(key, [("2-0", fields) for fields in entries]) for key, entries in self._streams.items()]


@pytest.mark.parametrize(
    "damage",
    [
        {"captured_at_ms": "soon"},
        {"captured_at_ms": "-1"},
        {"captured_at_ms": "9" * 18},
        {"captured_at_ms": "9" * 5000},
        {"threshold": "nan"},
        {"score": "inf"},
        {"score": ""},
        {"learning": "half"},
    ],
)
def test_entries_that_are_none_are_left_out_and_hide_no_other(damage: dict[str, str]) -> None:
    bad_health = {**HEALTH, **damage} if "captured_at_ms" in damage else {"kind": "start"}
    client = cast("redis.Redis", Streams([{**SCORE, **damage}, {"x": "y"}, SCORE], [bad_health, HEALTH]))

    updates = Subscriber(client, RedisSettings(), from_start=True).poll(0.0)

    assert updates == Updates([ScoreEntry("gate", 1, 0.25, 0.5, 2)], [], [HealthEntry("gate", "start", "dark", "dark", 1)])
    assert newest_scores(client, RedisSettings()) == {}
