"""``oddsight-stream demo``: plays footage of four places through Kafka, the service and Redis on a machine that has neither.

Three cameras have profiles; the fourth is one that the service has never seen, and is learned while it plays.
The service runs as a separate process, started as any user would start it, and the results are read from Redis as by any
subscriber. Only the broker, Redis and the cameras are stand-ins.
"""

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.bundle import DEFAULT_BUNDLE, read_bundle
from deploy.profile import read_profile
from streamer.config import Settings
from streamer.demo.embedded import embedded_kafka, embedded_redis, start_process
from streamer.ingest.run import CameraFeed, IngestPlan, IngestResult, ingest
from streamer.interfaces import StreamError
from streamer.kafka.client import ensure_topics, make_producer, silence_kafka_log
from streamer.redis.client import RedisProgressStore, make_redis
from streamer.redis.profiles import RedisProfileStore
from streamer.redis.subscriber import HealthEntry, ScoreEntry, Subscriber, Updates
from streamer.settings_file import settings_toml
from streamer.types import Event, Partition
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
        _import_profiles(settings)
        with _service(settings, Path(folder)) as check_service:
            _wait_until_started(settings, check_service)
            unknown = len(DEMO_VIDEOS) - len(DEMO_PROFILES)
            console.print(f"Playing {len(DEMO_VIDEOS)} cameras in real time for 60 s, {unknown} of them unknown.\n")
            first_frame_ms, received = _play_and_watch(settings, console, check_service)
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
    console.print(summary_line(result, received.scores, len(cameras)))


def _settings(broker: str, redis_url: str) -> Settings:
    return Settings.model_validate(
        {
            # A short session: the embedded broker takes half of it to form a group.
            "kafka": {"bootstrap_servers": broker, "start": "earliest", "session_timeout_ms": 3_000},
            "redis": {"url": redis_url},
            "engine": {"bundle": DEFAULT_BUNDLE},
            "learning": {"enabled": True, "min_minutes": _LEARNING_MINUTES},
            "http": {"port": 0},
        }
    )


def _import_profiles(settings: Settings) -> None:
    with make_redis(settings.redis) as client:
        for path in DEMO_PROFILES:
            RedisProfileStore(client, settings.redis).put(read_profile(path))


@contextmanager
def _service(settings: Settings, folder: Path) -> Iterator[Callable[[], None]]:
    """Run the service; yields a function that raises if it has ended."""
    config_path, log_path = folder / "oddsight.toml", folder / "service.log"
    config_path.write_text(settings_toml(settings))
    with log_path.open("wb") as log_file:
        service = start_process([sys.executable, "-m", "streamer.cli", "run", "--config", str(config_path)], log_file)

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
            received = received._replace(health=[*received.health, *updates.health])
            dashboard.update(updates)
            show(updates)


# --- The result: events compared with the anomalies that the footage shows


class AnomalyInterval(BaseModel):
    """An anomaly in one camera's footage; times in seconds from its first frame."""

    model_config = ConfigDict(frozen=True)

    camera_id: str
    kind: str
    description: str
    start_s: float
    end_s: float


class CameraFault(BaseModel):
    """A problem of a camera's health that lasts to the end of its footage."""

    model_config = ConfigDict(frozen=True)

    camera_id: str
    problem: str
    description: str
    start_s: float


class GroundTruth(BaseModel):
    """What the footage shows."""

    model_config = ConfigDict(frozen=True)

    stretches: tuple[AnomalyInterval, ...]
    health: tuple[CameraFault, ...]


def read_ground_truth(path: Path) -> GroundTruth:
    """The content of ``stretches.json``."""
    return GroundTruth.model_validate_json(path.read_bytes())


@dataclass(slots=True)
class DetectedEvent:
    """One event, from all its entries in the event stream."""

    camera_id: str
    started_at_ms: int
    announced_at_ms: int
    """Capture time of the frame on which the service announced the event."""
    ended_at_ms: int
    """Capture time of the last entry if the event has no ``end``."""
    peak_score: float
    threshold: float
    channel: str | None
    """What raised it, where that is known."""


def collect_events(entries: list[Event]) -> list[DetectedEvent]:
    """Join entries by event id, in the order of the events' starts."""
    by_id: dict[str, DetectedEvent] = {}
    for entry in entries:
        if entry.kind == "start":
            times_ms = entry.started_at_ms, entry.captured_at_ms, entry.captured_at_ms
            peak = entry.peak_score, entry.threshold, entry.channel
            by_id[entry.event_id] = DetectedEvent(entry.camera_id, *times_ms, *peak)
        elif entry.event_id in by_id:
            event = by_id[entry.event_id]
            event.ended_at_ms = entry.ended_at_ms or entry.captured_at_ms
            event.peak_score = entry.peak_score
    return list(by_id.values())


class DetectionResult(NamedTuple):
    """Which anomalies were detected."""

    detections: dict[AnomalyInterval, DetectedEvent | None]
    """The first event of each anomaly; None if it was missed."""
    false_events: list[DetectedEvent]


def match_events(
    intervals: tuple[AnomalyInterval, ...], events: list[DetectedEvent], first_frame_ms: int, tolerance_ms: int
) -> DetectionResult:
    """Match events with anomalies that overlap them; an event may begin ``tolerance_ms`` after its anomaly has ended."""

    def overlap(interval: AnomalyInterval, event: DetectedEvent) -> bool:
        begin_ms = first_frame_ms + interval.start_s * 1000
        end_ms = first_frame_ms + interval.end_s * 1000 + tolerance_ms
        return event.camera_id == interval.camera_id and event.started_at_ms <= end_ms and event.ended_at_ms >= begin_ms

    detections = {interval: next((event for event in events if overlap(interval, event)), None) for interval in intervals}
    false_events = [event for event in events if not any(overlap(interval, event) for interval in intervals)]
    return DetectionResult(detections, false_events)


def result_table(result: DetectionResult, cameras: list[str], first_frame_ms: int) -> Table:
    """A row for each anomaly, each camera without one, and each false event."""
    headings = ("camera", "when", "what", "found", "delay", "peak / threshold", "by")
    table = Table(*headings, title="what happens in the footage, and what was detected", title_justify="left")
    for interval, event in result.detections.items():
        when = f"{interval.start_s:.0f} to {interval.end_s:.0f} s"
        outcome: tuple[Text | str, ...] = Text("MISSED", style="bold red"), "", "", ""
        if event is not None:
            delay_s = (event.announced_at_ms - first_frame_ms) / 1000 - interval.start_s
            outcome = Text("found", style="bold green"), f"{delay_s:.1f} s", _peak(event), event.channel or ""
        table.add_row(interval.camera_id, when, interval.description, *outcome)
    for camera_id in sorted(set(cameras) - {interval.camera_id for interval in result.detections}):
        quiet = not any(event.camera_id == camera_id for event in result.false_events)
        table.add_row(camera_id, "never", "the control", Text("quiet", style="green") if quiet else "", "", "", "")
    for event in result.false_events:
        begin_s = (event.started_at_ms - first_frame_ms) / 1000
        table.add_row(
            event.camera_id,
            f"{begin_s:.1f} s",
            "nothing",
            Text("FALSE EVENT", style="yellow"),
            "",
            _peak(event),
            event.channel or "",
        )
    return table


def fault_cells(fault: CameraFault, entries: Sequence[HealthEntry], first_frame_ms: int) -> tuple[Text | str, ...]:
    """The row of a fault of a camera: whether it was told, and is still open at the end."""
    begin_ms = first_frame_ms + round(fault.start_s * 1000)
    own = [entry for entry in entries if entry.camera_id == fault.camera_id and entry.captured_at_ms >= begin_ms]
    told = next((entry for entry in own if entry.kind == "start" and entry.problem == fault.problem), None)
    what = fault.camera_id, f"from {fault.start_s:.0f} s", fault.description
    if told is None:
        return *what, Text("MISSED", style="bold red"), "", "", ""
    lasts = own[-1].kind == "start"
    outcome = Text("told, still open", style="green") if lasts else Text("told, then ended", style="yellow")
    return *what, outcome, f"{(told.captured_at_ms - begin_ms) / 1000:.1f} s", "", "health"


def _peak(event: DetectedEvent) -> str:
    return f"{event.peak_score:.2f} / {event.threshold:.2f}"


def learning_line(camera_id: str, scores: list[ScoreEntry], first_frame_ms: int) -> str:
    """When a camera that had no profile was learned."""
    own = (entry for entry in scores if entry.camera_id == camera_id and entry.profile_id is not None)
    if (first := next(own, None)) is None:
        return f"{camera_id} was unknown, and was still being learned at the end: no event could be raised."
    watched_s = (first.captured_at_ms - first_frame_ms) / 1000
    return f"{camera_id} was unknown, was learned live, and has been on watch since second {watched_s:.0f}."


def summary_line(result: DetectionResult, scores: list[ScoreEntry], cameras_n: int) -> str:
    """Anomalies found, false events, frames scored, frames per second, and the time from capture to score."""
    found = sum(event is not None for event in result.detections.values())
    seconds = (max(entry.scored_at_ms for entry in scores) - min(entry.scored_at_ms for entry in scores)) / 1000
    latency_ms = median(entry.scored_at_ms - entry.captured_at_ms for entry in scores)
    return (
        f"{found} of {len(result.detections)} anomalies found, {len(result.false_events)} false events; "
        f"{len(scores)} frames of {cameras_n} cameras scored at {len(scores) / seconds:.0f} frames/s, "
        f"median {latency_ms:.0f} ms from capture to score."
    )
