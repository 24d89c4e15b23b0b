"""The topic of frames as a :class:`~streamer.interfaces.FrameSource`.

It does group membership, polling, seeking and commits. When members come or go, only the partitions that move are taken from
their member (the cooperative protocol of KIP-429, a sticky assignor); the others are read on all the time. Its rebalance
callbacks run on the client's own thread. They only pause partitions and record the change: reading progress takes a round trip
to Redis, which may be down, and belongs to the pipeline.
"""

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

import structlog
from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.base import MemberState
from kafka.errors import FencedInstanceIdError, InconsistentGroupProtocolError, KafkaError, OffsetOutOfRangeError
from kafka.structs import OffsetAndMetadata

from streamer.config import KafkaSettings
from streamer.interfaces import BrokerUnavailable, ChangeKind, PartitionChange, PollResult, TopicVersion
from streamer.kafka.client import make_consumer
from streamer.kafka.patches import (
    keep_fetching_while_joining,
    patch_group_join,
    patch_record_reading,
    patch_resuming,
    topic_id,
    wait_though_heartbeat_is_due,
)
from streamer.kafka.records import ReadingFault
from streamer.types import FrameMessage, Partition

log = structlog.get_logger("oddsight.consume")

_REQUEST_TIMEOUT_MS = 5_000
"""By default kafka-python waits for a dead broker for ever, and the group would consider this consumer stuck."""


class KafkaFrameSource(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no type hints
    """:class:`~streamer.interfaces.FrameSource` on kafka-python, subscribed from the start.

    Its methods raise BrokerUnavailable if Kafka does not answer, or answers with an error that waiting does not cure.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._changes: SimpleQueue[PartitionChange] = SimpleQueue()
        patch_record_reading()
        self._settings, self._assignor = settings, CooperativeStickyAssignor()
        self._consumer: KafkaConsumer = make_consumer(
            settings, partition_assignment_strategy=[self._assignor], group_instance_id=settings.group_instance_id
        )
        patch_group_join(self._consumer)
        keep_fetching_while_joining(self._consumer)
        wait_though_heartbeat_is_due(self._consumer)
        patch_resuming(self._consumer)
        self.joined = False
        self._warned_of_other_protocol = False
        self._consumer.subscribe([settings.topic], listener=self)

    def poll(self, timeout_s: float) -> PollResult:
        messages: list[FrameMessage] = []
        try:
            polled = self._consumer.poll(timeout_ms=max(0, round(timeout_s * 1000)))
            messages = [to_message(record) for records in polled.values() for record in records]
            self.joined = self.joined or self._consumer.group_metadata().state is MemberState.STABLE
        except InconsistentGroupProtocolError:
            self._wait_for_other_members(timeout_s)
        except KafkaError as error:
            if not (error.retriable or isinstance(error, OffsetOutOfRangeError)):
                raise self._refused(error) from error
            log.warning("poll failed, reading the progress again", error=str(error))
            self._restart_partitions(error)
        changes = []
        while not self._changes.empty():
            changes.append(self._changes.get())
        return PollResult(changes, messages)

    def _wait_for_other_members(self, timeout_s: float) -> None:
        """The group's members share partitions out in another way; the broker lets this one in when the last of them has gone."""
        if not self._warned_of_other_protocol:
            self._warned_of_other_protocol = True
            log.warning(
                "waiting: members of the group share its partitions out by an older protocol; stop them, and this one takes over",
                consumer_group=self._settings.consumer_group,
                protocol=self._assignor.name,
            )
        time.sleep(timeout_s)

    def _refused(self, error: KafkaError) -> BrokerUnavailable:
        if isinstance(error, FencedInstanceIdError):
            return BrokerUnavailable(
                f"Kafka: another process has joined the group {self._settings.consumer_group} with the same "
                f"kafka.group_instance_id, {self._settings.group_instance_id}: give every process one of its own"
            )
        return BrokerUnavailable(f"Kafka: {error}")

    def _restart_partitions(self, error: KafkaError) -> None:
        """All partitions, because the failed poll may have dropped messages of those that the error does not name."""
        out_of_range = set(error.args[0]) if isinstance(error, OffsetOutOfRangeError) else set()
        for partition in self._consumer.assignment():
            kind: ChangeKind = "out_of_range" if partition in out_of_range else "assigned"
            self._changes.put(PartitionChange(kind, Partition(*partition)))

    def start(self, partition: Partition, offset: int) -> None:
        # It may just have been revoked on the client's thread; the next poll will say so.
        with suppress(ValueError, KeyError):
            self._consumer.seek(TopicPartition(*partition), offset)
            self._consumer.resume(TopicPartition(*partition))

    def pause(self, partition: Partition) -> None:
        with suppress(KeyError):  # revoked: nothing is delivered anyway
            self._consumer.pause(TopicPartition(*partition))

    def resume(self, partition: Partition) -> None:
        # Without a seek, so that what was fetched before the pause is not fetched again.
        with suppress(KeyError):
            self._consumer.resume(TopicPartition(*partition))

    def bounds(self, partition: Partition) -> tuple[int, int]:
        where = TopicPartition(*partition)
        try:
            first = self._consumer.beginning_offsets([where], timeout_ms=_REQUEST_TIMEOUT_MS)[where]
            return first, self._consumer.end_offsets([where], timeout_ms=_REQUEST_TIMEOUT_MS)[where]
        except KafkaError as error:
            raise BrokerUnavailable(f"{partition}: Kafka did not return its offsets: {error}") from error

    def topic(self, partition: Partition) -> TopicVersion:
        try:
            partitions = self._consumer.partitions_for_topic(partition.topic)
        except KafkaError as error:
            raise BrokerUnavailable(f"{partition}: Kafka did not return its topic: {error}") from error
        if not partitions:
            raise BrokerUnavailable(f"{partition}: Kafka knows no partitions of its topic at the moment")
        return TopicVersion(topic_id=topic_id(self._consumer, partition.topic), partitions=len(partitions))

    def committed(self, partition: Partition) -> int | None:
        try:
            offset: int | None = self._consumer.committed(TopicPartition(*partition), timeout_ms=_REQUEST_TIMEOUT_MS)
        except KafkaError as error:
            raise BrokerUnavailable(f"{partition}: Kafka did not return the group's offset: {error}") from error
        return offset

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Commit without waiting; a commit that fails is made up for by the next."""
        if not offsets:
            return
        content = {TopicPartition(*partition): OffsetAndMetadata(offset, "", -1) for partition, offset in offsets.items()}
        try:
            self._consumer.commit_async(content, callback=_log_failed_commit)
        except FencedInstanceIdError as error:
            raise self._refused(error) from error

    def position(self, partition: Partition) -> int | None:
        with suppress(KafkaError):  # also IllegalStateError: revoked
            # Without time, so that nothing is asked of the broker: every assigned partition has a position.
            offset: int | None = self._consumer.position(TopicPartition(*partition), timeout_ms=0)
            return offset
        return None

    def lag(self, partition: Partition, next_offset: int) -> int | None:
        # From fetch responses, which are right also on the embedded broker, whose end offsets are not.
        newest = self._consumer.highwater(TopicPartition(*partition))
        return None if newest is None else max(0, newest - next_offset)

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        for partition in revoked:
            self._changes.put(PartitionChange("revoked", Partition(*partition)))

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        for partition in assigned:
            # Any position will do: a paused partition is not fetched, and with a position the client needs no reset policy.
            self._consumer.seek(partition, 0)
            self._consumer.pause(partition)
            # Last, because the pipeline may start the partition as soon as it reads this.
            self._changes.put(PartitionChange("assigned", Partition(*partition)))

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        # Others have them by now. To claim them, as kafka-python would, would take them away again.
        self._assignor.member_assignment = None
        self.on_partitions_revoked(lost)

    def close(self) -> None:
        self._consumer.close(autocommit=False)


def _log_failed_commit(_offsets: object, response: object) -> None:
    if isinstance(response, Exception):
        log.info("commit failed, the next one makes up for it", error=str(response))


def to_message(record: Any) -> FrameMessage:
    """A record of kafka-python as the service knows it."""
    return FrameMessage(
        partition=Partition(record.topic, record.partition),
        offset=record.offset,
        key=record.key,
        value=record.value,
        # Kafka allows a header without a value, and old records without a timestamp.
        headers=tuple((name, value or b"") for name, value in record.headers or ()),
        timestamp_ms=-1 if record.timestamp is None else record.timestamp,
        first_offset=record.headers.first_offset if isinstance(record.headers, ReadingFault) else None,
    )
