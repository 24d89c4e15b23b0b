"""``oddsight-stream demo``: plays real footage through Kafka, the service and Redis on a machine that has neither.

The service runs as a separate process, started as any user would start it, and the results are read from Redis as by any
subscriber. Only the broker, Redis and the cameras are stand-ins.
"""

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

from rich.console import Console

from deploy.bundle import DEFAULT_BUNDLE, read_bundle
from streamer.config import Settings, settings_toml
from streamer.demo.embedded import embedded_kafka, embedded_redis, start_process
from streamer.demo.report import collect_events, match_events, read_ground_truth, result_table, summary_line
from streamer.errors import StreamError
from streamer.ingest.producer import IngestResult
from streamer.ingest.run import CameraFeed, IngestPlan, ingest
from streamer.kafka.client import ensure_topics, make_producer, silence_kafka_log
from streamer.redis.client import make_redis
from streamer.redis.progress import RedisProgressStore
from streamer.redis.subscriber import Subscriber, Updates
from streamer.types import Partition
from streamer.watch import Dashboard, live_dashboard

DEMO_DATA = Path(__file__).parent / "data"
DEMO_VIDEOS = tuple(sorted((DEMO_DATA / "testing" / "videos").glob("*.mp4")))

PARTITIONS = 4

_START_TIMEOUT_S = 60.0
_NO_SCORE_TIMEOUT_S = 30.0
"""A slow machine may take long for all scores, but not this long for a single one."""
_POLL_S = 0.1


def run_demo(console: Console) -> None:
    """Run the demo; raises StreamError if a part did not start or ended early, with what it printed."""
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
            first_frame_ms, received = _play_and_watch(settings, console, check_service)
    intervals = read_ground_truth(DEMO_DATA / "stretches.json")
    tolerance_ms = round(settings.decision.merge_gap_s * 1000)
    result = match_events(intervals, collect_events(received.events), first_frame_ms, tolerance_ms)
    cameras = [video.stem for video in DEMO_VIDEOS]
    console.print()
    console.print(result_table(result, cameras, first_frame_ms))
    console.print(summary_line(result, received.scores, len(cameras)))


def _settings(broker: str, redis_url: str) -> Settings:
    return Settings.model_validate(
        {
            # A short session: the embedded broker takes half of it to form a group.
            "kafka": {"bootstrap_servers": broker, "start": "earliest", "session_timeout_ms": 3_000},
            "redis": {"url": redis_url},
            "engine": {"bundle": DEFAULT_BUNDLE},
            "http": {"port": 0},
        }
    )


@contextmanager
def _service(settings: Settings, folder: Path) -> Iterator[Callable[[], None]]:
    """Run the service; yields a function that raises if it has ended."""
    config_path, log_path = folder / "oddsight.toml", folder / "service.log"
    config_path.write_text(settings_toml(settings))
    with log_path.open("wb") as log_file:
        service = start_process([sys.executable, "-m", "streamer", "run", "--config", str(config_path)], log_file)

    def check() -> None:
        if service.poll() is not None:
            printed = log_path.read_text()[-2000:]
            raise StreamError(f"the service ended with exit code {service.returncode}; it printed:\n{printed}")

    try:
        yield check
    finally:
        service.terminate()
        service.wait()


def _wait_until_started(settings: Settings, check_service: Callable[[], None]) -> None:
    """Wait until the service has stored the first offset of each partition."""
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    partitions = [Partition(settings.kafka.topic, number) for number in range(PARTITIONS)]
    with make_redis(settings.redis) as client:
        store = RedisProgressStore(client, settings.redis, settings.kafka.consumer_group)
        while any(store.read(partition).next_offset is None for partition in partitions):
            check_service()
            if time.monotonic() > deadline_s:
                raise StreamError(f"the service was not ready within {_START_TIMEOUT_S:.0f} s")
            time.sleep(_POLL_S)


def _play_and_watch(settings: Settings, console: Console, check_service: Callable[[], None]) -> tuple[int, Updates]:
    """Send all cameras and show the results; returns the first frame's capture time and all results."""
    start_at_ms = round(time.time() * 1000)
    plan = IngestPlan([CameraFeed(video.stem, str(video)) for video in DEMO_VIDEOS], start_at_ms=start_at_ms)
    stop = threading.Event()
    with closing(make_producer(settings.kafka)) as producer, ThreadPoolExecutor(1, thread_name_prefix="cameras") as pool:
        sending = pool.submit(ingest, plan, producer, settings.kafka.topic, stop)
        try:
            return start_at_ms, _watch(settings, console, check_service, sending)
        finally:
            stop.set()


def _watch(settings: Settings, console: Console, check_service: Callable[[], None], sending: "Future[IngestResult]") -> Updates:
    """Show scores and events until all have arrived."""
    clip_length = read_bundle(DEFAULT_BUNDLE).spec.length
    received, dashboard, last_score_s = Updates([], []), Dashboard(), time.monotonic()
    with make_redis(settings.redis) as client, live_dashboard(console, dashboard) as show:
        subscriber = Subscriber(client, settings.redis, from_start=True)
        while True:
            check_service()
            if sending.done():
                missing = sending.result().sent - len(DEMO_VIDEOS) * (clip_length - 1) - len(received.scores)
                if missing <= 0:
                    return received
                if time.monotonic() - last_score_s > _NO_SCORE_TIMEOUT_S:
                    raise StreamError(f"no score arrived for {_NO_SCORE_TIMEOUT_S:g} s, {missing} are missing")
            updates = subscriber.poll(_POLL_S)
            if updates.scores:
                last_score_s = time.monotonic()
            received.scores.extend(updates.scores)
            received.events.extend(updates.events)
            dashboard.update(updates)
            show(updates.events)
