import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError
from kafka.future import Future

from deploy.errors import ConfigError
from streamer.ingest.run import CameraFeed, FrameProducer, IngestPlan, IngestResult, ingest, retry_wait_s
from streamer.ingest.sources import EncodedFrame
from streamer.interfaces import SourceUnavailable
from tests.harness.fakes import FakeClock
from tests.harness.footage import write_folder


@dataclass
class Sent:
    key: bytes
    value: bytes
    headers: dict[str, bytes]
    at_s: float


@dataclass
class FakeProducer:
    """Acknowledges at once, unless ``holding`` or given a ``refusal``."""

    clock: FakeClock = field(default_factory=FakeClock)
    holding: bool = False
    refusal: Exception | None = None
    sent: list[Sent] = field(default_factory=list)
    futures: list[Future] = field(default_factory=list)

    def send(self, topic: str, value: bytes, key: bytes, headers: list[tuple[str, bytes]]) -> Future:
        assert topic == "frames"
        if isinstance(self.refusal, MessageSizeTooLargeError):
            raise self.refusal
        self.sent.append(Sent(key, value, dict(headers), self.clock()))
        self.futures.append(Future())
        if self.refusal is not None:
            self.futures[-1].failure(self.refusal)
        elif not self.holding:
            self.futures[-1].success(None)
        return self.futures[-1]

    def flush(self, timeout: float) -> None:
        if self.holding:
            raise KafkaTimeoutError(f"not flushed within {timeout} s")


class SteppingStop(threading.Event):
    """Waiting takes no time but moves the clock."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        self._clock.now_s += timeout or 0
        return self.is_set()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(now_s=1_000.0)


@pytest.fixture
def producer(clock: FakeClock) -> FakeProducer:
    return FakeProducer(clock)


@pytest.fixture
def stop(clock: FakeClock) -> SteppingStop:
    return SteppingStop(clock)


@pytest.fixture
def folders(tmp_path: Path) -> list[CameraFeed]:
    for number, name in enumerate(("gate", "yard")):
        write_folder(tmp_path / name, 3, first_brightness=100 * number)
    return [CameraFeed("gate", str(tmp_path / "gate")), CameraFeed("yard", str(tmp_path / "yard"))]


class TestRecorded:
    def test_merges_cameras_in_capture_order(
        self, folders: list[CameraFeed], producer: FakeProducer, stop: SteppingStop, clock: FakeClock
    ) -> None:
        result = ingest(IngestPlan(folders), producer, "frames", stop, clock)
        assert [sent.key for sent in producer.sent] == [b"gate", b"yard"] * 3
        assert result == IngestResult(sent=6, failed=0, dropped=0)

    def test_sets_headers(self, folders: list[CameraFeed], producer: FakeProducer, stop: SteppingStop, clock: FakeClock) -> None:
        ingest(IngestPlan(folders[:1], start_at_ms=50_000), producer, "frames", stop, clock)
        assert [sent.headers for sent in producer.sent] == [
            {"captured_at_ms": b"50000", "sequence": b"0", "content_type": b"image/jpeg"},
            {"captured_at_ms": b"50100", "sequence": b"1", "content_type": b"image/jpeg"},
            {"captured_at_ms": b"50200", "sequence": b"2", "content_type": b"image/jpeg"},
        ]

    def test_plays_at_the_recorded_pace(
        self, folders: list[CameraFeed], producer: FakeProducer, stop: SteppingStop, clock: FakeClock
    ) -> None:
        ingest(IngestPlan(folders[:1], fps=4), producer, "frames", stop, clock)
        assert [sent.at_s for sent in producer.sent] == pytest.approx([1000.0, 1000.25, 1000.5])
        assert [sent.headers["captured_at_ms"] for sent in producer.sent] == [b"1000000", b"1000250", b"1000500"]

    def test_fast_mode_keeps_capture_times(
        self, folders: list[CameraFeed], producer: FakeProducer, stop: SteppingStop, clock: FakeClock
    ) -> None:
        ingest(IngestPlan(folders[:1], realtime=False), producer, "frames", stop, clock)
        assert clock.now_s == 1000.0
        assert [sent.headers["captured_at_ms"] for sent in producer.sent] == [b"1000000", b"1000100", b"1000200"]

    def test_loop_continues_time_and_sequence(self, folders: list[CameraFeed], producer: FakeProducer, clock: FakeClock) -> None:
        class StopAfterSeven(SteppingStop):
            def is_set(self) -> bool:
                return len(producer.sent) >= 7

        ingest(IngestPlan(folders[:1], loop=True, start_at_ms=0), producer, "frames", StopAfterSeven(clock), clock)
        assert [int(sent.headers["captured_at_ms"]) for sent in producer.sent] == [0, 100, 200, 300, 400, 500, 600]
        assert [int(sent.headers["sequence"]) for sent in producer.sent] == list(range(7))

    def test_unreadable_source_ends_all(
        self, folders: list[CameraFeed], producer: FakeProducer, stop: SteppingStop, clock: FakeClock
    ) -> None:
        with pytest.raises(SourceUnavailable, match="no such file"):
            ingest(IngestPlan([*folders, CameraFeed("gone", "/nowhere.mp4")]), producer, "frames", stop, clock)
        assert stop.is_set()


class TestPlan:
    @pytest.mark.parametrize("camera_id", ["", " gate", "gate ", "a\nb", "x" * 129])
    def test_rejects_invalid_camera_ids(self, camera_id: str) -> None:
        with pytest.raises(ConfigError, match="camera_id"):
            IngestPlan([CameraFeed(camera_id, "folder")])

    def test_rejects_duplicate_camera_ids(self) -> None:
        with pytest.raises(ConfigError, match="same camera_id"):
            IngestPlan([CameraFeed("gate", "one"), CameraFeed("gate", "two")])

    @pytest.mark.parametrize("fps", [0, -1, 1e9])
    def test_rejects_invalid_rates(self, fps: float) -> None:
        with pytest.raises(ConfigError, match="fps"):
            IngestPlan([], fps=fps)


class TestDelivery:
    frame = EncodedFrame(b"x" * 100, "image/jpeg", 0, 0)

    @pytest.mark.parametrize("error", [KafkaTimeoutError("gone"), MessageSizeTooLargeError("4 MiB")])
    def test_counts_failed_frames(
        self, folders: list[CameraFeed], producer: FakeProducer, stop: SteppingStop, clock: FakeClock, error: Exception
    ) -> None:
        producer.refusal = error
        result = ingest(IngestPlan(folders), producer, "frames", stop, clock)
        assert result == IngestResult(sent=0, failed=6, dropped=0)

    def test_live_frames_are_dropped_when_full(self) -> None:
        producer = FakeProducer(holding=True)
        sender = FrameProducer(producer, "frames", threading.Event(), max_pending_bytes=250)
        for _ in range(5):
            sender.send_or_drop("gate", self.frame, 0)
        producer.futures[0].success(None)
        sender.send_or_drop("gate", self.frame, 0)
        assert len(producer.sent) == 4
        assert sender.finish(timeout_s=1) == IngestResult(sent=1, failed=3, dropped=2)

    def test_recorded_frames_wait_when_full(self) -> None:
        producer = FakeProducer(holding=True)
        sender = FrameProducer(producer, "frames", threading.Event(), max_pending_bytes=100)
        sender.send("gate", self.frame, 0)
        waiting = threading.Thread(target=sender.send, args=("gate", self.frame, 0))
        waiting.start()
        assert len(producer.sent) == 1
        producer.futures[0].success(None)
        waiting.join(timeout=10)
        assert len(producer.sent) == 2

    def test_stop_ends_the_wait(self) -> None:
        producer, stop = FakeProducer(holding=True), threading.Event()
        sender = FrameProducer(producer, "frames", stop, max_pending_bytes=100)
        sender.send("gate", self.frame, 0)
        stop.set()
        sender.send("gate", self.frame, 0)
        assert len(producer.sent) == 1


class TestLive:
    def test_retry_waits_double_up_to_30_s(self) -> None:
        assert [retry_wait_s(attempt, 0.0) for attempt in range(7)] == [1, 2, 4, 8, 16, 30, 30]
        assert retry_wait_s(10_000, 1.0) == 15

    def test_reconnects_and_continues_the_sequence(
        self, producer: FakeProducer, stop: SteppingStop, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connections = iter([2, 0, 3])

        def flaky(_location: str, _fps: float | None) -> Iterator[EncodedFrame]:
            remaining = next(connections, None)
            if remaining is None:
                stop.set()
                return
            for number in range(remaining):
                yield EncodedFrame(b"jpeg", "image/jpeg", number, 0)
            raise SourceUnavailable("the stream ended")

        monkeypatch.setattr("streamer.ingest.run.open_source", flaky)
        result = ingest(IngestPlan([CameraFeed("gate", "rtsp://gate")]), producer, "frames", stop, clock)
        assert [int(sent.headers["sequence"]) for sent in producer.sent] == [0, 1, 2, 3, 4]
        assert result == IngestResult(sent=5, failed=0, dropped=0, reconnects=3)
        captured_at_ms = [int(sent.headers["captured_at_ms"]) for sent in producer.sent]
        assert captured_at_ms[0] == 1_000_000
        assert captured_at_ms[2] >= captured_at_ms[1] + 1500  # two waits of at least half a second and a second
