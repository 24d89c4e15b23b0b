"""The in-memory Kafka and Redis keep the contracts of the real ones: a missing fence would hide every bug behind it."""

import pytest

from deploy.decision import OpenEvent
from streamer.errors import Fenced, RedisUnavailable
from streamer.interfaces import CameraState, Progress, Step
from streamer.types import Partition
from tests.harness.fakes import MemoryFrameSource, MemoryProgressStore, MemoryTopic
from tests.harness.pipeline import message

P0 = Partition("frames", 0)
STATE = CameraState(
    clip_from=3, event=OpenEvent(event_id="e", started_at_ms=1, last_active_ms=2, peak_score=0.1 + 0.2, announced_at_ms=None)
)


def step(expected: int | None, next_offset: int) -> Step:
    return Step(P0, expected, next_offset, {"gate": STATE}, [("gate", {"score": "1"})], [{"kind": "start"}])


def polled(source: MemoryFrameSource) -> list[int]:
    return [each.offset for each in source.poll(0.0).messages]


def test_applies_step() -> None:
    store = MemoryProgressStore()

    store.apply(step(None, 5))

    assert store.read(P0) == Progress(5, {"gate": STATE})
    assert (store.scores, store.events) == ([("gate", {"score": "1"})], [{"kind": "start"}])


@pytest.mark.parametrize("expected", [None, 4, 6])
def test_fences_unexpected_step(expected: int | None) -> None:
    store = MemoryProgressStore({P0: Progress(5)})

    with pytest.raises(Fenced, match=r"frames\[0\]: stored progress is 5, expected"):
        store.apply(step(expected, 9))

    assert (store.progress, store.scores, store.events) == ({P0: Progress(5)}, [], [])


def test_step_keeps_other_cameras() -> None:
    store = MemoryProgressStore({P0: Progress(5, {"yard": STATE})})

    store.apply(step(5, 6))

    assert store.read(P0).cameras == {"yard": STATE, "gate": STATE}


@pytest.mark.parametrize(("failure", "written"), [("lost", 0), ("unanswered", 1)])
def test_outage_before_or_after_write(failure: str, written: int) -> None:
    store = MemoryProgressStore(failures=[failure])

    with pytest.raises(RedisUnavailable):
        store.apply(step(None, 5))

    assert len(store.events) == written
    store.apply(step(5 if written else None, 6))
    assert store.read(P0).next_offset == 6


def test_source_delivers_started_partitions() -> None:
    source = MemoryFrameSource(MemoryTopic([message(0, offset, "gate", b"") for offset in (2, 5, 6)]), poll_messages=2)

    assert polled(source) == []
    source.start(P0, 3)
    assert polled(source) == [5, 6]
    source.start(P0, 0)
    assert polled(source) == [2, 5]
    source.pause(P0)
    assert polled(source) == []
