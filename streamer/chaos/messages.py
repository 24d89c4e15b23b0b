"""Reads back what lies in the topics, as nobody's member: what the service must have counted, and the dead letters."""

import time
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from kafka import TopicPartition

from streamer.chaos.audit import Effect
from streamer.chaos.traffic import PICTURE_HEADER
from streamer.config import KafkaSettings
from streamer.kafka.client import make_consumer
from streamer.kafka.patches import patch_record_reading
from streamer.types import FrameInfo, Partition

_READ_TIMEOUT_S = 30.0
_POLL_MS = 100

T = TypeVar("T")


class Frame(NamedTuple):
    """A message that is a frame of a synthetic camera."""

    info: FrameInfo
    picture: int
    """Which of the pictures it shows."""


class Message(NamedTuple):
    """A message in the topic of frames."""

    partition: int
    offset: int
    frame: Frame | None
    """None if it is hostile."""


class TopicReader(Generic[T]):
    """All messages of a topic, read on at each call.

    ``count_partitions`` says how many the topic has: kafka-python waits without a limit for an answer of the broker to that.
    """

    def __init__(
        self, settings: KafkaSettings, topic: str, parse: Callable[[Any], T], count_partitions: Callable[[], int]
    ) -> None:
        patch_record_reading()  # as the service does it: one that cannot be read must not end the reading
        self._settings, self._topic, self._parse, self._count_partitions = settings, topic, parse, count_partitions
        self._positions: dict[int, int] = {}
        self.messages: list[T] = []

    def read_until(self, is_enough: Callable[[], bool]) -> bool:
        """Read until ``is_enough()``; whether it was within half a minute."""
        if is_enough():
            return True
        consumer = make_consumer(self._settings, group_id=None)
        try:
            for number in range(self._count_partitions()):
                self._positions.setdefault(number, 0)
            consumer.assign([TopicPartition(self._topic, number) for number in self._positions])
            for number, offset in self._positions.items():
                consumer.seek(TopicPartition(self._topic, number), offset)
            return self._poll_until(consumer, is_enough)
        finally:
            consumer.close()

    def position(self, partition: int) -> int:
        """The first offset that has not been read."""
        return self._positions.get(partition, 0)

    def _poll_until(self, consumer: Any, is_enough: Callable[[], bool]) -> bool:
        deadline_s = time.monotonic() + _READ_TIMEOUT_S
        while not is_enough():
            if time.monotonic() > deadline_s:
                return False
            for where, records in consumer.poll(timeout_ms=_POLL_MS).items():
                self.messages += [self._parse(record) for record in records]
                self._positions[where.partition] = records[-1].offset + 1
        return True


def parse_message(record: Any) -> Message:
    """A message of the topic of frames."""
    headers = dict(record.headers)
    if PICTURE_HEADER not in headers:
        return Message(record.partition, record.offset, None)
    where = Partition(record.topic, record.partition)
    info = FrameInfo(where, record.offset, record.key.decode(), int(headers["captured_at_ms"]), 0, 0)
    return Message(record.partition, record.offset, Frame(info, int(headers[PICTURE_HEADER])))


def parse_letter(record: Any) -> Effect:
    """What a dead letter says which message it is about."""
    headers = dict(record.headers)
    return Effect("letter", "", int(headers["partition"]), int(headers["offset"]))
