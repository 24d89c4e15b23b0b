"""The offset tracker returns results once, in order, and never past an unfinished offset; where a partition starts."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.interfaces import Progress, TopicVersion
from streamer.pipeline.partitions import OffsetTracker
from streamer.pipeline.start_plan import plan_start
from streamer.types import Partition
from tests.harness.fakes import MemoryFrameSource, MemoryProgressStore, MemoryTopic
from tests.harness.pipeline import message

MOVES = st.lists(st.tuples(st.sampled_from(["open", "close", "take"]), st.integers(0, 20)), max_size=60)


@given(st.integers(0, 1_000), MOVES)
def test_tracker_matches_model(first: int, moves: list[tuple[str, int]]) -> None:
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


def test_returns_results_in_offset_order() -> None:
    tracker = tracker_with(5, 6, 9)

    tracker.finish(9, "nine")
    tracker.finish(6, "six")
    assert list(tracker.take_finished()) == []
    tracker.finish(5, "five")

    assert list(tracker.take_finished()) == ["five", "six", "nine"]
    assert tracker.next_offset == 10


def test_none_is_a_result() -> None:
    tracker: OffsetTracker[None] = OffsetTracker(0)
    tracker.add(0)

    tracker.finish(0, None)

    assert list(tracker.take_finished()) == [None]
    assert tracker.next_offset == 1


def test_next_offset_follows_taken_results() -> None:
    tracker = tracker_with(0, 1)
    tracker.finish(0, "zero")
    tracker.finish(1, "one")

    assert list(islice(tracker.take_finished(), 1)) == ["zero"]
    assert tracker.next_offset == 1
    assert list(tracker.take_finished()) == ["one"]


def test_hole_does_not_move_next_offset() -> None:
    tracker = tracker_with(7)

    assert list(tracker.take_finished()) == []
    assert tracker.next_offset == 0


def test_skips_offsets_without_messages_unless_a_result_is_outstanding() -> None:
    tracker = tracker_with(7)
    tracker.skip_to(9)
    assert tracker.next_offset == 0

    tracker.finish(7, "seven")
    assert list(tracker.take_finished()) == ["seven"]
    tracker.skip_to(9)
    tracker.skip_to(3)
    assert tracker.next_offset == 9


@pytest.mark.parametrize(("added", "offset", "newest"), [([7], 4, 7), ([7], 6, 7), ([7], 7, 7), ([], 4, 4)])
def test_rejects_offset_out_of_order(added: list[int], offset: int, newest: int) -> None:
    tracker: OffsetTracker[str] = OffsetTracker(5)
    for each in added:
        tracker.add(each)

    with pytest.raises(ValueError, match=f"offset {offset} does not follow {newest}"):
        tracker.add(offset)


def test_rejects_unknown_or_finished_offset() -> None:
    tracker = tracker_with(5)
    tracker.finish(5, "done")

    for offset in (5, 6):  # closed already; never opened
        with pytest.raises(KeyError):
            tracker.finish(offset, "again")
    assert list(tracker.take_finished()) == ["done"]


def tracker_with(*offsets: int) -> OffsetTracker[str]:
    """A tracker from 0 with these offsets added."""
    tracker: OffsetTracker[str] = OffsetTracker(0)
    for offset in offsets:
        tracker.add(offset)
    return tracker


TWO_OF_OLD = TopicVersion(topic_id="old", partitions=2)


@pytest.mark.parametrize(
    ("first_partition", "topic_id", "next_offset"),
    [
        (None, "old", 5),  # the group is new to the topic
        (Progress(3), "old", 5),  # it does not know how many partitions the topic had
        (Progress(3, topic=TWO_OF_OLD), "old", 0),  # the partition came later
        (Progress(3, topic=TopicVersion(topic_id="old", partitions=3)), "old", 5),  # it was there from the start
        (Progress(3, topic=TopicVersion(topic_id="old", partitions=3)), "new", 0),  # the whole topic came later
        (Progress(3, topic=TopicVersion(topic_id="new", partitions=0)), "new", 0),  # likewise, noticed already
        (Progress(3, topic=TopicVersion(topic_id=None, partitions=3)), "old", 5),  # the broker did not tell before
    ],
)
def test_partition_that_came_after_the_group_is_read_from_its_beginning(
    first_partition: Progress | None, topic_id: str, next_offset: int
) -> None:
    """Although the group begins in others at their end."""
    topic = MemoryTopic([message(number, offset, "gate", b"") for number in range(3) for offset in range(5)])
    topic.topic_id = topic_id
    store = MemoryProgressStore({Partition("frames", 0): first_partition} if first_partition else {})

    plan = plan_start(MemoryFrameSource(topic), store, Partition("frames", 2), "latest")

    assert plan.next_offset == next_offset
    assert store.read(Partition("frames", 2)).topic == TopicVersion(topic_id=topic_id, partitions=3)


def test_known_number_of_partitions_stays_as_it_was() -> None:
    """Else the first partition would forget which ones came later, before those are started."""
    topic = MemoryTopic([message(number, 0, "gate", b"") for number in range(4)])
    topic.topic_id = "old"
    store = MemoryProgressStore({Partition("frames", 0): Progress(1, topic=TWO_OF_OLD)})

    plan_start(MemoryFrameSource(topic), store, Partition("frames", 0), "latest")

    assert store.read(Partition("frames", 0)).topic == TWO_OF_OLD
