"""Events and marks become rows, in order, and are found by filters and places."""

from itertools import islice

import pytest

from streamer.dashboard.index import EventFilter, EventIndex
from tests.harness.dashboard import DAY_MS, event_of, mark_of


def index_of(*numbers: int) -> EventIndex:
    index = EventIndex()
    for number in numbers:
        index.add(event_of(number))
        index.add(event_of(number, "end", ended_at_ms=DAY_MS + number * 1000 + 500))
    return index


def test_an_event_is_one_row_from_its_first_entry_on() -> None:
    index = EventIndex()
    (row,) = index.add(event_of(1, channel="speed", text="moves faster", region="1,2,3,4"))
    assert (row.open, row.ended_at_ms, row.channel) == (True, None, "speed")
    index.add(event_of(1, "update", peak_score=0.9, score=0.9, channel="dwell", text="stays", region="5,6,7,8"))
    index.add(event_of(1, "update", peak_score=0.9, score=0.6, channel="appearance", text="looks", region="9,9,9,9"))
    (row,) = index.add(event_of(1, "end", peak_score=0.9, ended_at_ms=DAY_MS + 5000))
    assert (row.open, row.ended_at_ms, row.peak_score) == (False, DAY_MS + 5000, 0.9)
    assert (row.channel, row.text, row.region) == ("dwell", "stays", "5,6,7,8")  # what its highest score showed
    assert len(index) == 1


def test_an_update_after_the_end_does_not_open_it_again() -> None:
    index = index_of(1)
    index.add(event_of(1, "update"))
    assert index.open_event("gate") is None


def test_a_new_event_of_a_camera_closes_the_one_whose_end_was_lost() -> None:
    index = EventIndex()
    index.add(event_of(1))
    rows = index.add(event_of(9))
    assert [(row.event_id[-1], row.open, row.ended_at_ms) for row in rows] == [("1", False, None), ("9", True, None)]


def test_newest_come_first_whatever_the_order_of_entries() -> None:
    index = index_of(3, 1, 2)
    assert [int(row.event_id, 16) for row in index.newest_first()] == [3, 2, 1]


def test_a_place_goes_on_where_the_part_before_ended_also_if_events_came_meanwhile() -> None:
    index = index_of(*range(10))
    first = list(islice(index.newest_first(), 4))
    index.add(event_of(20))
    place = (first[-1].started_at_ms, first[-1].event_id)
    assert [int(row.event_id, 16) for row in index.newest_first(before=place)] == [5, 4, 3, 2, 1, 0]


def test_times_bound_the_start() -> None:
    index = index_of(*range(10))
    found = index.newest_first(from_ms=DAY_MS + 3000, to_ms=DAY_MS + 5000)
    assert [int(row.event_id, 16) for row in found] == [5, 4, 3]


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (EventFilter(), [4, 3, 2, 1]),
        (EventFilter(camera_id="dock"), [2]),
        (EventFilter(channel="speed"), [1]),
        (EventFilter(is_open=True), [4]),
        (EventFilter(is_open=False), [3, 2, 1]),
        (EventFilter(acknowledged=True), [1]),
        (EventFilter(verdict="normal"), [3]),
        (EventFilter(verdict="none"), [4, 2, 1]),
    ],
)
def test_filters(wanted: EventFilter, numbers: list[int]) -> None:
    index = EventIndex()
    index.add(event_of(1, channel="speed", text="fast"))
    index.add(event_of(1, "end"))
    index.add(event_of(2, "end", camera_id="dock"))
    index.add(event_of(3, "end"))
    index.add(event_of(4))
    index.mark(mark_of(1, "acknowledge"))
    index.mark(mark_of(3, "normal"))
    assert [int(row.event_id, 16) for row in index.newest_first() if wanted.matches(row)] == numbers


def test_the_newest_verdict_holds_and_can_be_taken_back() -> None:
    index = index_of(1)
    for kind in ("true", "false"):
        row = index.mark(mark_of(1, kind))
    assert row is not None
    assert row.verdict is not None
    assert row.verdict.kind == "false"
    row = index.mark(mark_of(1, "unmark"))
    assert row is not None
    assert row.verdict is None


def test_the_first_acknowledgement_holds_and_comments_add_up() -> None:
    index = index_of(1)
    index.mark(mark_of(1, "acknowledge", user="ada"))
    index.mark(mark_of(1, "acknowledge", user="bob"))
    index.mark(mark_of(1, "comment", text="a dog"))
    row = index.mark(mark_of(1, "comment", text="a cat"))
    assert row is not None
    assert row.acknowledged is not None
    assert row.acknowledged.user == "ada"
    assert [comment.text for comment in row.comments] == ["a dog", "a cat"]


def test_a_mark_that_is_read_before_its_event_counts() -> None:
    index = EventIndex()
    assert index.mark(mark_of(1, "acknowledge")) is None
    (row,) = index.add(event_of(1))
    assert row.acknowledged is not None


def test_the_oldest_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.dashboard.index.MAX_ROWS", 3)
    index = index_of(*range(6))
    assert [int(row.event_id, 16) for row in index.newest_first()] == [5, 4, 3]
    assert index.get(f"{0:016x}") is None
