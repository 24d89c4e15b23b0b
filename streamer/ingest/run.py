"""``oddsight-stream ingest``: sends cameras, video files and folders of images to Kafka.

Recorded sources are merged frame by frame in capture order and played at their own pace; each live camera has its own thread
and is reconnected whenever it is lost.
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

from deploy.errors import ConfigError
from deploy.video import is_live, redact_password
from streamer.config import KafkaSettings
from streamer.errors import SourceUnavailable
from streamer.ingest.producer import FrameProducer, IngestResult
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
            if self.decoder == "nvdec" and (is_live(location) or Path(location).is_dir()):
                raise ConfigError(f"nvdec decodes video files, got {redact_password(location)}; leave --decoder out")
        if len({feed.camera_id for feed in self.feeds}) < len(self.feeds):
            raise ConfigError("two sources have the same camera_id, so that their frames would be mixed: give each its own")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ConfigError(f"fps must be above 0 and at most 1000, got {self.fps}")


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
    live = [feed for feed in plan.feeds if is_live(feed.location)]
    recorded = [feed for feed in plan.feeds if not is_live(feed.location)]
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
    plan: IngestPlan, feeds: Sequence[CameraFeed], sender: FrameProducer, stop: threading.Event, clock: Clock
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


def _stream_live(feed: CameraFeed, fps: float | None, sender: FrameProducer, stop: threading.Event, clock: Clock) -> int:
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
