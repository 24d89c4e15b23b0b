"""Evidence in a store that speaks S3, over TCP: limits, marks, what the dashboard sends, and outages of the store."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.errors import ConfigError
from streamer.evidence.feedback import FeedbackFolder
from streamer.evidence.store import EvidenceStore, open_files
from streamer.interfaces import StoreUnavailable
from streamer.storage import EvidenceSettings
from tests.harness.dashboard import DAY_MS, Dashboard, dashboard, event_of
from tests.harness.evidence import BUCKET, KEY, SECRET, ObjectStore, object_store
from tests.harness.fakes import FakeClock

EVENT_ID = f"{1:016x}"
ONE = f"/api/v1/events/{EVENT_ID}"
CLIP = bytes(range(256)) * 10_000
"""Larger than what is asked of the store at once."""
CLIP_ABOUT = {"from_ms": DAY_MS, "to_ms": DAY_MS + 5000, "frames": 51, "width_px": 64, "height_px": 48}
ABOUT = {
    "schema": 1,
    "camera_id": "gate",
    "started_at_ms": DAY_MS + 1000,
    "ended_at_ms": DAY_MS + 2000,
    "region": [1, 2, 3, 4],
    "width_px": 64,
}
DAY_S = 86_400


@pytest.fixture(scope="module")
def servers() -> Iterator[ObjectStore]:
    with object_store() as running:
        yield running


@pytest.fixture
def settings(servers: ObjectStore, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> EvidenceSettings:
    """A place of its own in the bucket."""
    for name, value in {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    return EvidenceSettings.model_validate({"dir": f"s3://{BUCKET}/{request.node.originalname}", "endpoint": servers.endpoint})


def fill(store: EvidenceStore, number: int = 1, clip: bytes = CLIP) -> None:
    """Store an event's evidence."""
    event_id, at_ms = f"{number:016x}", DAY_MS + number * 1000
    path = store.files.scratch("clip.mp4")
    path.write_bytes(clip)
    store.move(path, event_id, at_ms, "clip.mp4")
    assert not path.exists()
    store.write(event_id, at_ms, "picture.jpg", b"jpeg")
    store.write(event_id, at_ms, "evidence.json", json.dumps({**ABOUT, "clip": CLIP_ABOUT, "scores": [[1, 2, 3]]}).encode())


@pytest.fixture
def board(settings: EvidenceSettings) -> Iterator[Dashboard]:
    fill(EvidenceStore(settings))
    with dashboard(evidence=open_files(settings, timeout_s=5, retries=0)) as running:
        running.write(event_of(1), event_of(1, "end", ended_at_ms=DAY_MS + 4000))
        yield running


def test_the_oldest_evidence_is_deleted_and_nothing_else(settings: EvidenceSettings, servers: ObjectStore) -> None:
    limits = settings.model_copy(update={"keep_mb": 10, "keep_days": 2.0})
    store = EvidenceStore(limits, wall_clock_s=time.time)
    for day in range(4):
        store.write(f"{day:016x}", DAY_MS + day * DAY_S * 1000, "clip.mp4", bytes(4_000_000))
    store.files.write("feedback/marks.csv", b"video")
    assert store.sweep() == 2
    left = [file.name.split("/")[1] for day in store.files.days() for file in store.files.files(day)]
    assert left == [f"{2:016x}", f"{3:016x}"]
    assert EvidenceStore(limits, wall_clock_s=FakeClock(time.time() + 3 * DAY_S)).sweep() == 2
    assert store.files.days() == []
    assert store.files.read("feedback/marks.csv", 100) == b"video"


def test_the_clip_of_a_mark_is_kept_until_it_is_taken_back(settings: EvidenceSettings) -> None:
    store = EvidenceStore(settings)
    fill(store)
    feedback = FeedbackFolder(store)
    feedback.take({"event_id": EVENT_ID, "kind": "false"})
    assert store.files.read(f"feedback/{EVENT_ID}.mp4", len(CLIP)) == CLIP
    marks = store.files.read("feedback/marks.csv", 1000) or b""
    assert marks.splitlines()[1] == f"{EVENT_ID}.mp4,10,20,normal,1,2,3,4,gate".encode()
    feedback.take({"event_id": EVENT_ID, "kind": "unmark"})
    assert store.files.find(f"feedback/{EVENT_ID}.mp4") is None
    assert len((store.files.read("feedback/marks.csv", 1000) or b"").splitlines()) == 1


@pytest.mark.parametrize("damage", [{"started_at_ms": None}, {"clip": {}}, {"clip": [1]}, {"region": [1]}])
def test_a_mark_of_damaged_evidence_keeps_nothing(settings: EvidenceSettings, damage: dict[str, object]) -> None:
    store = EvidenceStore(settings)
    fill(store)
    store.write(EVENT_ID, DAY_MS + 1000, "evidence.json", json.dumps({**ABOUT, "clip": CLIP_ABOUT, **damage}).encode())
    FeedbackFolder(store).take({"event_id": EVENT_ID, "kind": "false"})
    assert store.files.find(f"feedback/{EVENT_ID}.mp4") is None


@pytest.mark.parametrize("kind", ["false", "unmark"])
@pytest.mark.parametrize("event_id", ["../victim", "..%2fvictim", "", "0" * 17])
def test_a_mark_names_no_other_file(settings: EvidenceSettings, tmp_path: Path, event_id: str, kind: str) -> None:
    (tmp_path / "victim.mp4").write_bytes(b"mine")
    for where in (settings, EvidenceSettings(dir=tmp_path / "evidence")):
        store = EvidenceStore(where)
        store.files.write("victim.mp4", b"mine")
        FeedbackFolder(store).take({"event_id": event_id, "kind": kind})
        assert store.files.read("victim.mp4", 10) == b"mine"
    assert (tmp_path / "victim.mp4").exists()


def test_the_dashboard_sends_evidence_and_parts_of_it(board: Dashboard) -> None:
    (listed,) = board.client.get("/api/v1/events").json()["events"]
    assert set(listed["evidence"]["files"]) == {"clip.mp4", "picture.jpg"}
    item = board.client.get(ONE).json()
    assert (item["evidence"]["region"], item["evidence"]["scores"]) == ([1, 2, 3, 4], [[1, 2, 3]])
    picture = board.client.get(f"{ONE}/evidence/picture.jpg")
    assert (picture.content, picture.headers["content-type"]) == (b"jpeg", "image/jpeg")
    whole = board.client.get(f"{ONE}/evidence/clip.mp4")
    assert (whole.status_code, whole.headers["accept-ranges"], whole.content) == (200, "bytes", CLIP)
    begin = board.client.get(f"{ONE}/evidence/clip.mp4", headers={"Range": "bytes=0-"})
    assert (begin.status_code, begin.content) == (206, CLIP)
    headers = {"Range": "bytes=2000000-2000009", "If-Range": whole.headers["etag"]}
    part = board.client.get(f"{ONE}/evidence/clip.mp4", headers=headers)
    assert (part.status_code, part.content) == (206, CLIP[2_000_000:2_000_010])
    assert part.headers["content-range"] == f"bytes 2000000-2000009/{len(CLIP)}"
    changed = board.client.get(f"{ONE}/evidence/clip.mp4", headers={"Range": "bytes=0-9", "If-Range": '"another"'})
    assert (changed.status_code, len(changed.content)) == (200, len(CLIP))
    assert board.client.get(f"{ONE}/evidence/clip.mp4", headers={"Range": f"bytes={len(CLIP)}-"}).status_code == 416


@pytest.mark.parametrize(
    "path", ["evidence.json", "usual.jpg", "..%2f..%2fvictim", "../../victim", "%2e%2e/%2e%2e/victim", "picture.jpg%00"]
)
def test_nothing_else_is_sent(board: Dashboard, path: str) -> None:
    assert board.client.get(f"{ONE}/evidence/{path}").status_code in {404, 422}


def test_the_dashboard_goes_on_while_the_store_is_away(board: Dashboard, servers: ObjectStore) -> None:
    servers.stop()
    try:
        began_s = time.monotonic()
        (listed,) = board.client.get("/api/v1/events").json()["events"]
        assert listed["evidence"]["files"] == {}
        assert listed["evidence"]["missing"]["clip.mp4"] == "the store of evidence does not answer at the moment"
        answer = board.client.get(f"{ONE}/evidence/clip.mp4")
        assert (answer.status_code, answer.json()["next"]) == (503, "try again once the store of evidence answers")
        for kind, status in (("normal", 503), ("acknowledge", 201)):  # what would be made quiet is not known
            assert board.client.post(f"{ONE}/marks", json={"kind": kind}, headers=board.csrf()).status_code == status
        said = board.client.get("/api/v1/system").json()["dashboard"]
        assert said["evidence_failures"] >= 3
        assert f"s3://{BUCKET}" in said["evidence_problem"]
        assert time.monotonic() - began_s < 5
    finally:
        servers.start()
    reader = board.parts.evidence
    reader.files._rests_until_s = 0.0  # type: ignore[union-attr]  # else it is asked again after five seconds
    assert board.client.get(f"{ONE}/evidence/clip.mp4").content == CLIP
    assert board.client.get(ONE).json()["evidence"]["missing"] == {}
    assert board.client.get("/api/v1/system").json()["dashboard"]["evidence_problem"] is None


def test_a_clip_that_breaks_off_is_counted(board: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = board.parts.evidence

    def away(*_: object) -> bytes:
        raise StoreUnavailable("away")

    monkeypatch.setattr(reader.files, "read_part", away)
    with pytest.raises((RuntimeError, StoreUnavailable)):  # the server breaks the connection off
        board.client.get(f"{ONE}/evidence/clip.mp4")
    assert (reader.failures, reader.problem) == (1, "away")


def test_a_store_that_is_away_is_not_asked_by_everybody(settings: EvidenceSettings) -> None:
    nowhere = settings.model_copy(update={"endpoint": "http://127.0.0.1:9"})
    store = EvidenceStore(nowhere)  # it may be started later
    began_s = time.monotonic()
    for _ in range(100):
        with pytest.raises(StoreUnavailable, match=rf"{BUCKET}.*: HTTP error"):
            store.write(EVENT_ID, DAY_MS, "picture.jpg", b"")
    assert time.monotonic() - began_s < 2


def test_a_bucket_that_is_none_is_told_at_start(settings: EvidenceSettings) -> None:
    with pytest.raises(ConfigError, match=r"evidence\.dir: s3://another/place: .*404 Not Found") as refused:
        EvidenceStore(settings.model_copy(update={"dir": "s3://another/place"}))
    assert SECRET not in str(refused.getrepr(style="long"))
