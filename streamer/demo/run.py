"""``oddsight-stream demo``: real footage through Kafka, the real service and Redis, on a machine that has neither.

The service is a process of its own, started as any user would start it; what is shown is read from Redis, as any subscriber
would. Only the broker, Redis and the cameras are stand-ins.
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from deploy.bundle import read_bundle
from streamer.config import Settings, settings_toml
from streamer.demo.embedded import die_with_parent, embedded_kafka, embedded_redis
from streamer.demo.report import collect_events, match_events, read_ground_truth, result_table, summary_line
from streamer.errors import StreamError
from streamer.event import Event
from streamer.ingest.run import CameraFeed, IngestPlan, ingest
from streamer.kafka.client import ensure_topics, make_producer, silence_kafka_log
from streamer.redis.client import make_redis
from streamer.redis.subscriber import ScoreEntry, Subscriber
from streamer.watch import Dashboard, live_dashboard

DEMO_DATA = Path(__file__).parent / "data"
DEMO_BUNDLE = DEMO_DATA / "bundle"
DEMO_VIDEOS = tuple(sorted((DEMO_DATA / "testing" / "videos").glob("*.mp4")))

PARTITIONS = 4

_START_TIMEOUT_S = 60.0
_SILENCE_S = 30.0
"""A slow machine takes its time, but not without a single score for so long."""
_LOOK_EVERY_S = 0.1


@dataclass(slots=True)
class DemoOutput:
    """All that a subscriber saw of the demo."""

    scores: list[ScoreEntry] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


def run_demo(console: Console) -> None:
    """Run the demo from start to end.

    Raises:
        StreamError: a part did not start or ended early; says where its log is.
    """
    silence_kafka_log()
    console.print("Starting an embedded Kafka broker, an embedded Redis and the service ...")
    with (
        embedded_kafka() as broker,
        embedded_redis() as redis_url,
        tempfile.TemporaryDirectory(prefix="oddsight-demo-") as folder,
    ):
        settings = _settings(broker, redis_url)
        ensure_topics(settings.kafka, PARTITIONS)
        with _service(settings, Path(folder)) as check_service:
            _wait_until_started(settings, check_service)
            console.print(f"Playing {len(DEMO_VIDEOS)} cameras in real time.\n")
            first_frame_ms, seen = _play_and_watch(settings, console, check_service)
    stretches = read_ground_truth(DEMO_DATA / "stretches.json")
    slack_ms = round(settings.decision.merge_gap_s * 1000)
    verdict = match_events(stretches, collect_events(seen.events), first_frame_ms, slack_ms)
    cameras = [video.stem for video in DEMO_VIDEOS]
    console.print()
    console.print(result_table(verdict, cameras, first_frame_ms))
    console.print(summary_line(verdict, seen.scores, len(cameras)))


def _settings(broker: str, redis_url: str) -> Settings:
    return Settings.model_validate(
        {
            # A short session: the embedded broker takes half of it to form a group.
            "kafka": {"bootstrap_servers": broker, "start": "earliest", "session_timeout_ms": 3_000},
            "redis": {"url": redis_url},
            "engine": {"bundle": DEMO_BUNDLE},
            "http": {"port": 0},
        }
    )


@contextmanager
def _service(settings: Settings, folder: Path) -> Iterator[Callable[[], None]]:
    """Run the service; gives a function that raises if it has ended."""
    config_path, log_path = folder / "oddsight.toml", folder / "service.log"
    config_path.write_text(settings_toml(settings))
    with log_path.open("wb") as log_file:
        service = subprocess.Popen(  # noqa: S603  our own command with our own arguments
            [sys.executable, "-m", "streamer", "run", "--config", str(config_path)],
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent(),  # noqa: PLW1509  one system call, bound before the fork
        )

    def check() -> None:
        if service.poll() is not None:
            raise StreamError(f"the service ended with exit code {service.returncode}; it said:\n{log_path.read_text()[-2000:]}")

    try:
        yield check
    finally:
        service.terminate()
        service.wait()


def _wait_until_started(settings: Settings, check_service: Callable[[], None]) -> None:
    """Until the service has stored where each partition begins."""
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    keys = [
        f"{settings.redis.prefix}:progress:{settings.kafka.consumer_group}:{settings.kafka.topic}:{n}" for n in range(PARTITIONS)
    ]
    with make_redis(settings.redis) as client:
        while client.exists(*keys) < len(keys):
            check_service()
            if time.monotonic() > deadline_s:
                raise StreamError(f"the service was not ready within {_START_TIMEOUT_S:.0f} s")
            time.sleep(_LOOK_EVERY_S)


def _play_and_watch(settings: Settings, console: Console, check_service: Callable[[], None]) -> tuple[int, DemoOutput]:
    """Feed all cameras on a thread, and show what comes out; gives the first frame's capture time and what was seen."""
    start_at_ms = round(time.time() * 1000)
    plan = IngestPlan([CameraFeed(video.stem, str(video)) for video in DEMO_VIDEOS], start_at_ms=start_at_ms)
    clip_length = read_bundle(DEMO_BUNDLE).spec.length
    stop = threading.Event()
    sent: list[int] = []
    producer = make_producer(settings.kafka)

    def feed_cameras() -> None:
        sent.append(ingest(plan, producer, settings.kafka.topic, stop).delivery.sent)

    cameras = threading.Thread(target=feed_cameras, name="cameras", daemon=True)
    cameras.start()
    try:
        return start_at_ms, _watch(settings, console, check_service, lambda: _expected_scores(sent, clip_length))
    finally:
        stop.set()
        cameras.join()
        producer.close()


def _expected_scores(sent: list[int], clip_length: int) -> int | None:
    """How many scores there must be in the end; None while the cameras still play."""
    return sent[0] - len(DEMO_VIDEOS) * (clip_length - 1) if sent else None


def _watch(
    settings: Settings, console: Console, check_service: Callable[[], None], expected_scores: Callable[[], int | None]
) -> DemoOutput:
    """Show scores and events until all of them came."""
    seen, dashboard, silent_since_s = DemoOutput(), Dashboard(), time.monotonic()
    with make_redis(settings.redis) as client, live_dashboard(console, dashboard) as show:
        feed = Subscriber(client, settings.redis, from_start=True)
        while (expected := expected_scores()) is None or len(seen.scores) < expected:
            check_service()
            if expected is not None and time.monotonic() - silent_since_s > _SILENCE_S:
                raise StreamError(f"no score came for {_SILENCE_S:g} s, {expected - len(seen.scores)} of {expected} are missing")
            news = feed.poll(_LOOK_EVERY_S)
            if news.scores:
                silent_since_s = time.monotonic()
            seen.scores += news.scores
            seen.events += news.events
            dashboard.update(news)
            show(news.events)
    return seen
