"""The tracker against a plain model: outcomes come out once, in order, and never past an open offset."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.pipeline.partitions import OffsetTracker

MOVES = st.lists(st.tuples(st.sampled_from(["open", "close", "take"]), st.integers(0, 20)), max_size=60)


@given(st.integers(0, 1_000), MOVES)
def test_outcomes_come_once_in_order_and_never_past_an_open_offset(first: int, moves: list[tuple[str, int]]) -> None:
    tracker: OffsetTracker[str] = OffsetTracker(first)
    opened: list[int] = []
    pending: list[int] = []
    taken: list[str] = []
    for move, number in moves:
        if move == "open":
            offset = (opened[-1] if opened else first - 1) + 1 + number % 3  # a step above 1 is a hole
            tracker.add(offset)
            opened.append(offset)
            pending.append(offset)
        elif move == "close" and pending:
            offset = pending.pop(number % len(pending))
            tracker.finish(offset, f"outcome of {offset}")
        else:
            taken += tracker.take_finished()
            done = [offset for offset in opened if not pending or offset < min(pending)]
            assert taken == [f"outcome of {offset}" for offset in done]
            assert tracker.next_offset == (done[-1] + 1 if done else first)
            assert len(tracker) == len(opened) - len(done)


def test_what_is_closed_last_lets_everything_out_in_offset_order() -> None:
    tracker = tracker_with(5, 6, 9)

    tracker.finish(9, "nine")
    tracker.finish(6, "six")
    assert list(tracker.take_finished()) == []
    tracker.finish(5, "five")

    assert list(tracker.take_finished()) == ["five", "six", "nine"]
    assert tracker.next_offset == 10


def test_an_outcome_of_none_counts_as_done() -> None:
    tracker: OffsetTracker[None] = OffsetTracker(0)
    tracker.add(0)

    tracker.finish(0, None)

    assert list(tracker.take_finished()) == [None]
    assert tracker.next_offset == 1


def test_next_offset_moves_only_past_what_was_really_taken() -> None:
    tracker = tracker_with(0, 1)
    tracker.finish(0, "zero")
    tracker.finish(1, "one")

    assert list(islice(tracker.take_finished(), 1)) == ["zero"]
    assert tracker.next_offset == 1
    assert list(tracker.take_finished()) == ["one"]


def test_a_hole_before_the_first_message_does_not_move_progress_by_itself() -> None:
    tracker = tracker_with(7)

    assert list(tracker.take_finished()) == []
    assert tracker.next_offset == 0


@pytest.mark.parametrize("offset", [4, 6, 7])
def test_an_offset_that_does_not_follow_is_refused(offset: int) -> None:
    tracker: OffsetTracker[str] = OffsetTracker(5)
    tracker.add(7)

    with pytest.raises(ValueError, match=f"offset {offset} does not follow 7"):
        tracker.add(offset)


def test_an_offset_before_the_progress_is_refused() -> None:
    tracker: OffsetTracker[str] = OffsetTracker(5)

    with pytest.raises(ValueError, match="offset 4 does not follow 4"):
        tracker.add(4)


def test_an_offset_that_is_not_open_cannot_be_closed() -> None:
    tracker = tracker_with(5)
    tracker.finish(5, "done")

    for offset in (5, 6):  # closed already; never opened
        with pytest.raises(KeyError):
            tracker.finish(offset, "again")
    assert list(tracker.take_finished()) == ["done"]


def tracker_with(*offsets: int) -> OffsetTracker[str]:
    """A tracker that begins at 0 with these offsets open."""
    tracker: OffsetTracker[str] = OffsetTracker(0)
    for offset in offsets:
        tracker.add(offset)
    return tracker
