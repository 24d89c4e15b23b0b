"""The ledger against a plain model: outcomes come out once, in order, and never past an open offset."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.pipeline.offsets import Ledger

MOVES = st.lists(st.tuples(st.sampled_from(["open", "close", "take"]), st.integers(0, 20)), max_size=60)


@given(st.integers(0, 1_000), MOVES)
def test_outcomes_come_once_in_order_and_never_past_an_open_offset(first: int, moves: list[tuple[str, int]]) -> None:
    ledger: Ledger[str] = Ledger(first)
    opened: list[int] = []
    pending: list[int] = []
    taken: list[str] = []
    for move, number in moves:
        if move == "open":
            offset = (opened[-1] if opened else first - 1) + 1 + number % 3  # a step above 1 is a hole
            ledger.open(offset)
            opened.append(offset)
            pending.append(offset)
        elif move == "close" and pending:
            offset = pending.pop(number % len(pending))
            ledger.close(offset, f"outcome of {offset}")
        else:
            taken += ledger.take_done()
            done = [offset for offset in opened if not pending or offset < min(pending)]
            assert taken == [f"outcome of {offset}" for offset in done]
            assert ledger.next_offset == (done[-1] + 1 if done else first)
            assert len(ledger) == len(opened) - len(done)


def test_what_is_closed_last_lets_everything_out_in_offset_order() -> None:
    ledger = ledger_with(5, 6, 9)

    ledger.close(9, "nine")
    ledger.close(6, "six")
    assert list(ledger.take_done()) == []
    ledger.close(5, "five")

    assert list(ledger.take_done()) == ["five", "six", "nine"]
    assert ledger.next_offset == 10


def test_an_outcome_of_none_counts_as_done() -> None:
    ledger: Ledger[None] = Ledger(0)
    ledger.open(0)

    ledger.close(0, None)

    assert list(ledger.take_done()) == [None]
    assert ledger.next_offset == 1


def test_next_offset_moves_only_past_what_was_really_taken() -> None:
    ledger = ledger_with(0, 1)
    ledger.close(0, "zero")
    ledger.close(1, "one")

    assert list(islice(ledger.take_done(), 1)) == ["zero"]
    assert ledger.next_offset == 1
    assert list(ledger.take_done()) == ["one"]


def test_a_hole_before_the_first_message_does_not_move_progress_by_itself() -> None:
    ledger = ledger_with(7)

    assert list(ledger.take_done()) == []
    assert ledger.next_offset == 0


@pytest.mark.parametrize("offset", [4, 6, 7])
def test_an_offset_that_does_not_follow_is_refused(offset: int) -> None:
    ledger: Ledger[str] = Ledger(5)
    ledger.open(7)

    with pytest.raises(ValueError, match=f"offset {offset} does not follow 7"):
        ledger.open(offset)


def test_an_offset_before_the_progress_is_refused() -> None:
    ledger: Ledger[str] = Ledger(5)

    with pytest.raises(ValueError, match="offset 4 does not follow 4"):
        ledger.open(4)


def test_an_offset_that_is_not_open_cannot_be_closed() -> None:
    ledger = ledger_with(5)
    ledger.close(5, "done")

    for offset in (5, 6):  # closed already; never opened
        with pytest.raises(KeyError):
            ledger.close(offset, "again")
    assert list(ledger.take_done()) == ["done"]


def ledger_with(*offsets: int) -> Ledger[str]:
    """A ledger that begins at 0 with these offsets open."""
    ledger: Ledger[str] = Ledger(0)
    for offset in offsets:
        ledger.open(offset)
    return ledger
