"""Evidence of events, from a real broker and a real Redis into a folder or a bucket."""

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast
from urllib.error import HTTPError
from urllib.request import urlopen

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from deploy.image import encode_jpeg
from deploy.video import open_video, to_bgr
from streamer.areas import CameraAreas
from streamer.config import KafkaSettings, RedisSettings, Settings
from streamer.demo.embedded import embedded_kafka
from streamer.evidence.run import run_evidence
from streamer.evidence.store import FILES, EvidenceStore, event_folder
from streamer.kafka.client import ensure_topics, make_producer
from streamer.kafka.history import MessageHistory
from streamer.redis.areas import RedisAreaStore
from streamer.redis.client import make_redis
from streamer.types import Event, Partition
from tests.harness.brokers import free_ports, unique_kafka_settings
from tests.harness.evidence import BUCKET, KEY, SECRET, object_store, read_manifest
from tests.harness.stream_entries import EVENT
from trainer.data.annotations import Annotation, read_annotations

EVENT_ID = "0123456789abcdef"
BEGIN_MS = 1_700_000_000_000
FRAME_MS = 100
FRAMES = 400
START, PEAK, END = 200, 210, 230  # frames of the camera
MASK = ((0.0, 0.0), (0.25, 0.0), (0.25, 1.0), (0.0, 1.0))
"""The left quarter, which is bright in all frames."""


def frame(number: int) -> NDArray[np.uint8]:
    """Bright, and darker with each frame on the right."""
    picture = np.full((120, 160, 3), 255, np.uint8)
    picture[:, 80:] = 250 - number // 2
    return picture


def send_frames(settings: KafkaSettings) -> tuple[Partition, dict[int, int]]:
    """Send a camera's frames, and those of another one between them; the partition, and the offset of each frame."""
    producer, offsets = make_producer(settings), {}
    other = encode_jpeg(np.zeros((120, 160, 3), np.uint8), 80)
    for number in range(FRAMES):
        headers = [("captured_at_ms", b"%d" % (BEGIN_MS + number * FRAME_MS))]
        record = producer.send(settings.topic, key=b"gate", value=encode_jpeg(frame(number), 90), headers=headers, partition=0)
        producer.send(settings.topic, key=b"yard", value=other, headers=headers, partition=0)
        offsets[number] = record
    stored = {number: cast("Any", record).get(timeout=20).offset for number, record in offsets.items()}
    producer.close(timeout=5)
    return Partition(settings.topic, 0), stored


def send_one(settings: KafkaSettings, number: int) -> None:
    """Send one more frame of the camera."""
    producer = make_producer(settings)
    headers = [("captured_at_ms", b"%d" % (BEGIN_MS + number * FRAME_MS))]
    producer.send(settings.topic, key=b"gate", value=encode_jpeg(frame(number), 90), headers=headers, partition=0)
    producer.close(timeout=5)


def entry(kind: str, number: int, where: Partition, offsets: dict[int, int], **more: str) -> dict[str, str]:
    """An entry of the event that starts at frame ``START``."""
    times = {"started_at_ms": str(BEGIN_MS + START * FRAME_MS), "captured_at_ms": str(BEGIN_MS + number * FRAME_MS)}
    origin = {"topic": where.topic, "partition": str(where.number), "offset": str(offsets[number])}
    now = {"scored_at_ms": str(round(time.time() * 1000))}
    return {**EVENT, "event_id": EVENT_ID, "kind": kind, "score": "2", **times, **origin, **now, **more}


def heatmap(number: int, score: float, where: Partition, offsets: dict[int, int]) -> dict[str, str]:
    """Hot in the right lower corner."""
    levels = np.zeros((6, 8), np.uint8)
    levels[5, 7] = 255
    png = base64.b64encode(cv2.imencode(".png", levels)[1].tobytes()).decode()
    origin = {"topic": where.topic, "partition": "0", "offset": str(offsets[number])}
    times = {"captured_at_ms": str(BEGIN_MS + number * FRAME_MS)}
    return {"schema": "1", "event_id": EVENT_ID, "kind": "update", "score": str(score), "png": png, **origin, **times}


@contextmanager
def recording(settings: Settings) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=run_evidence, args=(settings, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=30)
        assert not thread.is_alive()


def wait_for(found: Callable[[], Any], what: str) -> Any:
    deadline_s = time.monotonic() + 60
    while not (value := found()):
        assert time.monotonic() < deadline_s, f"no {what}"
        time.sleep(0.05)
    return value


@pytest.fixture(scope="module")
def sent() -> Iterator[tuple[KafkaSettings, Partition, dict[int, int]]]:
    with embedded_kafka() as address:
        settings = unique_kafka_settings(address)
        ensure_topics(settings)
        yield settings, *send_frames(settings)


def settings_for(kafka: KafkaSettings, redis: RedisSettings, where: Path | str, **evidence: float | str) -> Settings:
    limits = {"dir": where, "pre_roll_s": 3, "post_roll_s": 2, "picture_every_s": 0.3, **evidence}
    return Settings.model_validate({"kafka": kafka, "redis": redis, "evidence": limits})


def is_whole(folder: Path) -> bool:
    manifest = read_manifest(folder)
    return manifest is not None and manifest["clip"] is not None


def decode(content: bytes) -> NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED), np.uint8)


def marked_and_unmarked(client: Any, redis: RedisSettings, folder: Path) -> Annotation:
    """Mark the event as false, and take it back; what training reads in between."""
    mark = {"schema": "1", "event_id": EVENT_ID, "camera_id": "gate", "user": "ann", "at_ms": "1"}
    client.xadd(redis.marks_key, {**mark, "kind": "acknowledge"})
    client.xadd(redis.marks_key, {**mark, "kind": "false"})
    wait_for((folder / "marks.csv").exists, "clip of the mark")
    (annotation,) = read_annotations(folder / "marks.csv")
    client.xadd(redis.marks_key, {**mark, "kind": "unmark"})
    wait_for(lambda: not (folder / f"{EVENT_ID}.mp4").exists(), "end of the mark")
    return annotation


def frames_of(path: Path) -> list[NDArray[np.uint8]]:
    with open_video(path) as video:
        return [to_bgr(each) for each in video.frames() if not isinstance(each, str)]


def test_an_event_gets_picture_heat_map_and_clip_in_which_masks_are_black(
    sent: tuple[KafkaSettings, Partition, dict[int, int]], redis_settings: RedisSettings, tmp_path: Path
) -> None:
    kafka, where, offsets = sent
    settings = settings_for(kafka, redis_settings, tmp_path)
    folder = tmp_path / event_folder(EVENT_ID, BEGIN_MS + START * FRAME_MS)
    with make_redis(redis_settings) as client, recording(settings):
        store = RedisAreaStore(client, redis_settings)
        store.change("gate", lambda areas: areas.with_more(CameraAreas(masks=(MASK,))))
        assert store.read() == {"gate": CameraAreas(masks=(MASK,))}
        for number in range(START - 100, END + 50):
            times = {"captured_at_ms": BEGIN_MS + number * FRAME_MS, "scored_at_ms": 1}
            client.xadd(redis_settings.scores_key("gate"), {"score": 1 + number / 100, "threshold": 2, **times})
        wait_for(lambda: client.exists(redis_settings.events_key), "consumer group")
        client.xadd(redis_settings.heatmaps_key, heatmap(START, 2.0, where, offsets))
        client.xadd(redis_settings.events_key, entry("start", START + 3, where, offsets))
        at_once = wait_for(lambda: read_manifest(folder), "picture")
        assert (at_once["clip"], at_once["captured_at_ms"]) == (None, BEGIN_MS + START * FRAME_MS)

        client.xadd(redis_settings.heatmaps_key, heatmap(PEAK, 3.0, where, offsets))
        ended = {"ended_at_ms": str(BEGIN_MS + END * FRAME_MS)}
        client.xadd(redis_settings.events_key, entry("end", END + 20, where, offsets, **ended))
        wait_for(lambda: is_whole(folder), "clip")
        wait_for(lambda: client.xpending(redis_settings.events_key, "evidence")["pending"] == 0, "acknowledgement")
        annotation = marked_and_unmarked(client, redis_settings, tmp_path / "feedback")
        live = wait_for(lambda: client.hgetall(redis_settings.picture_key("gate")), "live picture")
        assert client.hgetall(redis_settings.picture_key("yard"))

    manifest = json.loads((folder / "evidence.json").read_bytes())
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert manifest["captured_at_ms"] == BEGIN_MS + PEAK * FRAME_MS
    first, last = BEGIN_MS + (START - 30) * FRAME_MS, BEGIN_MS + (END + 20) * FRAME_MS
    frames = END + 20 - START + 30 + 1
    assert manifest["clip"] == {"from_ms": first, "to_ms": last, "frames": frames, "width_px": 160, "height_px": 120}
    assert (manifest["region"], annotation.region) == ([140, 100, 20, 20], (140, 100, 20, 20))
    assert (annotation.first_frame, annotation.last_frame, annotation.anomalous) == (30, 60, False)
    assert manifest["missing"] == {}
    assert manifest["scores"][0] == [first, 1 + (START - 30) / 100, 2.0]
    assert manifest["scores"][-1][0] == last

    picture = decode((folder / "picture.jpg").read_bytes())
    assert picture.shape == (120, 160, 3)
    assert abs(int(picture[60, 120, 0]) - int(frame(PEAK)[60, 120, 0])) < 4
    hot = decode((folder / "heatmap.png").read_bytes())
    assert hot.shape == (6, 8, 4)
    assert (hot[5, 7, 3], hot[0, 7, 3]) == (200, 0)

    # The embedded broker tells of the newest messages late.
    assert BEGIN_MS + (FRAMES - 100) * FRAME_MS < int(live["captured_at_ms"]) < BEGIN_MS + FRAMES * FRAME_MS
    shown = [picture, decode((folder / "usual.jpg").read_bytes()), decode(base64.b64decode(live["jpeg"]))]
    clip = frames_of(folder / "clip.mp4")
    assert len(clip) == manifest["clip"]["frames"]
    for each in (*shown, *clip):  # no masked pixel: all that it could show is bright
        assert each[:, :40].max() < 40
        assert each[:, 60:].min() > 40


def test_what_was_not_done_is_done_after_a_restart(
    sent: tuple[KafkaSettings, Partition, dict[int, int]], redis_settings: RedisSettings, tmp_path: Path
) -> None:
    kafka, where, offsets = sent
    settings = settings_for(kafka, redis_settings, tmp_path, max_clip_s=1)
    folder = tmp_path / event_folder(EVENT_ID, BEGIN_MS + START * FRAME_MS)
    with make_redis(redis_settings) as client:
        with recording(settings):
            wait_for(lambda: client.exists(redis_settings.events_key), "consumer group")
            for field, value in (("event_id", "../../etc"), ("started_at_ms", 10**18), ("offset", 10**30), ("partition", -1)):
                client.xadd(redis_settings.events_key, {**entry("start", START, where, offsets), field: str(value)})
            client.xadd(redis_settings.events_key, entry("start", START, where, offsets))
            wait_for(lambda: read_manifest(folder), "picture")
        with suppress(FileNotFoundError):
            (folder / "picture.jpg").unlink()
        with recording(settings):  # the event never ends: its clip shows the first second
            wait_for(lambda: is_whole(folder), "clip")
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest["clip"]["frames"] == 30 + 10 + 20 + 1
    assert manifest["missing"] == {"heatmap.png": "the engine gave no heat map"}
    assert (folder / "picture.jpg").exists()


def stored_in(settings: Settings) -> dict[str, Any] | None:
    """What is stored of the event in a bucket."""
    found = EvidenceStore(settings.evidence).find(EVENT_ID)
    return None if found is None else found[1]


def status_of(port: int, path: str) -> tuple[int, str]:
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def sample(port: int, name: str) -> float:
    """A metric of the process; 0 if it has not been counted yet."""
    found = re.search(rf"^oddsight_{re.escape(name)} (\S+)$", status_of(port, "/metrics")[1], re.MULTILINE)
    return 0.0 if found is None else float(found[1])


def test_an_outage_of_a_bucket_costs_time_and_holds_up_nothing_else(
    sent: tuple[KafkaSettings, Partition, dict[int, int]], redis_settings: RedisSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    kafka, where, offsets = sent
    (port,) = free_ports(1)
    with object_store() as bucket, make_redis(redis_settings) as client:
        settings = settings_for(kafka, redis_settings, f"s3://{BUCKET}/gate", endpoint=bucket.endpoint, port=port)
        with recording(settings):
            wait_for(lambda: client.exists(redis_settings.events_key), "consumer group")
            wait_for(lambda: status_of(port, "/readyz") == (200, "ok\n"), "readiness")
            bucket.stop()
            ended = {"ended_at_ms": str(BEGIN_MS + END * FRAME_MS)}
            client.xadd(redis_settings.events_key, entry("start", START, where, offsets))
            client.xadd(redis_settings.events_key, entry("end", END + 20, where, offsets, **ended))
            mark = {"schema": "1", "event_id": EVENT_ID, "camera_id": "gate", "user": "ann", "at_ms": "1", "kind": "true"}
            client.xadd(redis_settings.marks_key, mark)
            wait_for(lambda: sample(port, "evidence_failures_total"), "failure")
            assert wait_for(lambda: (answer := status_of(port, "/readyz"))[0] == 503 and answer[1], "problem").startswith("s3://")
            assert status_of(port, "/livez")[0] == 200
            client.delete(redis_settings.picture_key("gate"))
            send_one(kafka, FRAMES)
            wait_for(lambda: client.exists(redis_settings.picture_key("gate")), "live picture")
            bucket.start()
            manifest = wait_for(lambda: (found := stored_in(settings)) and found["clip"] and found, "clip")
            feedback = EvidenceStore(settings.evidence).files
            wait_for(lambda: feedback.find(f"feedback/{EVENT_ID}.mp4"), "clip of the mark")
            wait_for(lambda: client.xpending(redis_settings.marks_key, "evidence")["pending"] == 0, "acknowledgement")
            assert sample(port, 'evidence_files_total{file="clip.mp4"}') == 1
            assert sample(port, "evidence_bytes_total") > 1000
    assert manifest["clip"]["frames"] == END + 20 - START + 30 + 1


def test_messages_are_read_again_from_any_offset(sent: tuple[KafkaSettings, Partition, dict[int, int]]) -> None:
    kafka, where, offsets = sent
    history = MessageHistory(kafka)
    try:
        assert where in history.partitions()
        assert history.bounds(where)[0] == 0
        assert [each.offset for each in history.read(where, 2 * FRAMES - 3)][:3] == [797, 798, 799]
        assert next(history.read(where, offsets[7])).key == b"gate"
    finally:
        history.close()


def test_the_entry_of_the_test_is_an_event() -> None:
    assert Event.model_validate(entry("start", START, Partition("frames", 0), {START: 1})).kind == "start"
