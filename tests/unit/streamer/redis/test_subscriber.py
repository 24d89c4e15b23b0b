"""What subscribers do with entries that the service did not write."""

from typing import cast

import pytest
import redis

from streamer.config import RedisSettings
from streamer.redis.minutes import MinuteEntry, minute_entries, minutes_between, oldest_minute_ms
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


MINUTE = {
    "schema": "1",
    "minute_at_ms": "60000",
    "frames": "600",
    "mean": "0.2",
    "highest": "0.5",
    "highest_at_ms": "60100",
    "threshold": "1.5",
    "event_frames": "3",
    "withheld_frames": "0",
}


@pytest.mark.parametrize(
    "damage",
    [
        {"minute_at_ms": "soon"},
        {"highest_at_ms": "-1"},
        {"frames": "0"},
        {"frames": "-1"},
        {"event_frames": "9" * 12},
        {"withheld_frames": "9" * 5000},
        {"mean": "nan"},
        {"highest": "inf"},
        {"threshold": ""},
    ],
)
def test_minutes_that_are_none_are_left_out(damage: dict[str, str]) -> None:
    assert list(minute_entries({**MINUTE, **damage})) == []
    assert list(minute_entries({})) == []
    assert list(minute_entries({**MINUTE, "newer": "x", "profile_id": "p"})) == [
        MinuteEntry(60_000, 600, 0.2, 0.5, 60_100, 1.5, "p", 3, 0)
    ]


class Minutes:
    """A client with one stream of as many minutes as given, of which it gives 1,000 at once."""

    def __init__(self, count: int) -> None:
        self.asked = 0
        self._entries = [(f"{number + 1}-0", {**MINUTE, "minute_at_ms": str(number * 60_000)}) for number in range(count)]

    def xrange(self, _key: str, *, count: int) -> list[tuple[str, dict[str, str]]]:
        return self._entries[:count]

    def xrevrange(self, _key: str, *, max: str, count: int) -> list[tuple[str, dict[str, str]]]:  # noqa: A002  as in Redis
        self.asked += 1
        last = len(self._entries) if max == "+" else int(max.strip("(").partition("-")[0]) - 1
        return self._entries[:last][::-1][:count]


def test_minutes_of_a_time_are_read_no_further_back_than_it_begins() -> None:
    stream = Minutes(5_000)
    client, settings = cast("redis.Redis", stream), RedisSettings()
    found = minutes_between(client, settings, "gate", 4_500 * 60_000 + 1, 4_502 * 60_000)
    assert [minute.minute_at_ms // 60_000 for minute in found] == [4_500, 4_501, 4_502]
    assert stream.asked == 1
    assert oldest_minute_ms(client, settings, "gate") == 0
    assert oldest_minute_ms(cast("redis.Redis", Minutes(0)), settings, "gate") is None
