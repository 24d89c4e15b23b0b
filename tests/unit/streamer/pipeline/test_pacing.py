"""A camera's quota: what is kept of its frames, and that a replay keeps the same ones."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.pipeline.pacing import CameraPace
from streamer.types import QuotaUsed

INTERVAL_US = 100_000  # ten frames a second


def kept_of(times_ms: list[int], received_ms: list[int] | None = None) -> list[int]:
    """Offsets of the frames that are kept, of frames captured at these times, whose records have others or none."""
    pace, received = CameraPace(), received_ms or [None] * len(times_ms)
    return [
        offset
        for offset, (at_ms, record_ms) in enumerate(zip(times_ms, received, strict=True))
        if pace.keeps(offset, at_ms, record_ms, INTERVAL_US)
    ]


def test_keeps_a_camera_at_its_quota() -> None:
    assert len(kept_of(list(range(0, 60_000, 100)))) == 600


def test_frames_that_a_network_held_up_are_not_too_many() -> None:
    """Ten frames a second, stamped where they arrive: nothing for 0.9 s, then nine at once."""
    times_ms = [second * 1000 + (900 if frame else 0) for second in range(60) for frame in range(10)]

    assert len(kept_of(times_ms)) == len(times_ms)


def test_thins_a_fast_camera_evenly() -> None:
    times_ms = list(range(0, 60_000, 10))  # a hundred a second

    kept = kept_of(times_ms)

    assert len(kept) == 60 * 10 + 10  # the first second's worth may come at once
    assert {after - before for before, after in pairwise(kept[20:])} == {10}


def test_a_clock_that_is_set_back_costs_no_frame() -> None:
    times_ms = [*range(10_000_000, 10_060_000, 100), *range(5_000_000, 5_060_000, 100)]

    assert len(kept_of(times_ms)) == len(times_ms)


def test_disorder_wins_no_frames() -> None:
    in_order = list(range(0, 60_000, 10))
    swapped = [at_ms for pair in zip(in_order[1::2], in_order[::2], strict=True) for at_ms in pair]

    assert abs(len(kept_of(swapped)) - len(kept_of(in_order))) <= 1


@pytest.mark.parametrize("camera_ms", [lambda _: 5, lambda at_ms: at_ms // 1000], ids=["stands still", "counts seconds"])
def test_a_wrong_clock_costs_no_frame(camera_ms: Callable[[int], int]) -> None:
    """Ten frames a second by the records; a hundred are too many by any clock."""
    slow, fast = list(range(1, 120_000, 100)), list(range(1, 120_000, 10))

    assert len(kept_of([camera_ms(at_ms) for at_ms in slow], slow)) == len(slow)
    assert len(kept_of([camera_ms(at_ms) for at_ms in fast], fast)) == len(slow) + 10


SOLE_CLOCKS: dict[str, Callable[[int], int]] = {
    "stands still": lambda _: 5,
    "was never set": lambda _: 0,
    "runs backward": lambda at_ms: 900_000 - at_ms,
}


@pytest.mark.parametrize("clock", SOLE_CLOCKS)
@pytest.mark.parametrize("is_told_twice", [False, True], ids=["no other", "the same for both"])
def test_a_wrong_clock_costs_no_frame_where_it_is_the_only_one(clock: str, is_told_twice: bool) -> None:
    times_ms = [SOLE_CLOCKS[clock](at_ms) for at_ms in range(1, 120_000, 100)]

    assert len(kept_of(times_ms, times_ms if is_told_twice else None)) == len(times_ms)


def test_a_clock_that_stops_while_there_are_too_many_frames_blinds_no_camera() -> None:
    times_ms = [*range(0, 60_000, 10), *[60_000] * 100]

    assert len(kept_of(times_ms)) == 60 * 10 + 10 + 98


def test_footage_that_is_sent_fast_is_kept() -> None:
    times_ms = list(range(0, 60_000, 100))

    assert len(kept_of(times_ms, [1_000_000 + at_ms // 50 for at_ms in times_ms])) == len(times_ms)


def received_of(at_ms: int) -> int | None:
    """The record's time for a property: sometimes unknown, sometimes far from the camera's."""
    return None if at_ms % 3 == 0 else 77_000_000 + at_ms // 2


GAPS_MS = st.lists(st.sampled_from([0, 10, 10, 10, 50, 100, 150, 2_000, -40, -5_000]), max_size=120)


@given(GAPS_MS)
def test_a_replay_keeps_the_same_frames(gaps_ms: list[int]) -> None:
    times_ms = [10_000_000 + sum(gaps_ms[: index + 1]) for index in range(len(gaps_ms))]
    pace = CameraPace()
    kept = [offset for offset, at_ms in enumerate(times_ms) if pace.keeps(offset, at_ms, received_of(at_ms), INTERVAL_US)]

    for begin in kept:
        mark = pace.mark(begin, begin)
        assert mark is not None
        again = CameraPace(mark)
        replayed = [
            offset
            for offset in range(begin, len(times_ms))
            if again.keeps(offset, times_ms[offset], received_of(times_ms[offset]), INTERVAL_US)
        ]
        assert replayed == [offset for offset in kept if offset >= begin]
        assert again.quota_used == pace.quota_used


@given(GAPS_MS, st.integers(0, 120))
def test_goes_on_behind_any_frame_without_a_replay(gaps_ms: list[int], newest: int) -> None:
    times_ms = [10_000_000 + sum(gaps_ms[: index + 1]) for index in range(len(gaps_ms))]
    pace = CameraPace()
    kept = [offset for offset, at_ms in enumerate(times_ms) if pace.keeps(offset, at_ms, received_of(at_ms), INTERVAL_US)]

    again = CameraPace(pace.mark(None, newest) or QuotaUsed())
    later = range(newest + 1, len(times_ms))

    assert [offset for offset in later if again.keeps(offset, times_ms[offset], received_of(times_ms[offset]), INTERVAL_US)] == [
        offset for offset in kept if offset > newest
    ]


def test_forgets_marks_that_no_replay_needs() -> None:
    pace = CameraPace()
    for offset in range(10):
        pace.keeps(offset, offset * 100, None, INTERVAL_US)

    pace.forget(4, 8)
    assert (pace.mark(3, 8), pace.mark(4, 8)) == (None, QuotaUsed(400_000, 0, 300))

    pace.forget(None, 8)
    assert (pace.mark(7, 8), pace.mark(None, 8), pace.mark(None, 9)) == (
        None,
        QuotaUsed(900_000, 0, 800),
        QuotaUsed(1_000_000, 0, 900),
    )
