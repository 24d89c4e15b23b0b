"""Rejected messages go to the dead-letter topic without holding up anything: not the frames, not the end of the service.

While Kafka does not take them, letters wait, and are sent again and again. Only those that are too many to wait, or that Kafka
refuses for good, are lost: logged and counted. The rejected message itself stays in Kafka for as long as its topic keeps it, at
the coordinates that the log names.
"""

import hashlib
import threading
from queue import SimpleQueue
from typing import NamedTuple

import structlog
from kafka import KafkaProducer
from kafka.errors import KafkaError

from streamer.config import KafkaSettings
from streamer.interfaces import OwedLetter
from streamer.kafka.client import make_producer
from streamer.kafka.patches import close_producer
from streamer.monitoring import Metrics
from streamer.types import Partition, Rejected

log = structlog.get_logger("oddsight.deadletters")

Headers = list[tuple[str, bytes]]

# Together below the 1 MiB that a topic takes by default.
_MAX_VALUE_BYTES = 768 * 1024
_MAX_KEY_BYTES = 32 * 1024
_MAX_HEADERS_BYTES = 64 * 1024
_DETAIL_CHARS = 500

_MAX_OUTSTANDING = 128
"""Letters that are not stored yet, at most 110 MB; those that come on top are lost."""
_FLUSH_S = 0.5
_RETRY_S = 0.5
_CLOSE_S = 2.0
_TIMEOUTS_MS = {"max_block_ms": 2_000, "request_timeout_ms": 4_000, "delivery_timeout_ms": 5_000}


class Letter(NamedTuple):
    """What is sent for a rejected message."""

    key: bytes | None
    value: bytes | None
    headers: Headers


def make_letter(rejected: Rejected) -> Letter:
    """The message as it came, and why and where it was rejected; of parts that are too large, only size and hash."""
    message = rejected.message
    foreign = b"".join(name.encode() + value for name, value in message.headers)
    key, of_key = _limited("key", message.key, _MAX_KEY_BYTES)
    value, of_value = _limited("value", message.value, _MAX_VALUE_BYTES)
    kept, of_headers = _limited("headers", foreign, _MAX_HEADERS_BYTES)
    headers = [
        *(message.headers if kept is not None else ()),
        ("reason", rejected.reason.encode()),
        ("detail", rejected.detail[:_DETAIL_CHARS].encode()),
        ("topic", message.partition.topic.encode()),
        ("partition", str(message.partition.number).encode()),
        ("offset", str(message.offset).encode()),
        *([] if message.first_offset is None else [("first_offset", str(message.first_offset).encode())]),
        *of_key,
        *of_value,
        *of_headers,
    ]
    if key is None and value is None:
        value = b""  # the client refuses a record with neither
    return Letter(key, value, headers)


def _limited(part: str, content: bytes | None, limit_bytes: int) -> tuple[bytes | None, Headers]:
    """The content, or None and the headers that stand for it."""
    if content is None or len(content) <= limit_bytes:
        return content, []
    size, digest = str(len(content)), hashlib.sha256(content).hexdigest()
    return None, [(f"{part}_bytes", size.encode()), (f"{part}_sha256", digest.encode())]


class KafkaDeadLetters:
    """:class:`~streamer.interfaces.DeadLetterSink` on a topic, written by a thread of its own.

    kafka-python waits for the topic's metadata when a message is sent, for as long as the topic is missing.
    """

    def __init__(self, settings: KafkaSettings, metrics: Metrics) -> None:
        self._topic, self._metrics = settings.deadletter_topic, metrics
        self._producer: KafkaProducer = make_producer(settings, batch_size=256 * 1024, **_TIMEOUTS_MS)
        self._queue: SimpleQueue[int | None] = SimpleQueue()
        """Numbers of letters to send, or to send again."""
        self._changed = threading.Condition()
        self._outstanding: dict[int, Rejected] = {}
        """The letters that are neither stored nor lost, by their numbers."""
        self._numbers = 0
        self._closing = threading.Event()
        self._stalled = False
        """Whether the last flush ended before all letters were stored, and none has been since."""
        self._thread = threading.Thread(target=self._run, name="deadletters", daemon=True)
        self._thread.start()

    def send(self, rejected: Rejected) -> None:
        with self._changed:
            full = len(self._outstanding) >= _MAX_OUTSTANDING
            if not full:
                self._numbers += 1
                self._outstanding[self._numbers] = rejected
                self._queue.put(self._numbers)
        if full:
            self._lose(rejected, f"{_MAX_OUTSTANDING} letters wait already")

    def owed(self, partition: Partition) -> tuple[OwedLetter, ...]:
        with self._changed:
            return tuple(OwedLetter.of(each) for each in self._outstanding.values() if each.message.partition == partition)

    def flush(self) -> None:
        with self._changed:
            if self._stalled or self._changed.wait_for(lambda: not self._outstanding, _FLUSH_S):
                return
            self._stalled = True
        log.warning("dead letters are not stored yet, going on without them", topic=self._topic)

    def close(self) -> None:
        self.flush()
        self._closing.set()
        self._queue.put(None)
        self._thread.join(_CLOSE_S)
        close_producer(self._producer, _CLOSE_S)
        with self._changed:
            left = len(self._outstanding)
            self._outstanding.clear()
        if left:  # the progress of their partitions says which
            log.warning("dead letters still wait, whoever works on their partitions next sends them", letters=left)

    def _run(self) -> None:
        while (number := self._queue.get()) is not None:
            with self._changed:
                rejected = self._outstanding.get(number)
            if rejected is not None:  # else it is left for the next start
                self._send(number, rejected)

    def _send(self, number: int, rejected: Rejected) -> None:
        key, value, headers = make_letter(rejected)
        try:
            future = self._producer.send(self._topic, key=key, value=value, headers=headers)
        except (KafkaError, ValueError) as error:  # ValueError: no partition, the topic is gone
            self._closing.wait(_RETRY_S)
            self._fail(number, rejected, error)
        else:
            future.add_callback(lambda _: self._settle(number, is_stored=True))
            future.add_errback(lambda error: self._fail(number, rejected, error))

    def _settle(self, number: int, *, is_stored: bool) -> bool:
        """Whether the letter was still outstanding."""
        with self._changed:
            self._stalled = self._stalled and not is_stored
            was_outstanding = self._outstanding.pop(number, None) is not None
            self._changed.notify_all()
        return was_outstanding

    def _fail(self, number: int, rejected: Rejected, error: Exception) -> None:
        """Send the letter again, unless Kafka refuses it for good; at the end it waits for the next start."""
        if self._closing.is_set():
            return
        if isinstance(error, ValueError) or getattr(error, "retriable", False):
            self._queue.put(number)
        elif self._settle(number, is_stored=False):
            self._lose(rejected, repr(error))

    def _lose(self, rejected: Rejected, why: str) -> None:
        self._metrics.lost_dead_letters.inc()
        log.error("dead letter lost", topic=self._topic, message=str(rejected.message), reason=rejected.reason, error=why)
