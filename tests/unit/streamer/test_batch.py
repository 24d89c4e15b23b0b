"""The micro-batcher: nothing lost, first in first out, never over its size, flushed at the deadline and not before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.batch import MicroBatcher

# Whole seconds, so that the model below may compare times for equality.
MOVES = st.lists(st.tuples(st.sampled_from(["add", "take", "take_all"]), st.integers(0, 4)), max_size=60)


@given(st.integers(1, 5), st.integers(0, 6), MOVES)
def test_whatever_happens_the_batches_hold_every_clip_once_in_order(
    max_clips: int, max_wait_s: int, moves: list[tuple[str, int]]
) -> None:
    batcher: MicroBatcher[int] = MicroBatcher(max_clips, max_wait_s)
    waiting: list[tuple[int, int]] = []
    now_s = clips = 0
    for move, pause_s in moves:
        now_s += pause_s
        if move == "add":
            batcher.add(clips, now_s)
            waiting.append((clips, now_s))
            clips += 1
            continue
        due = bool(waiting) and (len(waiting) >= max_clips or now_s - waiting[0][1] >= max_wait_s)
        batch = batcher.take(now_s) if move == "take" else batcher.take_all()
        expected = waiting[:max_clips] if due or move == "take_all" else []
        assert batch == [clip for clip, _ in expected]
        del waiting[: len(expected)]
        assert len(batcher) == len(waiting)
        assert batcher.deadline_s() == (waiting[0][1] + max_wait_s if waiting else None)


def test_a_full_micro_batch_does_not_wait() -> None:
    batcher: MicroBatcher[str] = MicroBatcher(2, 10.0)
    batcher.add("a", 0.0)
    assert batcher.take(0.0) == []

    batcher.add("b", 0.0)

    assert batcher.take(0.0) == ["a", "b"]


@pytest.mark.parametrize(("now_s", "batch"), [(100.049, []), (100.05, ["a", "b"])])
def test_the_oldest_clip_sets_the_deadline(now_s: float, batch: list[str]) -> None:
    batcher: MicroBatcher[str] = MicroBatcher(8, 0.05)

    batcher.add("a", 100.0)
    batcher.add("b", 100.04)

    assert batcher.deadline_s() == 100.05
    assert batcher.take(now_s) == batch


def test_what_is_left_over_waits_for_its_own_deadline() -> None:
    batcher: MicroBatcher[str] = MicroBatcher(2, 5.0)
    for clip, now_s in (("a", 0.0), ("b", 1.0), ("c", 2.0)):
        batcher.add(clip, now_s)

    assert batcher.take(2.0) == ["a", "b"]
    assert batcher.deadline_s() == 7.0
    assert batcher.take(6.9) == []
    assert batcher.take(7.0) == ["c"]


def test_nothing_waits_so_nothing_is_due() -> None:
    batcher: MicroBatcher[str] = MicroBatcher(1, 0.0)

    assert batcher.deadline_s() is None
    assert batcher.take(1e9) == batcher.take_all() == []
