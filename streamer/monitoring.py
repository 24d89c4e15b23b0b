"""/metrics, /livez and /readyz over HTTP, on a thread of their own.

Logs: one line an entry on stderr; for people on a terminal, JSON elsewhere.

Whether the service is alive (its loop turns) and ready (it works on its partitions).

What the service counts and measures, for Prometheus. One registry a service, so that tests and the demo can have several.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from deploy.errors import ConfigError
from streamer.config import HttpSettings


def configure_logs(level: int = logging.INFO) -> None:
    """Set structlog up for entries from ``level`` on. Called once, by the command line."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


_STUCK_AFTER_S = 30.0


class Health:
    """Written by the pipeline, read by the HTTP server's threads."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._beat_s = clock_s()
        self._problem: str | None = "has not joined its consumer group yet"

    def beat(self) -> None:
        """The loop turned."""
        with self._lock:
            self._beat_s = self._clock_s()

    def working(self) -> None:
        """All partitions are in work."""
        with self._lock:
            self._problem = None

    def waiting(self, problem: str) -> None:
        """Not all partitions are in work, and why."""
        with self._lock:
            self._problem = problem

    def live(self) -> str | None:
        """None while the loop turns, else what is wrong."""
        with self._lock:
            stuck_s = self._clock_s() - self._beat_s
        return None if stuck_s < _STUCK_AFTER_S else f"the loop has not turned for {stuck_s:.0f} s"

    def ready(self) -> str | None:
        """None while the service works on its partitions, else what it waits for."""
        with self._lock:
            problem = self._problem
        return self.live() or problem


_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_AGES_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
_CLIPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """All metrics. ``camera_id`` labels only what an operator asks of one camera; the rest is of the service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.frames = self._counter("frames", "Frames decoded", "camera_id")
        self.decoded = self._counter("decoded_frames", "Frames decoded, those read again included", "decoder")
        self.rejected = self._counter("rejected_messages", "Messages sent to the dead-letter topic", "reason")
        self.replayed = self._counter("replayed_frames", "Frames read again after a start to rebuild clips and states")
        self.lost = self._counter("lost_messages", "Messages that Kafka had deleted before they were read")
        self.scored = self._counter("scored_clips", "Clips scored")
        self.gpu_cache_misses = self._counter(
            "gpu_cache_miss_clips", "Clips that went up to the device whole, for more cameras than stay on it"
        )
        self.unscored = self._counter("unscored_frames", "Frames that completed no clip")
        self.events = self._counter("events", "Event entries written", "kind")
        self.redis_commits = self._counter("redis_commits", "Atomic steps in Redis", "outcome")
        self.batch_clips = self._histogram("micro_batch_clips", "Clips in a micro-batch", _CLIPS)
        self.batch_wait_s = self._histogram(
            "micro_batch_wait_seconds", "Time the oldest clip waited for its micro-batch", _SECONDS
        )
        self.decode_s = self._histogram("decode_seconds", "Time to decode the messages of one poll", _SECONDS)
        self.score_s = self._histogram("score_seconds", "Time to score one micro-batch", _SECONDS)
        self.publish_s = self._histogram("publish_seconds", "Time of one atomic step", _SECONDS)
        self.frame_age_s = self._histogram(
            "frame_age_seconds", "Age of a frame, by its capture time, when its score was stored", _AGES_S
        )
        self.score = self._gauge("score", "Newest score", "camera_id")
        self.lag = self._gauge("lag_messages", "Messages behind the newest one", "partition")
        self.open_events = self._gauge("open_events", "Announced events that have not ended")
        self.partitions = self._gauge("partitions", "Partitions this consumer works on")
        self.engine_recoveries = self._counter(
            "engine_recoveries", "Starts whose engine was not ready, by what was done", "action"
        )
        self.engine = Info("oddsight_engine", "The engine and model in use", registry=self.registry)
        self.decoder = Info("oddsight_decoder", "The decoder in use", registry=self.registry)

    def exposition(self) -> bytes:
        """The text that /metrics answers."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"oddsight_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"oddsight_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"oddsight_{name}", text, buckets=buckets, registry=self.registry)


_STOP_WITHIN_S = 0.05


@contextmanager
def serve_http(settings: HttpSettings, metrics: Metrics, health: Health) -> Iterator[int]:
    """Serve until the block ends; gives the port.

    Raises:
        ConfigError: the port is taken or the host is none of this machine's.
    """
    try:
        server = ThreadingHTTPServer((settings.host, settings.port), _handler(metrics, health))
    except OSError as error:
        raise ConfigError(f"http: cannot listen on {settings.host}:{settings.port}: {error.strerror}; set http.port") from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(_STOP_WITHIN_S,), name="http", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(metrics: Metrics, health: Health) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, "text/plain; version=0.0.4; charset=utf-8", metrics.exposition())
            elif self.path == "/livez":
                self._answer_health(health.live())
            elif self.path == "/readyz":
                self._answer_health(health.ready())
            else:
                self._answer(404, "text/plain; charset=utf-8", b"try /metrics, /livez or /readyz\n")

        def _answer_health(self, problem: str | None) -> None:
            self._answer(200 if problem is None else 503, "text/plain; charset=utf-8", f"{problem or 'ok'}\n".encode())

        def _answer(self, status: int, content_type: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Probes every few seconds are no news."""

    return Handler
