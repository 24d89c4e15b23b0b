"""A camera's timeline: minutes for the past and single scores of the newest stretch, in as many points as can be seen."""

import pytest

from streamer.dashboard.timeline import FINE_MS, MAX_POINTS, Point, make_timeline, singles_from_ms
from streamer.minutes import MINUTE_MS
from streamer.redis.minutes import MinuteEntry
from tests.harness.dashboard import DAY_MS


def minute(number: int, highest: float = 0.5, frames: int = 600, threshold: float = 1.5, **more: int) -> MinuteEntry:
    at_ms = DAY_MS + number * MINUTE_MS
    return MinuteEntry(at_ms, frames, 0.25, highest, at_ms + 7, threshold, **more)  # type: ignore[arg-type]  # as named there


def scores_from(at_ms: int, count: int, step_ms: int = 100) -> list[Point]:
    return [(at_ms + number * step_ms, 0.25, 1.5) for number in range(count)]


@pytest.mark.parametrize(
    ("hours", "length_min", "count"), [(1, 1, 60), (24, 1, 1440), (48, 2, 1440), (168, 10, 1008), (8784, 240, 2196)]
)
def test_a_time_has_no_more_parts_than_can_be_seen(hours: int, length_min: int, count: int) -> None:
    found = make_timeline([minute(number) for number in range(hours * 60)], [], DAY_MS)
    assert (found.part_ms, len(found.parts)) == (length_min * MINUTE_MS, count)
    assert sum(part.frames for part in found.parts) == hours * 36_000


def test_what_is_together_keeps_its_highest_score_and_its_newest_threshold() -> None:
    minutes = [minute(number) for number in range(2_000)]
    minutes[1] = minute(1, highest=2.5, frames=200, threshold=1.7, event_frames=50, withheld_frames=20)
    first = make_timeline(minutes, [], None).parts[0]
    assert (first.highest, first.highest_at_ms, first.threshold) == (2.5, DAY_MS + MINUTE_MS + 7, 1.7)
    assert (first.frames, first.mean, first.event_frames, first.withheld_frames) == (800, 0.25, 50, 20)


def test_parts_of_one_minute_add_up_and_times_without_scores_have_none() -> None:
    found = make_timeline([minute(0, frames=100), minute(0, highest=0.7, frames=20), minute(9)], [], None)
    assert [(part.at_ms, part.frames, part.highest) for part in found.parts] == [
        (DAY_MS, 120, 0.7),
        (DAY_MS + 9 * MINUTE_MS, 600, 0.5),
    ]


def test_minutes_end_where_single_scores_begin() -> None:
    scores = scores_from(DAY_MS + 3 * MINUTE_MS + 500, 30_000)
    found = make_timeline([minute(number) for number in range(30)], scores, DAY_MS)
    assert [part.at_ms for part in found.parts] == [DAY_MS, DAY_MS + MINUTE_MS, DAY_MS + 2 * MINUTE_MS]
    assert found.points[0][0] == scores[0][0]
    assert len(found.points) <= MAX_POINTS


def test_of_a_long_time_only_what_no_minute_holds_is_told_singly() -> None:
    short, long = ([minute(number) for number in range(count)] for count in (FINE_MS // MINUTE_MS, FINE_MS // MINUTE_MS + 1))
    assert singles_from_ms(short, 0) == 0
    assert singles_from_ms(long, 0) == DAY_MS + len(long) * MINUTE_MS
    assert singles_from_ms(long, DAY_MS + MINUTE_MS) == DAY_MS + MINUTE_MS
    assert singles_from_ms([], 5) == 5
