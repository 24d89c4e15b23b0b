"""``oddsight-stream demo``: plays footage of four places through Kafka, the service and Redis on a machine that has neither.

Three cameras have profiles; the fourth is one that the service has never seen, and is learned while it plays.
Service, evidence and dashboard run as processes of their own, started as any user would start them, and the results are read
from Redis as by any subscriber. Only the broker, Redis and the cameras are stand-ins.
"""

import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from rich.console import Console

from deploy.bundle import DEFAULT_BUNDLE, read_bundle
from deploy.profile import read_profile
from streamer.config import DashboardSettings, Settings
from streamer.demo.embedded import embedded_kafka, embedded_redis, start_process
from streamer.demo.result import (
    collect_events,
    fault_cells,
    learning_line,
    limit_lines,
    match_events,
    read_ground_truth,
    result_table,
    summary_line,
)
from streamer.ingest.run import CameraFeed, IngestPlan, IngestResult, ingest
from streamer.interfaces import StreamError
from streamer.kafka.client import ensure_topics, make_producer, silence_kafka_log
from streamer.redis.client import RedisProgressStore, make_redis
from streamer.redis.profiles import RedisProfileStore
from streamer.redis.subscriber import Subscriber, Updates
from streamer.settings_file import settings_toml
from streamer.types import Partition
from streamer.watch import Dashboard, live_dashboard

DEMO_DATA = Path(__file__).parent / "data"
DEMO_VIDEOS = tuple(sorted((DEMO_DATA / "videos").glob("*.mp4")))
DEMO_PROFILES = tuple(sorted((DEMO_DATA / "profiles").glob("*.safetensors")))
"""Of the known cameras."""

PARTITIONS = 4

_START_TIMEOUT_S = 60.0
_NO_SCORE_TIMEOUT_S = 30.0
"""A slow machine may take long for all scores, but not this long for a single one."""
_POLL_S = 0.1
_TOLERANCE_MS = 1_000
"""An event that begins this much after an anomaly was last in sight is still of it."""
_LEARNING_MINUTES = 0.24
"""For real cameras a quarter of an hour is the default."""


def run_demo(console: Console, *, keep: bool = False) -> None:
    """Run the demo; raises StreamError if a part did not start or ended early, with what it printed.

    With ``keep`` the cameras then go on from their beginning, until Ctrl-C.
    """
    silence_kafka_log()
    console.print("Starting an embedded Kafka broker, an embedded Redis, the service and its dashboard ...")
    with (
        embedded_kafka() as broker,
        embedded_redis() as redis_url,
        tempfile.TemporaryDirectory(prefix="oddsight-demo-") as folder,
    ):
        settings = _settings(broker, redis_url, Path(folder))
        ensure_topics(settings.kafka, PARTITIONS)
        _import_profiles(settings)
        with _processes(settings, Path(folder)) as check_processes:
            _wait_until_started(settings, check_processes)
            unknown = len(DEMO_VIDEOS) - len(DEMO_PROFILES)
            console.print(f"Playing {len(DEMO_VIDEOS)} cameras in real time for 60 s, {unknown} of them unknown.")
            console.print(f"Look at them in a browser: http://{settings.dashboard.host}:{settings.dashboard.port}/\n")
            first_frame_ms, received = _play_and_watch(settings, console, check_processes)
            _print_result(console, first_frame_ms, received)
            if keep:
                _keep_playing(settings, console, check_processes)


def _print_result(console: Console, first_frame_ms: int, received: Updates) -> None:
    truth = read_ground_truth(DEMO_DATA / "stretches.json")
    result = match_events(truth.stretches, collect_events(received.events), first_frame_ms, _TOLERANCE_MS)
    cameras = [video.stem for video in DEMO_VIDEOS]
    console.print()
    table = result_table(result, cameras, first_frame_ms)
    for fault in truth.health:
        table.add_row(*fault_cells(fault, received.health, first_frame_ms))
    console.print(table)
    for camera_id in sorted(set(cameras) - {profile.stem for profile in DEMO_PROFILES}):
        console.print(learning_line(camera_id, received.scores, first_frame_ms))
    for line in limit_lines(result):
        console.print(line)
    console.print(summary_line(result, received.scores, len(cameras)))


def _settings(broker: str, redis_url: str, folder: Path) -> Settings:
    return Settings.model_validate(
        {
            # A short session: the embedded broker takes half of it to form a group.
            "kafka": {"bootstrap_servers": broker, "start": "earliest", "session_timeout_ms": 3_000},
            "redis": {"url": redis_url},
            "engine": {"bundle": DEFAULT_BUNDLE},
            "learning": {"enabled": True, "min_minutes": _LEARNING_MINUTES},
            "evidence": {"dir": folder / "evidence", "picture_every_s": 1, "post_roll_s": 2, "max_clip_s": 20},
            "dashboard": {"port": _dashboard_port()},
            "http": {"port": 0},
        }
    )


def _dashboard_port() -> int:
    """The usual one, so that its address stays the same from run to run; another one if that is taken."""
    for port in (DashboardSettings().port, 0):
        with suppress(OSError), socket.create_server((DashboardSettings().host, port)) as listener:
            return int(listener.getsockname()[1])
    raise StreamError("no port is free for the dashboard")


def _import_profiles(settings: Settings) -> None:
    with make_redis(settings.redis) as client:
        for path in DEMO_PROFILES:
            RedisProfileStore(client, settings.redis).put(read_profile(path))


@contextmanager
def _processes(settings: Settings, folder: Path) -> Iterator[Callable[[], None]]:
    """Run the service, the evidence and the dashboard; yields a function that raises if one of them has ended."""
    config_path = folder / "oddsight.toml"
    config_path.write_text(settings_toml(settings))
    with ExitStack() as stack:
        started = {}
        for name in ("run", "evidence", "dashboard"):
            log_file = stack.enter_context((folder / f"{name}.log").open("wb"))
            command = [sys.executable, "-m", "streamer.cli", name, "--config", str(config_path)]
            started[name] = start_process(command, log_file)
            stack.callback(started[name].wait)
            stack.callback(started[name].terminate)

        def check() -> None:
            for name, process in started.items():
                if process.poll() is not None:
                    printed = (folder / f"{name}.log").read_text()[-2000:]
                    raise StreamError(f"oddsight-stream {name} ended with exit code {process.returncode}; it printed:\n{printed}")

        yield check


def _wait_until_started(settings: Settings, check_processes: Callable[[], None]) -> None:
    """Wait until the service has stored the first offset of each partition."""
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    partitions = [Partition(settings.kafka.topic, number) for number in range(PARTITIONS)]
    with make_redis(settings.redis) as client:
        store = RedisProgressStore(client, settings.redis, settings.kafka.consumer_group)
        while any(store.read(partition).next_offset is None for partition in partitions):
            check_processes()
            if time.monotonic() > deadline_s:
                raise StreamError(f"the service was not ready within {_START_TIMEOUT_S:.0f} s")
            time.sleep(_POLL_S)


def _play_and_watch(settings: Settings, console: Console, check_processes: Callable[[], None]) -> tuple[int, Updates]:
    """Send all cameras and show the results; returns the first frame's capture time and all results."""
    start_at_ms = round(time.time() * 1000)
    plan = IngestPlan([CameraFeed(video.stem, str(video)) for video in DEMO_VIDEOS], start_at_ms=start_at_ms)
    stop = threading.Event()
    with closing(make_producer(settings.kafka)) as producer, ThreadPoolExecutor(1, thread_name_prefix="cameras") as pool:
        sending = pool.submit(ingest, plan, producer, settings.kafka.topic, stop)
        try:
            return start_at_ms, _watch(settings, console, check_processes, sending)
        finally:
            stop.set()


def _watch(settings: Settings, console: Console, check_processes: Callable[[], None], sending: "Future[IngestResult]") -> Updates:
    """Show scores and events until all have arrived."""
    clip_length = read_bundle(DEFAULT_BUNDLE).spec.length
    received, dashboard, last_score_s = Updates([], []), Dashboard(), time.monotonic()
    with make_redis(settings.redis) as client, live_dashboard(console, dashboard) as show:
        subscriber = Subscriber(client, settings.redis, from_start=True)
        while True:
            check_processes()
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
            received = received._replace(health=[*received.health, *updates.health])
            dashboard.update(updates)
            show(updates)


def _keep_playing(settings: Settings, console: Console, check_processes: Callable[[], None]) -> None:
    """Send all cameras again and again until Ctrl-C."""
    console.print("The cameras go on from their beginning. Ctrl-C ends the demo.")
    feeds = [CameraFeed(video.stem, str(video)) for video in DEMO_VIDEOS]
    stop = threading.Event()
    with closing(make_producer(settings.kafka)) as producer, ThreadPoolExecutor(1, thread_name_prefix="cameras") as pool:
        pool.submit(ingest, IngestPlan(feeds, loop=True), producer, settings.kafka.topic, stop)
        try:
            while True:
                check_processes()
                time.sleep(1.0)
        except KeyboardInterrupt:
            console.print("Ending the demo ...")
        finally:
            stop.set()
