"""The shipped fakes keep the contracts of the real ones: a fence that lets through would hide every bug behind it."""

import numpy as np
import pytest

from deploy.decision import OpenEvent
from streamer.errors import Fenced, RedisUnavailable
from streamer.interfaces import CameraState, Progress, Step
from streamer.types import Partition, Rejected
from tests.harness.fakes import (
    BrightnessEngine,
    FakeClock,
    MeanBrightnessEngine,
    MemoryDeadLetters,
    MemoryFrameSource,
    MemoryProgressStore,
    MemoryTopic,
)
from tests.unit.streamer.pipeline_kit import RECURRENT, SPEC, message

P0 = Partition("frames", 0)
STATE = CameraState(
    clip_from=3, event=OpenEvent(event_id="e", started_at_ms=1, last_active_ms=2, peak_score=0.1 + 0.2, announced_at_ms=None)
)


def step(expected: int | None, next_offset: int) -> Step:
    return Step(P0, expected, next_offset, {"gate": STATE}, [("gate", {"score": "1"})], [{"kind": "start"}])


def polled(source: MemoryFrameSource) -> list[int]:
    return [each.offset for each in source.poll(0.0).messages]


def test_a_step_is_written_whole_and_read_back() -> None:
    store = MemoryProgressStore()

    store.apply(step(None, 5))

    assert store.read(P0) == Progress(5, {"gate": STATE})
    assert (store.scores, store.events) == ([("gate", {"score": "1"})], [{"kind": "start"}])


@pytest.mark.parametrize("expected", [None, 4, 6])
def test_a_step_from_elsewhere_is_fenced_and_writes_nothing(expected: int | None) -> None:
    store = MemoryProgressStore({P0: Progress(5)})

    with pytest.raises(Fenced, match=r"frames\[0\]: stored progress is 5, expected"):
        store.apply(step(expected, 9))

    assert (store.progress, store.scores, store.events) == ({P0: Progress(5)}, [], [])


def test_a_step_keeps_the_cameras_it_does_not_touch() -> None:
    store = MemoryProgressStore({P0: Progress(5, {"yard": STATE})})

    store.apply(step(5, 6))

    assert store.read(P0).cameras == {"yard": STATE, "gate": STATE}


@pytest.mark.parametrize(("failure", "written"), [("lost", 0), ("unanswered", 1)])
def test_an_outage_fails_one_step_before_or_after_it_is_written(failure: str, written: int) -> None:
    store = MemoryProgressStore(failures=[failure])

    with pytest.raises(RedisUnavailable):
        store.apply(step(None, 5))

    assert len(store.events) == written
    store.apply(step(5 if written else None, 6))
    assert store.read(P0).next_offset == 6


def test_a_source_delivers_nothing_before_it_is_started_and_nothing_while_paused() -> None:
    source = MemoryFrameSource(MemoryTopic([message(0, offset, "gate", b"") for offset in (2, 5, 6)]), poll_messages=2)

    assert polled(source) == []
    source.start(P0, 3)
    assert polled(source) == [5, 6]
    source.start(P0, 0)
    assert polled(source) == [2, 5]
    source.pause(P0)
    assert polled(source) == []


def test_dead_letters_are_stored_only_when_flushed() -> None:
    letters = MemoryDeadLetters()
    rejected = Rejected(message(0, 1, "gate", b""), "empty", "nothing")

    letters.send(rejected)
    assert letters.stored == []
    letters.flush()
    letters.flush()

    assert letters.stored == [rejected]


def test_the_brightness_of_the_newest_frame_is_the_score() -> None:
    clips = np.zeros((2, *SPEC.clip_shape), np.uint8)
    clips[0, -1] = 51
    clips[1, 0] = 255

    scores = BrightnessEngine(SPEC).score(clips)

    assert scores.score == pytest.approx([0.2, 0.0])
    assert scores.heatmap.shape == (2, 2, 2)


def test_the_mean_brightness_is_half_the_newest_frames_and_half_the_states() -> None:
    engine = MeanBrightnessEngine(RECURRENT)
    clips = np.zeros((2, *RECURRENT.clip_shape), np.uint8)
    clips[1] = 255

    first = engine.score(clips)
    second = engine.score(clips[::-1], first.state)

    assert first.score == pytest.approx([0.0, 1.0])
    assert second.score == pytest.approx([1 / 1.5, 0.5 / 1.5])


def test_a_fake_clock_stands_still_unless_it_ticks() -> None:
    still, ticking = FakeClock(5.0), FakeClock(5.0, tick_s=0.5)

    assert (still(), still()) == (5.0, 5.0)
    assert (ticking(), ticking()) == (5.5, 6.0)
