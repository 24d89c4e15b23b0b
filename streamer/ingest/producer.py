"""Sends frames to Kafka with a limit on unacknowledged bytes, and counts what became of each frame."""

import threading
from dataclasses import dataclass
from typing import Any

import structlog
from kafka import KafkaProducer
from kafka.errors import KafkaError

from streamer.ingest.sources import EncodedFrame

MAX_PENDING_BYTES = 64 * 1024 * 1024
"""Frames not yet acknowledged by the broker; kafka-python's own buffer has no limit."""

_STOP_CHECK_S = 0.2

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What became of the frames, and how stable the live cameras were."""

    sent: int
    """Acknowledged by the broker."""
    failed: int
    """Refused by the broker, or not acknowledged in time."""
    dropped: int
    """Of live cameras, while too many bytes were unacknowledged."""
    reconnects: int = 0
    """How often live cameras were lost and connected again."""


class FrameProducer:
    """Sends frames of many cameras through one Kafka producer; may be used by many threads."""

    def __init__(
        self, producer: KafkaProducer, topic: str, stop: threading.Event, max_pending_bytes: int = MAX_PENDING_BYTES
    ) -> None:
        self._producer, self._topic, self._stop = producer, topic, stop
        self._max_pending_bytes = max_pending_bytes
        self._acknowledged = threading.Condition()
        self._pending_bytes = self._produced = self._sent = self._dropped = 0
        self._error_types_logged: set[str] = set()

    def send(self, camera_id: str, frame: EncodedFrame, captured_at_ms: int) -> None:
        """Send a frame; waits while too many bytes are unacknowledged, unless stopped."""
        with self._acknowledged:
            while self._is_full() and not self._stop.is_set():
                self._acknowledged.wait(_STOP_CHECK_S)
        if not self._stop.is_set():
            self._produce(camera_id, frame, captured_at_ms)

    def send_or_drop(self, camera_id: str, frame: EncodedFrame, captured_at_ms: int) -> None:
        """Send a frame of a live camera; it is dropped and counted while too many bytes are unacknowledged."""
        with self._acknowledged:
            full = self._is_full()
            self._dropped += full
        if not full:
            self._produce(camera_id, frame, captured_at_ms)

    def finish(self, timeout_s: float) -> IngestResult:
        """Wait for acknowledgements; frames not acknowledged by then count as failed."""
        try:
            self._producer.flush(timeout=timeout_s)
        except KafkaError as error:
            log.warning("frames were not acknowledged in time", error=str(error))
        with self._acknowledged:
            return IngestResult(self._sent, self._produced - self._sent, self._dropped)

    def _is_full(self) -> bool:
        return self._pending_bytes >= self._max_pending_bytes

    def _produce(self, camera_id: str, frame: EncodedFrame, captured_at_ms: int) -> None:
        size_bytes = len(frame.encoded)
        with self._acknowledged:
            self._produced += 1
            self._pending_bytes += size_bytes
        # The record's own timestamp stays the current time: brokers delete by it, so old footage would vanish on arrival.
        headers = [
            ("captured_at_ms", b"%d" % captured_at_ms),
            ("sequence", b"%d" % frame.sequence),
            ("content_type", frame.content_type.encode()),
        ]
        try:
            future = self._producer.send(self._topic, frame.encoded, key=camera_id.encode(), headers=headers)
        except KafkaError as error:
            self._on_failed(size_bytes, camera_id, error)
            return
        future.add_callback(self._on_sent, size_bytes)
        future.add_errback(self._on_failed, size_bytes, camera_id)

    def _on_sent(self, size_bytes: int, _metadata: Any) -> None:
        with self._acknowledged:
            self._sent += 1
            self._pending_bytes -= size_bytes
            self._acknowledged.notify_all()

    def _on_failed(self, size_bytes: int, camera_id: str, error: Exception) -> None:
        error_type = type(error).__name__
        with self._acknowledged:
            self._pending_bytes -= size_bytes
            self._acknowledged.notify_all()
            first = error_type not in self._error_types_logged
            self._error_types_logged.add(error_type)
        if first:  # an outage fails every frame in the same way; the count is in the result
            log.warning(
                "a frame was not delivered; further errors of this type are only counted", camera_id=camera_id, error=str(error)
            )
