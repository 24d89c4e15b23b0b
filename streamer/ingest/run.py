"""``oddsight-stream ingest``: connect, send one plan's frames, say what became of them.

Cameras, files and folders into Kafka. Recorded footage plays at its own pace; a live camera is held on to, whatever happens.

All recorded sources of one plan are interleaved frame by frame in capture order; each live one has a thread of its own.
"""

import heapq
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from deploy.errors import ConfigError
from deploy.video import is_live, redact_password
from streamer.config import KafkaSettings
from streamer.errors import SourceUnavailable
from streamer.ingest.producer import DeliveryCounts, FrameProducer
from streamer.ingest.sources import FOLDER_FPS, EncodedFrame, VideoDecoder, open_source
from streamer.kafka.client import ensure_topics, make_producer, silence_kafka_log
from streamer.types import CAMERA_ID_RULE, is_camera_id

_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 30.0
_FLUSH_TIMEOUT_S = 10.0

Clock = Callable[[], float]
"""Seconds since the Unix epoch."""

log = structlog.get_logger(__name__)


class CameraFeed(NamedTuple):
    """A camera and where its pictures come from: a folder, a video file or a stream's URL."""

    camera_id: str
    location: str


@dataclass(frozen=True, slots=True)
class IngestPlan:
    """What to send, and how fast."""

    feeds: Sequence[CameraFeed]
    fps: float | None = None
    """As in :func:`streamer.ingest.sources.open_source`."""
    start_at_ms: int | None = None
    """Capture time of the first recorded picture, Unix epoch; now by default."""
    realtime: bool = True
    """Whether recorded footage is played at the pace it was taken at, rather than as fast as possible."""
    loop: bool = False
    """Whether recorded footage begins again at its end; its time goes on."""
    decoder: VideoDecoder = "cpu"
    """``nvdec`` is for video files alone."""

    def __post_init__(self) -> None:
        for feed in self.feeds:
            _check_camera_id(feed.camera_id)
        if len({feed.camera_id for feed in self.feeds}) < len(self.feeds):
            raise ConfigError("two sources have the same camera_id; frames of two cameras would be mixed: give each its own")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ConfigError(f"fps must be above 0 and at most 1000, got {self.fps}")
        for feed in self.feeds:
            if self.decoder == "nvdec" and (is_live(feed.location) or Path(feed.location).is_dir()):
                raise ConfigError(f"nvdec decodes video files, got {redact_password(feed.location)}; leave --decoder out")


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What became of the frames, and how often a live camera had to be connected to again."""

    delivery: DeliveryCounts
    reconnects: int


def ingest(plan: IngestPlan, producer: Any, topic: str, stop: threading.Event, clock: Clock = time.time) -> IngestResult:
    """Send the frames of all cameras; returns when the recorded ones are at their end, the live ones when ``stop`` is set.

    Args:
        plan: The cameras, and how fast.
        producer: From :func:`streamer.kafka.client.make_producer`; it is flushed, not closed.
        topic: Where frames go; the key is the camera_id.
        stop: Set it to end early. It is also set here when this function fails, to end all cameras together.
        clock: Seconds since the epoch.

    Raises:
        SourceUnavailable, DecoderUnavailable: recorded footage cannot be read. What was read before it is flushed.
    """
    sender = FrameProducer(producer, topic, stop)
    live = [feed for feed in plan.feeds if is_live(feed.location)]
    recorded = [feed for feed in plan.feeds if not is_live(feed.location)]
    with ThreadPoolExecutor(max_workers=max(1, len(live)), thread_name_prefix="camera") as pool:
        holding = [pool.submit(_stream_live, feed, plan.fps, sender, stop, clock) for feed in live]
        try:
            _play(plan, recorded, sender, stop, clock)
            reconnects = _sum_of(holding)
        except BaseException:
            stop.set()  # no thread may go on alone
            raise
        finally:
            delivery = sender.finish(_FLUSH_TIMEOUT_S)
    return IngestResult(delivery, reconnects)


def retry_wait_s(attempt: int, jitter: float) -> float:
    """Seconds before the next attempt: from 1 s doubling to 30 s, of which ``jitter`` (0 to 1) takes off up to half.

    Many cameras that were lost together must not come back in step.
    """
    return min(_LAST_RETRY_S, _FIRST_RETRY_S * 2.0 ** min(attempt, 16)) * (1 - jitter / 2)


class _Due(NamedTuple):
    offset_ms: float
    camera_id: str
    picture: EncodedFrame


def _play(plan: IngestPlan, feeds: Sequence[CameraFeed], sender: FrameProducer, stop: threading.Event, clock: Clock) -> None:
    begun_s = clock()
    start_at_ms = round(begun_s * 1000) if plan.start_at_ms is None else plan.start_at_ms
    timelines = [_timeline(feed, plan) for feed in feeds]
    for due in heapq.merge(*timelines, key=lambda due: due.offset_ms):
        if plan.realtime:
            _wait_until(begun_s + due.offset_ms / 1000, stop, clock)
        if stop.is_set():
            return
        sender.send(due.camera_id, due.picture, start_at_ms + round(due.offset_ms))


def _timeline(feed: CameraFeed, plan: IngestPlan) -> Iterator[_Due]:
    """The pictures of one recorded source, again and again if the plan loops, with time and sequence going on."""
    begins_ms, sequence = 0.0, 0
    while True:
        last_ms, count = 0, 0
        for picture in open_source(feed.location, plan.fps, decoder=plan.decoder):
            yield _Due(begins_ms + picture.offset_ms, feed.camera_id, replace(picture, sequence=sequence))
            last_ms, count, sequence = picture.offset_ms, count + 1, sequence + 1
        if not plan.loop:
            return
        begins_ms += last_ms + (last_ms / (count - 1) if count > 1 else 1000 / FOLDER_FPS)


def _stream_live(feed: CameraFeed, fps: float | None, sender: FrameProducer, stop: threading.Event, clock: Clock) -> int:
    """Send a live camera's pictures until stopped; gives how often it was lost."""
    sequence = reconnects = attempt = 0
    while not stop.is_set():
        try:
            for picture in open_source(feed.location, fps):
                if stop.is_set():
                    return reconnects
                sender.offer(feed.camera_id, replace(picture, sequence=sequence), round(clock() * 1000))
                sequence, attempt = sequence + 1, 0
        except SourceUnavailable as error:
            wait_s = retry_wait_s(attempt, random.random())  # noqa: S311  jitter is no secret
            log.warning("camera lost, reconnecting", camera_id=feed.camera_id, reason=str(error), wait_s=round(wait_s, 1))
            reconnects, attempt = reconnects + 1, attempt + 1
            stop.wait(wait_s)
    return reconnects


def _wait_until(when_s: float, stop: threading.Event, clock: Clock) -> None:
    remaining_s = when_s - clock()
    if remaining_s > 0:
        stop.wait(remaining_s)


def _sum_of(holding: Sequence["Future[int]"]) -> int:
    """Wait for all, or for the first that fails."""
    done, _ = wait(holding, return_when=FIRST_EXCEPTION)
    return sum(future.result() for future in done)


def _check_camera_id(camera_id: str) -> None:
    if not is_camera_id(camera_id):
        raise ConfigError(f"a camera_id is {CAMERA_ID_RULE}, got {camera_id[:200]!r}")


def run_ingest(settings: KafkaSettings, plan: IngestPlan, stop: threading.Event) -> str:
    """Send until the sources end or ``stop`` is set; gives the closing line.

    Raises:
        BrokerUnavailable, SourceUnavailable: says what to check.
    """
    silence_kafka_log()
    ensure_topics(settings)
    producer = make_producer(settings)
    try:
        result = ingest(plan, producer, settings.topic, stop)
    finally:
        producer.close()
    delivery = result.delivery
    return f"{delivery.sent} frames sent, {delivery.failed} failed, {delivery.dropped} dropped, {result.reconnects} reconnects"
