"""How fast the service is on this machine: each stage alone, then the whole path through a real broker and a real Redis.

Prints a table and writes ``bench.json``. Footage and bundle are the demo's. Broker, Redis, cameras and subscriber run on the
same machine and share its cores, so the end-to-end figures are what one box does, not what one consumer could do.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

# The file's own folder is the path when it is run as a script; what it measures and the harness lie at the root.
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import redis
from rich.console import Console
from rich.table import Table

from deploy.bundle import DEFAULT_BUNDLE, Bundle, read_bundle
from deploy.engine import Engine, EngineRequest
from deploy.image import CpuDecoder, image_size
from deploy.registry import load_engine
from streamer.config import KafkaSettings, RedisSettings, Settings
from streamer.demo.embedded import embedded_kafka, embedded_redis
from streamer.demo.run import DEMO_VIDEOS
from streamer.ingest.run import CameraFeed, IngestPlan, ingest
from streamer.ingest.sources import open_source
from streamer.interfaces import CameraState, Step
from streamer.kafka.client import ensure_topics, make_producer, silence_kafka_log
from streamer.pipeline.clips import MessageDecoder
from streamer.pipeline.decide import Decider
from streamer.redis.client import RedisProgressStore, make_redis
from streamer.redis.subscriber import Subscriber
from streamer.types import CameraFrame, FrameInfo, FrameMessage, Outcome, Partition
from tests.harness.service import Service, running

CAMERAS = 12
BATCH = 32
BATCHES_A_REPEAT = 10
REPEATS = 9
LATENCY_FPS = 10
LATENCY_LOAD = 0.5
"""Of the measured throughput: an overloaded service has no latency but a queue."""
EVERY_FRAME_AN_EVENT = {
    "cameras": {f"camera-{number}": {"enter": -1e9, "exit": -1e9} for number in range(CAMERAS)},
    "decision": {"min_duration_s": 0, "update_interval_s": 0.001},
}
"""Thresholds that any score reaches: each frame writes an event entry, so the latency to events is that of all frames."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What frames cost."""

    frames_per_s: float
    cpu_s_per_frame: float


def main() -> None:
    """Run everything; about two minutes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="where the figures go")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of the engine; 0: its own choice, all cores")
    options = parser.parse_args()
    silence_kafka_log()
    report = measure(read_bundle(DEFAULT_BUNDLE), options.threads)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    Console().print(table(report))
    Console().print(f"written to {options.out}")


def measure(bundle: Bundle, threads: int) -> dict[str, Any]:
    """All figures, as they go into ``bench.json``. ``threads``: of the engine, 0 for its own choice."""
    settings = {"bundle": str(DEFAULT_BUNDLE), "threads": threads}
    pictures = [picture.encoded for picture in open_source(str(DEMO_VIDEOS[0]))]
    with closing(load_engine(bundle, EngineRequest(max_clips=BATCH, threads=threads))) as engine:
        stages = {
            "decode": measure_decode(bundle, pictures),
            "score": measure_score(bundle, engine),
            "publish": measure_publish(bundle, engine),
        }
        engine_facts = engine.describe()
    throughput, peak_rss_bytes = measure_throughput(bundle, settings)
    latency_cameras = max(1, min(CAMERAS, int(LATENCY_LOAD * throughput.frames_per_s / LATENCY_FPS)))
    latency_ms = measure_latency(latency_cameras, settings)
    return {
        "stages": {name: asdict(cost) for name, cost in stages.items()},
        "end_to_end": {**asdict(throughput), "latency_ms": latency_ms},
        "ratio_to_slowest_stage": throughput.frames_per_s / min(stage.frames_per_s for stage in stages.values()),
        "peak_rss_bytes": peak_rss_bytes,
        "cameras": CAMERAS,
        "frame_size_px": list(image_size(pictures[0])),
        "frame_bytes": round(median(map(len, pictures))),
        "clip_shape": list(bundle.spec.clip_shape),
        "latency_measured_at_frames_per_s": latency_cameras * LATENCY_FPS,
        "model_id": bundle.model_id,
        "engine": engine_facts,
        "machine": machine(),
    }


def measure_decode(bundle: Bundle, pictures: list[bytes]) -> Cost:
    """Bytes to fitted frames, on as many threads as the service uses."""
    pictures_decoder = CpuDecoder(bundle.spec, threads=os.cpu_count() or 1)
    decoder = MessageDecoder(pictures_decoder)
    partition = Partition("frames", 0)
    messages = [FrameMessage(partition, index, b"camera", pictures[index % len(pictures)], (), 0) for index in range(BATCH)]
    assert all(isinstance(result, CameraFrame) for result in decoder.decode(messages))
    try:
        return repeated(lambda: decoder.decode(messages))
    finally:
        pictures_decoder.close()


def measure_score(bundle: Bundle, engine: Engine) -> Cost:
    """Full micro-batches through the engine, which has the machine to itself."""
    clips = np.random.default_rng(0).integers(0, 256, (BATCH, *bundle.spec.clip_shape), dtype=np.uint8)
    state = engine.score(clips).state
    return repeated(lambda: engine.score(clips, state))


def measure_publish(bundle: Bundle, engine: Engine) -> Cost:
    """Decide and write one atomic step for each micro-batch; CPU is this process's, Redis has its own."""
    with embedded_redis() as url:
        settings = Settings(redis=RedisSettings(url=url))
        store = RedisProgressStore(make_redis(settings.redis), settings.redis, "bench")
        return repeated(publisher(store, Decider(settings, bundle, engine.name)))


def publisher(store: RedisProgressStore, decider: Decider) -> Callable[[], None]:
    partition = Partition("frames", 0)
    heatmap = np.zeros((8, 12), np.float32)
    states: dict[str, CameraState] = {}
    begin = 0

    def publish() -> None:
        nonlocal begin
        scores = []
        for offset in range(begin, begin + BATCH):
            camera_id = f"camera-{offset % CAMERAS}"
            info = FrameInfo(partition, offset, camera_id, offset * 10, 384, 288)
            decision = decider.decide(states.get(camera_id, CameraState()), Outcome(info, offset, None, 0.0, heatmap))
            states[camera_id] = decision.state
            scores.append((camera_id, decision.score or {}))
        store.apply(Step(partition, begin or None, begin + BATCH, states, scores))
        begin += BATCH

    return publish


def repeated(run: Callable[[], object]) -> Cost:
    """Medians over repeats of ten micro-batches; the first micro-batch is warm-up."""
    run()
    walls_s, cpus_s = [], []
    for _ in range(REPEATS):
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        for _ in range(BATCHES_A_REPEAT):
            run()
        walls_s.append(time.perf_counter() - wall_s)
        cpus_s.append(time.process_time() - cpu_s)
    frames = BATCH * BATCHES_A_REPEAT
    return Cost(frames / median(walls_s), median(cpus_s) / frames)


def measure_throughput(bundle: Bundle, engine: dict[str, Any]) -> tuple[Cost, int]:
    """A backlog of all cameras worked off by one service process: from its first scores to its last."""
    with servers() as (kafka, redis_settings), tempfile.TemporaryDirectory() as folder:
        frames = feed_cameras(kafka, CAMERAS, realtime=False)
        with running(Service(Path(folder), kafka, redis_settings, engine=engine)) as service:
            return work_off(service, redis_settings, frames - CAMERAS * (bundle.spec.length - 1))


def work_off(service: Service, redis_settings: RedisSettings, expected: int) -> tuple[Cost, int]:
    """Cost of the scores that came after the first ones, and the service's peak memory."""
    assert service.process is not None
    pid = service.process.pid
    with make_redis(redis_settings) as client:
        count = partial(stored_scores, client, redis_settings)
        first = wait_for_scores(count, 1)
        began_s, began_cpu_s = time.perf_counter(), cpu_s_of(pid)
        last = wait_for_scores(count, expected)
        wall_s, cpu_s = time.perf_counter() - began_s, cpu_s_of(pid) - began_cpu_s
    return Cost((last - first) / wall_s, cpu_s / (last - first)), peak_rss_bytes_of(pid)


def stored_scores(client: redis.Redis, settings: RedisSettings) -> int:
    """How many scores of all cameras are stored; counted, for a subscriber that reads them all takes a sixth of a core."""
    return sum(client.xlen(settings.scores_key(f"camera-{number}")) for number in range(CAMERAS))


def wait_for_scores(count: Callable[[], int], least: int) -> int:
    """Wait until there are at least so many scores; gives how many there are."""
    deadline_s = time.monotonic() + 300
    while (stored := count()) < least:
        if time.monotonic() > deadline_s:
            raise SystemExit(f"only {stored} of {least} scores came within 300 s")
        time.sleep(0.05)
    return stored


def measure_latency(cameras: int, engine: dict[str, Any]) -> dict[str, float]:
    """Cameras in real time: from a frame's capture, just before it is produced, to its event entry in a subscriber's hands."""
    latencies_ms: list[float] = []
    with servers() as (kafka, redis_settings), tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder), kafka, redis_settings, engine=engine, **EVERY_FRAME_AN_EVENT)
        with running(service), make_redis(redis_settings) as client:
            service.wait_until(lambda: service.get("/readyz")[0] == 200, "ready service")
            feed = Subscriber(client, redis_settings, from_start=True)
            playing = threading.Thread(target=feed_cameras, args=(kafka, cameras), kwargs={"realtime": True})
            playing.start()
            while playing.is_alive():
                events = feed.poll(0.2).events
                now_ms = time.time() * 1000
                latencies_ms += [now_ms - event.captured_at_ms for event in events]
    steady = latencies_ms[len(latencies_ms) // 5 :]  # first-time costs aside: a stream runs for days
    return {f"p{percent}": round(float(np.percentile(steady, percent)), 1) for percent in (50, 95, 99)}


@contextmanager
def servers() -> Iterator[tuple[KafkaSettings, RedisSettings]]:
    """A fresh broker with its topics, and a fresh Redis."""
    with embedded_kafka() as address, embedded_redis() as url:
        kafka = KafkaSettings(bootstrap_servers=address, start="earliest", session_timeout_ms=6_000)
        ensure_topics(kafka)
        yield kafka, RedisSettings(url=url)


def feed_cameras(kafka: KafkaSettings, cameras: int, *, realtime: bool) -> int:
    """Play the demo's videos as so many cameras; gives the number of frames."""
    feeds = [CameraFeed(f"camera-{number}", str(DEMO_VIDEOS[number % len(DEMO_VIDEOS)])) for number in range(cameras)]
    producer = make_producer(kafka)
    result = ingest(IngestPlan(feeds, realtime=realtime), producer, kafka.topic, threading.Event())
    producer.close()
    return result.sent


def cpu_s_of(pid: int) -> float:
    """User and system time of a process and all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_rss_bytes_of(pid: int) -> int:
    """Largest resident size of a process so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpus = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "cpu": cpus[0] if cpus else platform.processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def table(report: dict[str, Any]) -> Table:
    """The figures for people."""
    title = (
        f"{report['cameras']} cameras, {report['frame_size_px'][0]}x{report['frame_size_px'][1]}, {report['engine']['backend']}"
    )
    made = Table(title=f"{title}, {report['machine']['cores']} cores of {report['machine']['cpu']}")
    for heading in ("", "frames/s", "CPU ms a frame", "latency ms p50 / p95 / p99"):
        made.add_column(heading)
    for name, cost in report["stages"].items():
        made.add_row(name, f"{cost['frames_per_s']:.0f}", f"{1000 * cost['cpu_s_per_frame']:.2f}", "")
    whole, latency_ms = report["end_to_end"], report["end_to_end"]["latency_ms"]
    latency = f"{latency_ms['p50']:.0f} / {latency_ms['p95']:.0f} / {latency_ms['p99']:.0f}"
    made.add_section()
    made.add_row("end to end", f"{whole['frames_per_s']:.0f}", f"{1000 * whole['cpu_s_per_frame']:.2f}", latency)
    made.caption = (
        f"{report['ratio_to_slowest_stage']:.2f} of the slowest stage; peak memory {report['peak_rss_bytes'] / 2**20:.0f} MiB; "
        f"latency at {report['latency_measured_at_frames_per_s']} frames/s"
    )
    return made


if __name__ == "__main__":
    main()
