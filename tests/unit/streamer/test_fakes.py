"""The in-memory Kafka and Redis deliver messages and fail as their users expect; more in tests/integration/test_redis.py."""

import pytest

from streamer.interfaces import RedisUnavailable, Step
from streamer.types import Partition
from tests.harness.fakes import MemoryFrameSource, MemoryProgressStore, MemoryTopic
from tests.harness.pipeline import message

P0 = Partition("frames", 0)


def polled(source: MemoryFrameSource) -> list[int]:
    return [each.offset for each in source.poll(0.0).messages]


@pytest.mark.parametrize(("failure", "written"), [("lost", 0), ("unanswered", 1)])
def test_outage_before_or_after_write(failure: str, written: int) -> None:
    store = MemoryProgressStore(failures=[failure])

    with pytest.raises(RedisUnavailable):
        store.apply(Step(P0, None, 5, events=[{}]))

    assert len(store.events) == written
    store.apply(Step(P0, 5 if written else None, 6))
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
