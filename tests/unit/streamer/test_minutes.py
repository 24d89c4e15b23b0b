"""Summing up scores by the minute: the same whatever steps and restarts lie between the frames."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.minutes import MINUTE_MS, ScoredFrame, ScoreMinute, sum_up

START_MS = 1_764_374_400_000

frames = st.lists(
    st.builds(
        ScoredFrame,
        captured_at_ms=st.integers(0, 400_000).map(lambda after_ms: START_MS + after_ms),
        score=st.floats(-10, 10, allow_nan=False),
        threshold=st.sampled_from([1.5, 0.1 + 0.2]),
        profile_id=st.sampled_from([None, "p1"]),
        channel=st.sampled_from([None, "speed", "dwell"]),
        in_event=st.booleans(),
        withheld=st.booleans(),
    ),
    max_size=60,
)


def frame(after_ms: int, score: float, threshold: float = 1.5, **more: object) -> ScoredFrame:
    told = {"profile_id": None, "channel": None, "in_event": False, "withheld": False, **more}
    return ScoredFrame(START_MS + after_ms, score, threshold, **told)  # type: ignore[arg-type]  # as named there


def told(run: Iterable[ScoredFrame], restarts: frozenset[int] = frozenset()) -> list[ScoreMinute]:
    """All minutes, with the one that is still open; a restart reads it again from JSON."""
    minute, ended = None, []
    for number, each in enumerate(run):
        if minute is not None and number in restarts:
            minute = ScoreMinute.model_validate_json(minute.model_dump_json())
        minute, before = sum_up(minute, each)
        ended += [before] if before is not None else []
    return ended if minute is None else [*ended, minute]


@given(frames, st.frozensets(st.integers(0, 60)), st.booleans())
def test_sums_are_the_same_however_the_frames_are_split_into_steps(
    run: list[ScoredFrame], restarts: frozenset[int], in_order: bool
) -> None:
    run = sorted(run, key=lambda each: each.captured_at_ms) if in_order else run
    assert told(run, restarts) == told(run)


@given(frames)
def test_each_frame_counts_in_one_minute_of_its_threshold_and_profile(run: list[ScoredFrame]) -> None:
    minutes = told(run)
    assert sum(minute.frames for minute in minutes) == len(run)
    rest = iter(run)
    for minute in minutes:
        own = [next(rest) for _ in range(minute.frames)]
        assert {each.captured_at_ms // MINUTE_MS * MINUTE_MS for each in own} == {minute.minute_at_ms}
        assert {(each.threshold, each.profile_id) for each in own} == {(minute.threshold, minute.profile_id)}
        first = max(own, key=lambda each: each.score)
        assert (minute.highest, minute.highest_at_ms, minute.channel) == (first.score, first.captured_at_ms, first.channel)
        assert minute.total == pytest.approx(sum(each.score for each in own), abs=1e-9)
        assert minute.event_frames == sum(each.in_event for each in own)
        assert minute.withheld_frames == sum(each.withheld for each in own)


@given(frames)
def test_times_in_order_give_one_part_of_each_minute_and_threshold(run: list[ScoredFrame]) -> None:
    minutes = told(sorted(run, key=lambda each: (each.captured_at_ms // MINUTE_MS, each.threshold, each.profile_id or "")))
    kept = [(minute.minute_at_ms, minute.threshold, minute.profile_id) for minute in minutes]
    assert len(kept) == len(set(kept))


def test_an_entry_says_what_the_minute_was() -> None:
    run = [frame(59_900, 0.25), frame(60_000, 1.75, channel="dwell", in_event=True), frame(119_999, 0.25, withheld=True)]
    _, minute = told(run)
    assert minute.fields() == {
        "schema": "1",
        "minute_at_ms": str(START_MS + 60_000),
        "frames": "2",
        "mean": "1",
        "highest": "1.75",
        "highest_at_ms": str(START_MS + 60_000),
        "threshold": "1.5",
        "event_frames": "1",
        "withheld_frames": "1",
        "channel": "dwell",
    }
