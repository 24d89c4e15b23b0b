"""``oddsight-stream ingest``: sends cameras, video files and folders of images to Kafka.

Recorded sources are merged frame by frame in capture order and played at their own pace; each live camera has its own thread
and is reconnected whenever it is lost. Unacknowledged bytes are limited, and what became of each frame is counted.
"""

import heapq
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import structlog
from kafka import KafkaProducer
from kafka.errors import KafkaError

from deploy.errors import ConfigError
from streamer.config import KafkaSettings
from streamer.ingest.sources import FOLDER_FPS, EncodedFrame, VideoDecoder, open_source
from streamer.ingest.streams import is_stream, stream_name
from streamer.interfaces import SourceUnavailable
from streamer.kafka.client import ensure_topics, make_producer, silence_kafka_log
from streamer.types import CAMERA_ID_RULE, is_camera_id

MAX_PENDING_BYTES = 64 * 1024 * 1024
"""Frames not yet acknowledged by the broker; kafka-python's own buffer has no limit."""

_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 30.0
_FLUSH_TIMEOUT_S = 10.0
_STOP_CHECK_S = 0.2

Clock = Callable[[], float]
"""Seconds since the Unix epoch."""

log = structlog.get_logger(__name__)


class CameraFeed(NamedTuple):
    """A camera and where its frames come from: a folder, a video file or the URL of a stream."""

    camera_id: str
    location: str


@dataclass(frozen=True, slots=True)
class IngestPlan:
    """What to send, and how fast."""

    feeds: Sequence[CameraFeed]
    fps: float | None = None
    """As in :func:`streamer.ingest.sources.open_source`."""
    start_at_ms: int | None = None
    """Capture time of the first recorded frame, Unix epoch; by default now."""
    realtime: bool = True
    """Whether to play recorded footage at the pace it was recorded at, rather than as fast as possible."""
    loop: bool = False
    """Whether to restart recorded footage at its end; capture times go on."""
    decoder: VideoDecoder = "cpu"
    """``nvdec`` decodes video files only."""

    def __post_init__(self) -> None:
        for camera_id, location in self.feeds:
            if not is_camera_id(camera_id):
                raise ConfigError(f"a camera_id is {CAMERA_ID_RULE}, got {camera_id[:200]!r}")
            name = stream_name(location) if is_stream(location) else location
            if self.decoder == "nvdec" and (is_stream(location) or Path(location).is_dir()):
                raise ConfigError(f"nvdec decodes video files, got {name}; leave --decoder out")
        if len({feed.camera_id for feed in self.feeds}) < len(self.feeds):
            raise ConfigError("two sources have the same camera_id, so that their frames would be mixed: give each its own")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ConfigError(f"fps must be above 0 and at most 1000, got {self.fps}")


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


def run_ingest(settings: KafkaSettings, plan: IngestPlan, stop: threading.Event) -> str:
    """Connect to Kafka and send until the sources end or ``stop`` is set; returns a summary line.

    BrokerUnavailable and SourceUnavailable say what to check.
    """
    silence_kafka_log()
    ensure_topics(settings)
    with closing(make_producer(settings)) as producer:
        result = ingest(plan, producer, settings.topic, stop)
    return f"{result.sent} frames sent, {result.failed} failed, {result.dropped} dropped, {result.reconnects} reconnects"


def ingest(plan: IngestPlan, producer: Any, topic: str, stop: threading.Event, clock: Clock = time.time) -> IngestResult:
    """Send the frames of all cameras; returns when recorded sources have ended and, if there are live ones, ``stop`` is set.

    The producer, from :func:`streamer.kafka.client.make_producer`, is flushed, not closed. If this function fails, it sets
    ``stop`` to end all cameras.

    Raises:
        SourceUnavailable, DecoderUnavailable: recorded footage cannot be read. Frames sent before are flushed.
    """
    sender = FrameProducer(producer, topic, stop)
    live = [feed for feed in plan.feeds if is_stream(feed.location)]
    recorded = [feed for feed in plan.feeds if not is_stream(feed.location)]
    with ThreadPoolExecutor(max_workers=max(1, len(live)), thread_name_prefix="camera") as pool:
        live_cameras = [pool.submit(_stream_live, feed, plan.fps, sender, stop, clock) for feed in live]
        try:
            _play_recorded(plan, recorded, sender, stop, clock)
            ended, _ = wait(live_cameras, return_when=FIRST_EXCEPTION)
            reconnects = sum(future.result() for future in ended)
        except BaseException:
            stop.set()  # no thread may go on alone
            raise
        finally:
            result = sender.finish(_FLUSH_TIMEOUT_S)
    return replace(result, reconnects=reconnects)


def _play_recorded(
    plan: IngestPlan, feeds: Sequence[CameraFeed], sender: "FrameProducer", stop: threading.Event, clock: Clock
) -> None:
    begun_s = clock()
    start_at_ms = round(begun_s * 1000) if plan.start_at_ms is None else plan.start_at_ms
    for offset_ms, camera_id, frame in heapq.merge(*(_timeline(feed, plan) for feed in feeds), key=itemgetter(0)):
        wait_s = begun_s + offset_ms / 1000 - clock()
        if plan.realtime and wait_s > 0:
            stop.wait(wait_s)
        if stop.is_set():
            return
        sender.send(camera_id, frame, start_at_ms + round(offset_ms))


def _timeline(feed: CameraFeed, plan: IngestPlan) -> Iterator[tuple[float, str, EncodedFrame]]:
    """Offset in ms, camera and frame; for ever if the plan loops, with offsets and sequence numbers going on."""
    begins_ms, sequence = 0.0, 0
    while True:
        last_ms, count = 0, 0
        for frame in open_source(feed.location, plan.fps, decoder=plan.decoder):
            yield begins_ms + frame.offset_ms, feed.camera_id, replace(frame, sequence=sequence)
            last_ms, count, sequence = frame.offset_ms, count + 1, sequence + 1
        if not plan.loop:
            return
        begins_ms += last_ms + (last_ms / (count - 1) if count > 1 else 1000 / FOLDER_FPS)


def _stream_live(feed: CameraFeed, fps: float | None, sender: "FrameProducer", stop: threading.Event, clock: Clock) -> int:
    """Send a live camera's frames until stopped, reconnecting whenever it is lost; returns how often it was lost."""
    sequence = reconnects = attempt = 0
    while not stop.is_set():
        try:
            for frame in open_source(feed.location, fps):
                if stop.is_set():
                    return reconnects
                sender.send_or_drop(feed.camera_id, replace(frame, sequence=sequence), round(clock() * 1000))
                sequence, attempt = sequence + 1, 0
        except SourceUnavailable as error:
            wait_s = retry_wait_s(attempt, random.random())  # noqa: S311  jitter is no secret
            log.warning("camera lost, reconnecting", camera_id=feed.camera_id, reason=str(error), wait_s=round(wait_s, 1))
            reconnects, attempt = reconnects + 1, attempt + 1
            stop.wait(wait_s)
    return reconnects


def retry_wait_s(attempt: int, jitter: float) -> float:
    """Seconds before the next attempt: 1 s, doubled up to 30 s, of which ``jitter`` (0 to 1) takes off up to half.

    The jitter keeps many cameras that were lost together from reconnecting at the same moment.
    """
    return min(_LAST_RETRY_S, _FIRST_RETRY_S * 2.0 ** min(attempt, 16)) * (1 - jitter / 2)


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
