"""Whatever happens to consumers, topic and Redis, in whatever order: every message counts once, in order, and none is skipped.

Two consumers believe that they own all partitions, so that only the fence of the stored offset stands between them.
"""

from collections.abc import Iterator

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from streamer.interfaces import ChangeKind, PartitionChange, Progress
from streamer.types import FrameMessage, Partition
from tests.harness.pipeline import SPEC, Rig, message

CONSUMERS = st.sampled_from([0, 1])
MOST_PARTITIONS = 4
PARTITIONS = st.integers(0, MOST_PARTITIONS - 1)
SINGLE_FRAMES = SPEC.model_copy(update={"length": 1})
"""Every frame has a score."""


class Ledger(RuleBasedStateMachine):
    """Two consumers on one topic and one store."""

    def __init__(self) -> None:
        super().__init__()
        self._time_ms = 0
        self._topics = 1
        self._before: dict[Partition, Progress] = {}
        first = [self._message(number, offset, "gate", good=True) for offset in range(4) for number in self._same_time(0, 1)]
        self.consumers = [Rig(first, spec=SINGLE_FRAMES, max_clips=3, poll_messages=2) for _ in range(2)]
        self.topic, self.store = self.consumers[0].topic, self.consumers[0].store
        self.topic.topic_id = "topic-1"
        self.consumers[1].topic, self.consumers[1].store = self.topic, self.store
        for consumer in self.consumers:
            consumer.start()

    def _same_time(self, *partitions: int) -> tuple[int, ...]:
        """Partitions whose next messages have the same capture time, which is later than those before."""
        self._time_ms += 100
        return partitions

    def _message(self, partition: int, offset: int, camera_id: str, *, good: bool) -> FrameMessage:
        """A message whose partition and capture time tell which effects are its own."""
        return message(partition, offset, f"{camera_id}-{partition}", 0.8 if good else b"rubbish", at_ms=self._time_ms)

    @rule(
        holes=st.lists(st.sampled_from([1, 1, 1, 3]), max_size=3),
        turns=st.lists(CONSUMERS, min_size=4, max_size=16),
        failures=st.lists(st.sampled_from(["lost", "unanswered", "", ""]), max_size=2),
    )
    def live(self, holes: list[int], turns: list[int], failures: list[str]) -> None:
        """New messages in all partitions, and the consumers' turns, in some of which Redis fails."""
        for hole in holes:
            for number in self._same_time(*range(len(self.topic.partitions))):
                self._append(self.topic.partitions[Partition("frames", number)], hole)
        self.store.failures += failures
        for consumer in turns:
            self.consumers[consumer].steps(1)

    def _append(self, messages: list[FrameMessage], hole: int) -> None:
        last = messages[-1]
        camera_id = "gate" if self._time_ms % 300 else "yard"
        messages.append(self._message(last.partition.number, last.offset + hole, camera_id, good=self._time_ms % 400 != 0))

    @rule(consumer=CONSUMERS)
    def crash(self, consumer: int) -> None:
        self.consumers[consumer].dead_letters.crash()
        self.consumers[consumer].start()

    @rule(available=st.booleans())
    def take_letters(self, available: bool) -> None:
        """Whether Kafka takes dead letters."""
        for consumer in self.consumers:
            consumer.dead_letters.available = available

    @rule(consumer=CONSUMERS)
    def stop(self, consumer: int) -> None:
        self.consumers[consumer].pipeline.drain()
        self.consumers[consumer].start()

    @rule(consumer=CONSUMERS)
    def wait(self, consumer: int) -> None:
        """Until the pause after a failure is over."""
        self.consumers[consumer].clock.now_s += 3

    @rule(consumer=CONSUMERS, number=PARTITIONS, kinds=st.sampled_from([("revoked",), ("revoked", "assigned")]))
    def rebalance(self, consumer: int, number: int, kinds: tuple[ChangeKind, ...]) -> None:
        partition = Partition("frames", number % len(self.topic.partitions))
        self.consumers[consumer].source.changes += [PartitionChange(kind, partition) for kind in kinds]

    @rule()
    def add_partition(self) -> None:
        number = len(self.topic.partitions)
        if number < MOST_PARTITIONS:
            self._same_time(number)
            self.topic.partitions[Partition("frames", number)] = [self._message(number, 0, "gate", good=True)]

    @rule(number=PARTITIONS, count=st.integers(1, 4))
    def expire(self, number: int, count: int) -> None:
        """Kafka deletes old messages, read or not; at least one stays."""
        messages = self.topic.partitions[Partition("frames", number % len(self.topic.partitions))]
        gone = messages[: min(count, len(messages) - 1)]
        del messages[: len(gone)]

    @rule()
    def make_topic_anew(self) -> None:
        """What was in it is gone, and offsets begin at 0. Both consumers are told by their next poll."""
        self._topics += 1
        self.topic.topic_id = f"topic-{self._topics}"
        self._same_time(*range(len(self.topic.partitions)))
        for partition in self.topic.partitions:
            self.topic.partitions[partition] = [self._message(partition.number, 0, "gate", good=True)]
        for consumer in (0, 1):
            self.assign_all(consumer)

    @rule(consumer=CONSUMERS)
    def assign_all(self, consumer: int) -> None:
        for partition in self.topic.partitions:
            changes = [PartitionChange("revoked", partition), PartitionChange("assigned", partition)]
            self.consumers[consumer].source.changes += changes

    def _counted(self) -> list[tuple[int, int]]:
        """Partition and capture time of each message that has a score."""
        return [(int(fields["partition"]), int(fields["captured_at_ms"])) for _, fields in self.store.scores]

    @invariant()
    def each_message_counts_once_and_in_order(self) -> None:
        counted = self._counted()
        assert len(counted) == len(set(counted))
        for partition in self.topic.partitions:
            own = [at_ms for number, at_ms in counted if number == partition.number]
            assert own == sorted(own)

    @invariant()
    def events_are_told_once(self) -> None:
        told = [(each["event_id"], each["kind"], each["captured_at_ms"]) for each in self.store.events]
        assert len(told) == len(set(told))
        starts = [event_id for event_id, kind, _ in told if kind == "start"]
        assert len(starts) == len(set(starts))

    @invariant()
    def progress_is_what_has_been_counted(self) -> None:
        counted = set(self._counted())
        for partition, messages in self.topic.partitions.items():
            progress = self.store.read(partition)
            if progress.topic is None or progress.topic.topic_id != self.topic.topic_id:
                continue  # of the topic of before
            for each in good(messages):
                is_counted = (partition.number, time_ms(each)) in counted
                assert is_counted == (each.offset < (progress.next_offset or 0)), (partition, each.offset)

    @invariant()
    def progress_goes_back_only_with_a_new_topic(self) -> None:
        for partition, progress in self.store.progress.items():
            before = self._before.get(partition, Progress())
            if before.topic is None or progress.topic is None or not progress.topic.is_other(before.topic):
                assert (progress.next_offset or 0) >= (before.next_offset or 0), partition
        self._before = dict(self.store.progress)

    def teardown(self) -> None:
        """In the end all that Kafka has is counted."""
        self.store.failures.clear()
        consumer = self.consumers[0]
        self.crash(0)
        self.crash(1)
        consumer.dead_letters.available = True
        consumer.start()
        consumer.finish()
        consumer.dead_letters.flush()
        self.progress_is_what_has_been_counted()
        self.each_message_counts_once_and_in_order()
        self._each_bad_message_has_a_letter()
        for messages in self.topic.partitions.values():
            assert self.store.read(messages[-1].partition).next_offset == messages[-1].offset + 1

    def _each_bad_message_has_a_letter(self) -> None:
        stored = [each.message for consumer in self.consumers for each in consumer.dead_letters.stored]
        letters = {(each.partition, each.offset) for each in stored}
        for messages in self.topic.partitions.values():
            bad = {(each.partition, each.offset) for each in messages if each.value == b"rubbish"}
            assert bad <= letters


def good(messages: list[FrameMessage]) -> Iterator[FrameMessage]:
    return (each for each in messages if each.value != b"rubbish")


def time_ms(each: FrameMessage) -> int:
    return int(dict(each.headers)["captured_at_ms"])


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
