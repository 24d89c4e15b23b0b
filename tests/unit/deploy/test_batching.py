"""Micro-batches: no clip lost, first in first out, never too large, flushed at the deadline and not before."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.batching import MicroBatcher

# Whole seconds, so that the model in the test may compare times for equality.
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 2), st.sampled_from(["gate", "yard", "hall", None])),
        st.tuples(st.sampled_from(["take", "take_all"]), st.integers(0, 4), st.none()),
    ),
    max_size=60,
)


@given(st.integers(1, 5), st.integers(0, 6), MOVES)
def test_batcher_matches_model(max_clips: int, max_wait_s: int, moves: list[tuple[str, int, str | None]]) -> None:
    batcher: MicroBatcher[tuple[str | None, int]] = MicroBatcher(max_clips, max_wait_s)
    waiting: list[tuple[tuple[str | None, int], int]] = []
    now_s = 0
    for number, (move, pause_s, key) in enumerate(moves):
        now_s += pause_s
        if move == "add":
            batcher.add((key, number), now_s, key)
            waiting.append(((key, number), now_s))
            continue
        first_of_keys = [
            clip for place, (clip, _) in enumerate(waiting) if clip[0] not in {c[0] for c, _ in waiting[:place]} - {None}
        ]
        due = bool(waiting) and (len(first_of_keys) >= max_clips or now_s - waiting[0][1] >= max_wait_s)
        batch = batcher.take(now_s) if move == "take" else batcher.take_all()
        assert batch == (first_of_keys[:max_clips] if due or move == "take_all" else [])
        waiting = [entry for entry in waiting if entry[0] not in batch]
        assert len(batcher) == len(waiting)
        assert batcher.deadline_s() == (waiting[0][1] + max_wait_s if waiting else None)


@given(st.integers(1, 5), st.lists(st.sampled_from(["gate", "yard", "hall", None]), max_size=40))
def test_every_clip_is_taken(max_clips: int, keys: list[str | None]) -> None:
    batcher: MicroBatcher[int] = MicroBatcher(max_clips, 1.0)
    for number, key in enumerate(keys):
        batcher.add(number, 0.0, key)

    taken: list[int] = []
    while batch := batcher.take(1.0):
        assert min(set(range(len(keys))) - set(taken)) == batch[0]
        taken += batch

    assert sorted(taken) == list(range(len(keys)))


def test_clips_that_may_share_take_turns() -> None:
    batcher: MicroBatcher[str] = MicroBatcher(4, 10.0)
    for clip in ("gate 1", "gate 2", "gate 3", "yard 1", "gate 4", "hall 1", "yard 2"):
        batcher.add(clip, 0.0, clip[:4], may_share=True)

    assert batcher.take(0.0) == ["gate 1", "yard 1", "hall 1", "gate 2"]
    assert batcher.take_all() == ["gate 3", "yard 2", "gate 4"]


def test_one_clip_of_a_key_in_batch() -> None:
    batcher: MicroBatcher[str] = MicroBatcher(2, 10.0)
    batcher.add("gate 1", 0.0, "gate")
    batcher.add("gate 2", 0.0, "gate")
    assert batcher.take(0.0) == []

    batcher.add("yard 1", 0.0, "yard")

    assert batcher.take(0.0) == ["gate 1", "yard 1"]
    assert batcher.take_all() == ["gate 2"]


@pytest.mark.parametrize(("now_s", "batch"), [(100.049, []), (100.05, ["a", "b"])])
def test_oldest_clip_sets_deadline(now_s: float, batch: list[str]) -> None:
    batcher: MicroBatcher[str] = MicroBatcher(8, 0.05)

    batcher.add("a", 100.0)
    batcher.add("b", 100.04)

    assert batcher.deadline_s() == 100.05
    assert batcher.take(now_s) == batch


def test_leftover_waits_for_own_deadline() -> None:
    batcher: MicroBatcher[str] = MicroBatcher(2, 5.0)
    for clip, now_s in (("a", 0.0), ("b", 1.0), ("c", 2.0)):
        batcher.add(clip, now_s)

    assert batcher.take(2.0) == ["a", "b"]
    assert batcher.deadline_s() == 7.0
    assert batcher.take(6.9) == []
    assert batcher.take(7.0) == ["c"]
