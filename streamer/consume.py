"""Kafka to messages: group membership, polling, seeking, commits. Nothing is fetched from a partition before it is started.

Rebalance callbacks run inside ``poll``, on its thread. They only pause and take notes: reading progress takes a round trip to
Redis, which may be away, and belongs to the pipeline.
"""

from collections.abc import Iterable, Mapping

import structlog
from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError, OffsetOutOfRangeError
from kafka.structs import OffsetAndMetadata

from streamer.config import KafkaSettings
from streamer.errors import BrokerUnavailable
from streamer.kafka_link import make_consumer
from streamer.ports import Change, Polled
from streamer.records import FrameMessage, Partition

log = structlog.get_logger("oddsight.consume")


class KafkaFrameSource:
    """:class:`~streamer.ports.FrameSource` on kafka-python."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._changes: list[Change] = []
        self._consumer: KafkaConsumer = make_consumer(settings)
        self.joined = False
        self._consumer.subscribe([settings.topic], listener=_Listener(self))

    def poll(self, timeout_s: float) -> Polled:
        """See :meth:`streamer.ports.FrameSource.poll`.

        Raises:
            BrokerUnavailable: Kafka answered with an error that waiting does not cure.
        """
        messages: list[FrameMessage] = []
        try:
            for records in self._consumer.poll(timeout_ms=max(0, round(timeout_s * 1000))).values():
                messages += map(_message, records)
        except KafkaError as error:
            if not (error.retriable or isinstance(error, OffsetOutOfRangeError)):
                raise BrokerUnavailable(f"Kafka: {error}") from error
            log.warning("poll failed, reading the progress again", error=str(error))
            messages = []
            self._changes += self._changes_after(error)
        changes = self._changes[:]
        self._changes.clear()
        return Polled(changes, messages)

    def _changes_after(self, error: KafkaError) -> list[Change]:
        """Every partition begins again: the failed poll may have swallowed messages of those it does not name."""
        outside = set(error.args[0]) if isinstance(error, OffsetOutOfRangeError) else set()
        return [
            Change("out_of_range" if where in outside else "assigned", _partition(where)) for where in self._consumer.assignment()
        ]

    def start(self, partition: Partition, offset: int) -> None:
        """See :meth:`streamer.ports.FrameSource.start`."""
        self._consumer.seek(_topic_partition(partition), offset)
        self._consumer.resume(_topic_partition(partition))

    def pause(self, partition: Partition) -> None:
        """See :meth:`streamer.ports.FrameSource.pause`."""
        if _topic_partition(partition) in self._consumer.assignment():
            self._consumer.pause(_topic_partition(partition))

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """See :meth:`streamer.ports.FrameSource.bounds`.

        Raises:
            BrokerUnavailable: Kafka did not answer.
        """
        where = _topic_partition(partition)
        try:
            return self._consumer.beginning_offsets([where])[where], self._consumer.end_offsets([where])[where]
        except KafkaError as error:
            raise BrokerUnavailable(f"{partition}: Kafka did not tell its offsets: {error}") from error

    def committed(self, partition: Partition) -> int | None:
        """See :meth:`streamer.ports.FrameSource.committed`.

        Raises:
            BrokerUnavailable: Kafka did not answer.
        """
        try:
            offset: int | None = self._consumer.committed(_topic_partition(partition))
        except KafkaError as error:
            raise BrokerUnavailable(f"{partition}: Kafka did not tell the group's offset: {error}") from error
        return offset

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """See :meth:`streamer.ports.FrameSource.commit`. Never waits; a commit that fails is made good by the next."""
        if offsets:
            self._consumer.commit_async(
                {_topic_partition(partition): OffsetAndMetadata(offset, "", -1) for partition, offset in offsets.items()},
                callback=_log_failed_commit,
            )

    def lag(self, partition: Partition, next_offset: int) -> int | None:
        """See :meth:`streamer.ports.FrameSource.lag`. From fetch replies: exact on brokers whose end offsets are not."""
        newest = self._consumer.highwater(_topic_partition(partition))
        return None if newest is None else max(0, newest - next_offset)

    def note_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Called by the client inside ``poll``."""
        self._changes += [Change("revoked", _partition(where)) for where in revoked]

    def note_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Called by the client inside ``poll``."""
        for where in assigned:
            # Any position will do: paused, it fetches nothing, and with one the client asks for no reset policy.
            self._consumer.seek(where, 0)
            self._consumer.pause(where)
        self._changes += [Change("assigned", _partition(where)) for where in assigned]
        self.joined = True

    def close(self) -> None:
        """See :meth:`streamer.ports.FrameSource.close`."""
        self._consumer.close(autocommit=False)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no type hints
    def __init__(self, source: KafkaFrameSource) -> None:
        self._source = source

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._source.note_revoked(revoked)

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        self._source.note_assigned(assigned)


def _log_failed_commit(_offsets: object, response: object) -> None:
    if isinstance(response, Exception):
        log.info("commit failed, the next one makes up for it", error=str(response))


def _message(record: object) -> FrameMessage:
    return FrameMessage(
        partition=Partition(record.topic, record.partition),  # type: ignore[attr-defined]  # kafka-python's named tuple, untyped
        offset=record.offset,  # type: ignore[attr-defined]  # likewise
        key=record.key,  # type: ignore[attr-defined]  # likewise
        value=record.value,  # type: ignore[attr-defined]  # likewise
        headers=tuple(record.headers or ()),  # type: ignore[attr-defined]  # likewise
        timestamp_ms=record.timestamp,  # type: ignore[attr-defined]  # likewise
    )


def _partition(where: TopicPartition) -> Partition:
    return Partition(where.topic, where.partition)


def _topic_partition(partition: Partition) -> TopicPartition:
    return TopicPartition(partition.topic, partition.number)
