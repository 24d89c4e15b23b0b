"""Ingest over real TCP: the records in the topic, and live cameras that go away."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from kafka import TopicPartition

from streamer.config import KafkaSettings
from streamer.ingest.run import CameraFeed, IngestPlan, IngestResult, ingest
from streamer.ingest.sources import open_source
from streamer.interfaces import SourceUnavailable
from streamer.kafka.client import ensure_topics, make_consumer, make_producer
from tests.harness.apache_kafka import ApacheKafka
from tests.harness.brokers import EmbeddedBroker, unique_kafka_settings
from tests.harness.footage import picture, write_folder, write_video


class Stored(NamedTuple):
    camera_id: str
    value: bytes
    headers: dict[str, bytes]
    partition: int


def run_ingest(settings: KafkaSettings, plan: IngestPlan, stop: threading.Event | None = None) -> IngestResult:
    producer = make_producer(settings)
    try:
        return ingest(plan, producer, settings.topic, stop or threading.Event())
    finally:
        producer.close(timeout=5)


def stored(settings: KafkaSettings, count: int, quiet_polls: int = 3) -> list[Stored]:
    """All records of the topic: at least ``count``, until ``quiet_polls`` polls return nothing."""
    consumer = make_consumer(settings, group_id=None)
    partitions = [TopicPartition(settings.topic, number) for number in consumer.partitions_for_topic(settings.topic)]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    found: list[Stored] = []
    deadline_s = time.monotonic() + 60
    quiet = 0
    while (len(found) < count or quiet < quiet_polls) and time.monotonic() < deadline_s:
        records = [record for some in consumer.poll(timeout_ms=200).values() for record in some]
        found += [Stored(record.key.decode(), record.value, dict(record.headers), record.partition) for record in records]
        quiet = 0 if records else quiet + 1
    consumer.close(timeout_ms=1000)
    return found


@pytest.fixture
def embedded_settings(embedded_broker: EmbeddedBroker) -> KafkaSettings:
    settings = unique_kafka_settings(embedded_broker.address)
    ensure_topics(settings)
    return settings


def test_folder_arrives_unchanged_with_headers(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    ensure_topics(kafka_settings)
    pictures = write_folder(tmp_path / "frames", 40)
    plan = IngestPlan([CameraFeed("gate", str(tmp_path / "frames"))], fps=25, start_at_ms=1_000_000, realtime=False)
    result = run_ingest(kafka_settings, plan)
    found = stored(kafka_settings, 40)
    assert result == IngestResult(sent=40, failed=0, dropped=0)
    assert [record.value for record in found] == pictures
    assert [record.headers for record in found] == [
        {"captured_at_ms": b"%d" % (1_000_000 + 40 * n), "sequence": b"%d" % n, "content_type": b"image/jpeg"} for n in range(40)
    ]


def test_cameras_keep_order_and_partition(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    ensure_topics(kafka_settings)
    pictures = {f"camera-{n}": write_folder(tmp_path / str(n), 20, first_brightness=10 * n) for n in range(8)}
    feeds = [CameraFeed(f"camera-{n}", str(tmp_path / str(n))) for n in range(8)]
    run_ingest(kafka_settings, IngestPlan(feeds, realtime=False))
    found = stored(kafka_settings, 160)
    for camera_id, expected in pictures.items():
        own = [record for record in found if record.camera_id == camera_id]
        assert [record.value for record in own] == expected
        assert len({record.partition for record in own}) == 1


def test_video_plays_at_the_requested_rate(embedded_settings: KafkaSettings, tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", seconds=2, fps=25)
    started_s = time.monotonic()
    run_ingest(embedded_settings, IngestPlan([CameraFeed("gate", str(video))], fps=10))
    assert time.monotonic() - started_s >= 1.8
    captured_at_ms = [int(record.headers["captured_at_ms"]) for record in stored(embedded_settings, 20)]
    assert [each - captured_at_ms[0] for each in captured_at_ms][:6] == [0, 120, 200, 320, 400, 520]
    assert len(captured_at_ms) == 20


def test_loop_runs_until_stopped(embedded_settings: KafkaSettings, tmp_path: Path) -> None:
    write_folder(tmp_path / "frames", 5)
    stop = threading.Event()
    threading.Timer(1.0, stop.set).start()
    plan = IngestPlan([CameraFeed("gate", str(tmp_path / "frames"))], fps=50, loop=True)
    started_s = time.monotonic()
    result = run_ingest(embedded_settings, plan, stop)
    assert 5 < result.sent <= 50 * (time.monotonic() - started_s) + 1
    assert len(stored(embedded_settings, result.sent)) == result.sent


@pytest.mark.kafka
def test_broker_restart_loses_no_frame(apache_kafka: ApacheKafka, tmp_path: Path) -> None:
    settings = unique_kafka_settings(apache_kafka.address)
    ensure_topics(settings)
    pictures = write_folder(tmp_path / "frames", 60)
    plan, stop = IngestPlan([CameraFeed("gate", str(tmp_path / "frames"))], fps=30, loop=True), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_ingest, settings, plan, stop)
        before = len(stored(settings, 10, quiet_polls=0))
        apache_kafka.kill()
        apache_kafka.start()
        stop.set()
        result = running.result()
    assert result == IngestResult(sent=result.sent, failed=0, dropped=0)
    assert result.sent > before
    found = {int(record.headers["sequence"]): record.value for record in stored(settings, result.sent)}
    assert list(found) == list(range(result.sent))  # a frame may be there twice, never out of order
    assert all(value == pictures[number % 60] for number, value in found.items())


class MjpegCamera(BaseHTTPRequestHandler):
    """Sends thirty images and disconnects, as a camera that restarts."""

    def do_GET(self) -> None:
        self.server.connections += 1  # type: ignore[attr-defined]  # kept on the server: a handler lives for one request
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        try:
            for number in range(30):
                jpeg = picture(8 * number)
                self.wfile.write(
                    b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg) + jpeg + b"\r\n"
                )
        except OSError:
            pass

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is the base class's
        """Keep quiet."""


@contextmanager
def http_server(handler: type[BaseHTTPRequestHandler]) -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Lure(BaseHTTPRequestHandler):
    """A hostile camera: sends whoever asks it to the other address of the same server."""

    def do_GET(self) -> None:
        self.server.paths.append(self.path)  # type: ignore[attr-defined]  # kept on the server: a handler lives for one request
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/inside")
            self.end_headers()
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/inside\n#EXT-X-ENDLIST\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name is the base class's
        """Keep quiet."""


@pytest.mark.parametrize("path", ["/redirect", "/playlist.m3u8"])
def test_a_camera_cannot_send_ingest_elsewhere(path: str) -> None:
    with http_server(Lure) as server:
        server.paths = []  # type: ignore[attr-defined]  # see Lure
        with pytest.raises(SourceUnavailable, match="cannot be opened as a stream"):
            list(open_source(f"http://127.0.0.1:{server.server_port}{path}"))
        assert server.paths == [path]


def test_live_frames_have_arrival_times() -> None:
    times_s = iter([100.0, 100.0, *(100.0 + number for number in range(1, 30))])
    with http_server(MjpegCamera) as server:
        server.connections = 0  # type: ignore[attr-defined]  # see MjpegCamera
        url = f"http://127.0.0.1:{server.server_port}/s3cret?token=s3cret"
        stream = open_source(url, fps=0.1, clock=lambda: next(times_s))
        assert [next(stream).offset_ms for _ in range(3)] == [0, 10_000, 20_000]
        with pytest.raises(SourceUnavailable, match=r"http://127\.0\.0\.1:\d+: (the stream ended|reading failed)"):
            next(stream)


def wait_for(is_so: Callable[[], bool], within_s: float) -> None:
    deadline_s = time.monotonic() + within_s
    while not is_so() and time.monotonic() < deadline_s:
        time.sleep(0.05)


def test_reconnects_to_a_live_camera(embedded_settings: KafkaSettings) -> None:
    stop = threading.Event()
    with http_server(MjpegCamera) as server, ThreadPoolExecutor(1) as pool:
        server.connections = 0  # type: ignore[attr-defined]  # see MjpegCamera
        plan = IngestPlan([CameraFeed("gate", f"http://127.0.0.1:{server.server_port}/stream")])
        running = pool.submit(run_ingest, embedded_settings, plan, stop)
        wait_for(lambda: server.connections >= 3, within_s=25)
        stop.set()
        result = running.result(timeout=30)
    found = stored(embedded_settings, result.sent)
    assert result.reconnects >= 2
    assert result.sent >= 50
    assert result.failed == 0
    assert [int(record.headers["sequence"]) for record in found] == list(range(result.sent))
    captured_at_ms = [int(record.headers["captured_at_ms"]) for record in found]
    assert captured_at_ms == sorted(captured_at_ms)
    assert abs(captured_at_ms[-1] - time.time() * 1000) < 60_000


def test_missing_camera_does_not_block_others(embedded_settings: KafkaSettings, tmp_path: Path) -> None:
    pictures = write_folder(tmp_path / "frames", 10)
    stop = threading.Event()
    threading.Timer(2.0, stop.set).start()
    feeds = [CameraFeed("gone", "http://127.0.0.1:9/stream"), CameraFeed("gate", str(tmp_path / "frames"))]
    result = run_ingest(embedded_settings, IngestPlan(feeds), stop)
    assert [record.value for record in stored(embedded_settings, 10)] == pictures
    assert result.reconnects >= 1
