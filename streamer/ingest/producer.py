"""Frames into Kafka with a bound on what is not yet acknowledged, and a count of what became of each."""

import threading
from dataclasses import dataclass
from typing import Any

import structlog
from kafka import KafkaProducer
from kafka.errors import KafkaError

from streamer.ingest.sources import EncodedFrame

MAX_PENDING_BYTES = 64 * 1024 * 1024
"""Frames on their way to the broker; kafka-python's own buffer has no bound."""

_LOOK_FOR_STOP_S = 0.2

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DeliveryCounts:
    """What became of the frames handed over."""

    sent: int
    """Acknowledged by the broker."""
    failed: int
    """Refused by the broker, or given up."""
    dropped: int
    """Of live cameras, while too many frames were waiting for the broker."""


class FrameProducer:
    """Sends frames of many cameras from many threads through one producer."""

    def __init__(
        self, producer: KafkaProducer, topic: str, stop: threading.Event, max_pending_bytes: int = MAX_PENDING_BYTES
    ) -> None:
        self._producer = producer
        self._topic = topic
        self._stop = stop
        self._max_pending_bytes = max_pending_bytes
        self._settled = threading.Condition()
        self._pending_bytes = self._handed_over = self._sent = self._dropped = 0
        self._kinds_logged: set[str] = set()

    def send(self, camera_id: str, picture: EncodedFrame, captured_at_ms: int) -> None:
        """Send a frame; waits while too much is on its way, until the broker catches up or all is stopped."""
        with self._settled:
            while self._is_full() and not self._stop.is_set():
                self._settled.wait(_LOOK_FOR_STOP_S)
        if not self._stop.is_set():
            self._hand_over(camera_id, picture, captured_at_ms)

    def offer(self, camera_id: str, picture: EncodedFrame, captured_at_ms: int) -> None:
        """Send a frame of a camera that does not wait: while too much is on its way it is dropped, and counted."""
        with self._settled:
            full = self._is_full()
            self._dropped += full
        if not full:
            self._hand_over(camera_id, picture, captured_at_ms)

    def finish(self, timeout_s: float) -> DeliveryCounts:
        """Wait for what is on its way; what is not acknowledged by then counts as failed."""
        try:
            self._producer.flush(timeout=timeout_s)
        except KafkaError as error:
            log.warning("frames were not acknowledged in time", error=str(error))
        with self._settled:
            return DeliveryCounts(self._sent, self._handed_over - self._sent, self._dropped)

    def _is_full(self) -> bool:
        return self._pending_bytes >= self._max_pending_bytes

    def _hand_over(self, camera_id: str, picture: EncodedFrame, captured_at_ms: int) -> None:
        size_bytes = len(picture.encoded)
        with self._settled:
            self._handed_over += 1
            self._pending_bytes += size_bytes
        # The record's own time is left at now: a broker deletes by it, so recorded footage would vanish on arrival.
        headers = [
            ("captured_at_ms", b"%d" % captured_at_ms),
            ("sequence", b"%d" % picture.sequence),
            ("content_type", picture.content_type.encode()),
        ]
        try:
            future = self._producer.send(self._topic, picture.encoded, key=camera_id.encode(), headers=headers)
        except KafkaError as error:
            self._note_failure(size_bytes, camera_id, error)
            return
        future.add_callback(self._note_sent, size_bytes)
        future.add_errback(self._note_failure, size_bytes, camera_id)

    def _note_sent(self, size_bytes: int, _metadata: Any) -> None:
        with self._settled:
            self._sent += 1
            self._pending_bytes -= size_bytes
            self._settled.notify_all()

    def _note_failure(self, size_bytes: int, camera_id: str, error: Exception) -> None:
        with self._settled:
            self._pending_bytes -= size_bytes
            self._settled.notify_all()
            kind = type(error).__name__
            first = kind not in self._kinds_logged
            self._kinds_logged.add(kind)
        if first:  # the same for every frame of an outage; the count is in the result
            log.warning(
                "a frame was not delivered; further ones of this kind are only counted", camera_id=camera_id, error=str(error)
            )
