"""What operators see of the running service: Prometheus metrics, health, and logs."""

import errno
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import product
from typing import TextIO, get_args

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from streamer.types import Event, ShedReason

log = structlog.get_logger("oddsight.pipeline")

_STUCK_AFTER_S = 30.0

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_AGES_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
_CLIPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

_LOG_TIMEOUT_MS = 100

_dropped_log_lines = Counter("dropped_log_lines", "Log lines that stderr did not take", namespace="oddsight", registry=None)


class Metrics:
    """All metrics, in a registry of their own, so that tests and the demo can run several services in one process.

    Only what operators need for each camera is labelled with ``camera_id``, to limit the number of time series.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, namespace="oddsight", registry=self.registry)
        gauge = partial(Gauge, namespace="oddsight", registry=self.registry)
        histogram = partial(Histogram, namespace="oddsight", registry=self.registry, buckets=_SECONDS)
        self.frames = counter("frames", "Frames decoded, without those replayed after a start", ["camera_id"])
        self.decoded = counter("decoded_frames", "Frames decoded, with those replayed after a start", ["decoder"])
        self.rejected = counter("rejected_messages", "Unusable messages sent to the dead-letter topic", ["reason"])
        text = "Dead letters that could not be stored in time; the log names the messages"
        self.lost_dead_letters = counter("lost_dead_letters", text)
        text = "Frames that were not looked at: more than the camera's quota (over_rate), or waited too long in Kafka (late)"
        self.shed = counter("shed_frames", text, ["camera_id", "reason"])
        self.replayed = counter("replayed_frames", "Frames read again after a start, to rebuild clips and model states")
        self.damaged = counter("damaged_states", "What was stored of cameras and could not be read, so that they start afresh")
        self.lost = counter("lost_messages", "Messages that Kafka deleted before they were read")
        text = "Partitions whose topic was deleted and created again, read from their beginning"
        self.recreated = counter("recreated_partitions", text)
        self.scored = counter("scored_clips", "Clips scored")
        self.gpu_cache_misses = counter("gpu_cache_miss_clips", "Clips uploaded in full (GPU cache exhausted)")
        self.unscored = counter("unscored_frames", "Frames without a score, because their clip was not complete yet")
        text = "Profiles that could not be used, so that the default serves their cameras"
        self.rejected_profiles = counter("rejected_profiles", text)
        self.learning_cameras = gauge("learning_cameras", "Cameras whose profile is being learned")
        self.learned_profiles = counter("learned_profiles", "Profiles learned while watching a camera")
        self.adaptations = counter("adaptations", "Adaptations of the network to a camera that was learned", ["outcome"])
        text = "Frames per second of a camera, relative to the footage that its profile was learned from"
        self.rate_ratio = gauge("rate_ratio", text, ["camera_id"])
        text = "Median score of ten minutes against that of the profile's footage, as a share of the way to the threshold"
        self.score_drift = gauge("score_drift", text, ["camera_id"])
        self.camera_profiles = gauge("camera_profiles", "Cameras served with a profile of their own")
        text = "Capture times that were not taken as the camera sent them: seconds, behind or ahead"
        self.clock_faults = counter("clock_faults", text, ["reason"])
        self.events = counter("events", "Event entries written to Redis", ["kind"])
        self.health_changes = counter("health_changes", "Entries of the stream of health", ["problem", "kind"])
        self.redis_commits = counter("redis_commits", "Atomic writes of progress and effects, applied or fenced", ["outcome"])
        self.batch_clips = histogram("micro_batch_clips", "Clips in a micro-batch", buckets=_CLIPS)
        self.batch_wait_s = histogram("micro_batch_wait_seconds", "Time the oldest clip of a micro-batch waited")
        self.decode_s = histogram("decode_seconds", "Time to decode the messages of one poll")
        self.score_s = histogram("score_seconds", "Time to score one micro-batch")
        self.publish_s = histogram("publish_seconds", "Time of one atomic write to Redis")
        text = "Time from the capture of a frame until its score was stored"
        self.frame_age_s = histogram("frame_age_seconds", text, buckets=_AGES_S)
        self.score = gauge("score", "Newest score", ["camera_id"])
        self.lag = gauge("lag_messages", "Messages in Kafka that are not processed yet", ["partition"])
        self.open_events = gauge("open_events", "Events that have started and not ended")
        self.cameras = gauge("cameras", "Cameras that this consumer has taken on, silent ones among them")
        self.partitions = gauge("partitions", "Partitions this consumer works on")
        text = "Recoveries of the engine: rebuild or fallback if it was unavailable at start, reload if it failed later"
        self.engine_recoveries = counter("engine_recoveries", text, ["action"])
        self.dropped_log_lines = _dropped_log_lines  # of the process: logs begin before any service does
        self.registry.register(self.dropped_log_lines)
        self.engine = Info("engine", "Engine and model in use", namespace="oddsight", registry=self.registry)
        self.decoder = Info("decoder", "Image decoder in use", namespace="oddsight", registry=self.registry)

    def count_events(self, events: Sequence[Event]) -> None:
        """Count entries of events that were written, and log them."""
        for event in events:
            self.events.labels(event.kind).inc()
            peak_score = round(event.peak_score, 4)
            log.info("event", kind=event.kind, camera_id=event.camera_id, event_id=event.event_id, peak_score=peak_score)

    def forget(self, camera_ids: Collection[str]) -> None:
        """Drop the time series of cameras; a counter of one that comes back starts at zero."""
        for metric in (self.frames, self.rate_ratio, self.score_drift, self.score):
            for camera_id in camera_ids:
                metric.remove(camera_id)
        for camera_id, reason in product(camera_ids, get_args(ShedReason)):
            self.shed.remove(camera_id, reason)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class SideMetrics:
    """The metrics of a process beside the service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.dropped_log_lines = _dropped_log_lines
        self.registry.register(self.dropped_log_lines)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class NotifyMetrics(SideMetrics):
    """The metrics of ``oddsight-stream notify``."""

    def __init__(self) -> None:
        super().__init__()
        counter = partial(Counter, namespace="oddsight", registry=self.registry)
        gauge = partial(Gauge, namespace="oddsight", registry=self.registry)
        text = "Messages that a receiver was told, that it refused, or that were given up"
        self.notifications = counter("notifications", text, ["receiver", "outcome"])
        self.failures = counter("notify_failures", "Attempts that failed, and were or will be repeated", ["receiver"])
        self.waiting = gauge("notify_waiting", "Entries that wait to be told to a receiver", ["receiver"])
        text = "How long ago the oldest message that waits for a receiver should have been told"
        self.delay_s = gauge("notify_delay_seconds", text, ["receiver"])
        text = "Entries of the stream of events that were not read for a receiver yet"
        self.unread = gauge("notify_unread_entries", text, ["receiver"])


class EvidenceMetrics(SideMetrics):
    """The metrics of ``oddsight-stream evidence``."""

    def __init__(self) -> None:
        super().__init__()
        counter = partial(Counter, namespace="oddsight", registry=self.registry)
        gauge = partial(Gauge, namespace="oddsight", registry=self.registry)
        self.files = counter("evidence_files", "Files of events that were stored", ["file"])
        self.bytes = counter("evidence_bytes", "Size of the files that were stored")
        self.failures = counter("evidence_failures", "Attempts to store evidence that failed, and were or will be repeated")
        text = "Events whose evidence is missing or has no clip: given up after an outage, or too_many at once"
        self.lost = counter("evidence_lost_events", text, ["reason"])
        self.deleted = counter("evidence_deleted_events", "Events whose evidence was deleted by age or size")
        self.deleted_bytes = counter("evidence_deleted_bytes", "Size of what was deleted by age or size")
        self.stored_bytes = gauge("evidence_stored_bytes", "Size of all evidence, counted every ten minutes")
        self.waiting = gauge("evidence_unfinished_events", "Events whose evidence is not complete yet, open ones among them")
        self.delay_s = gauge("evidence_delay_seconds", "How long ago the oldest picture or clip should have been stored")
        self.unread = gauge("evidence_unread_entries", "Entries of the stream of events that were not read yet")

    def count_file(self, name: str, size_bytes: int) -> None:
        """Count a file that was stored."""
        self.files.labels(name).inc()
        self.bytes.inc(size_bytes)

    def count_deleted(self, size_bytes: int) -> None:
        """Count an event whose evidence was deleted."""
        self.deleted.inc()
        self.deleted_bytes.inc(size_bytes)


class Health:
    """Whether the service is live (its loop turns) and ready (the cameras of all assigned partitions are watched).

    Written by the pipeline, read by the HTTP server's threads; single assignments need no lock.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._beat_s = clock_s()
        self.problem: str | None = "has not joined its consumer group yet"
        """Why the cameras of some assigned partitions are not watched at the moment; None if all are."""

    def beat(self) -> None:
        """Note that the loop has turned."""
        self._beat_s = self._clock_s()

    def live(self) -> str | None:
        """None if the service is live, else what is wrong."""
        stuck_s = self._clock_s() - self._beat_s
        return None if stuck_s < _STUCK_AFTER_S else f"the loop has not turned for {stuck_s:.0f} s"

    def ready(self) -> str | None:
        """None if the service is live and ready, else what is wrong."""
        return self.live() or self.problem


class LineLogger:
    """Writes log lines to a file descriptor, and goes on if that is full, closed or stuck: such lines are counted.

    It writes past Python's buffers, which would keep what could not be written and fail again at exit.
    """

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def msg(self, line: str) -> None:
        """Write one line."""
        try:
            with self._lock:
                self._write(f"{line}\n".encode(errors="replace"))
        except OSError:
            _dropped_log_lines.inc()

    debug = info = warning = error = critical = exception = msg

    def _write(self, content: bytes) -> None:
        if self._descriptor is None:
            raise OSError(errno.EBADF, "there is no stderr")
        writable = select.poll()
        writable.register(self._descriptor, select.POLLOUT)
        while content:
            if not writable.poll(_LOG_TIMEOUT_MS):
                raise TimeoutError("the reader of the log does not read")
            content = content[os.write(self._descriptor, content[: select.PIPE_BUF]) :]


def configure_logs(level: int = logging.INFO) -> None:
    """Set up structlog on stderr: readable lines on a terminal, else one JSON object a line. A log never ends the program."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    logger = LineLogger(_descriptor(sys.stderr))
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        logger_factory=lambda *_: logger,
        cache_logger_on_first_use=False,  # the few lines are cheap, and tests set it up more than once
    )


def _descriptor(file: TextIO | None) -> int | None:
    try:
        return None if file is None else file.fileno()
    except OSError:  # replaced by an object in memory
        return None
