"""The API: the list of events, evidence, marks, scores, limits of requests, and how errors are answered."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.areas import CameraAreas, Quieted
from streamer.dashboard.problems import RequestRefused
from streamer.dashboard.sending import byte_range
from streamer.evidence.folder import FolderFiles
from streamer.redis.minutes import MinuteEntry
from streamer.redis.overview import Picture
from streamer.redis.subscriber import Updates
from tests.harness.dashboard import DAY_MS, Dashboard, dashboard, event_of, score_of, wait_for

EVENT_ID = f"{1:016x}"
ONE = f"/api/v1/events/{EVENT_ID}"
HOSTILE = "<script>alert(1)</script>/../x"


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Dashboard]:
    folder = tmp_path / "evidence" / "2025-11-29" / EVENT_ID
    folder.mkdir(parents=True)
    (folder / "picture.jpg").write_bytes(b"jpeg")
    (folder / "clip.mp4").write_bytes(bytes(range(100)))
    description = {
        "width_px": 100,
        "height_px": 50,
        "region": [1, 2, 3, 4],
        "missing": {"usual.jpg": "no reference"},
        "schema": 1,
    }
    (folder / "evidence.json").write_text(json.dumps({**description, "scores": [[DAY_MS, 0.3, 0.5]]}))
    (tmp_path / "secret").write_text("secret")
    with dashboard(evidence=FolderFiles(tmp_path / "evidence")) as running:
        running.write(event_of(1), event_of(1, "end", ended_at_ms=DAY_MS + 4000))
        yield running


def test_the_list_goes_on_where_the_part_before_ended(board: Dashboard) -> None:
    board.write(*(event_of(number, "end") for number in range(2, 12)))
    seen: list[int] = []
    cursor = None
    while True:
        page = board.client.get("/api/v1/events", params={"limit": 4, **({"cursor": cursor} if cursor else {})}).json()
        assert page["total"] == (None if cursor else 11)
        seen += [int(item["event"]["event_id"], 16) for item in page["events"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == list(range(11, 0, -1))


def test_ten_thousand_events_are_listed_within_a_second(board: Dashboard) -> None:
    board.redis.updates.put(Updates([], [event_of(number, "end") for number in range(2, 10_002)]))
    wait_for(lambda: len(board.parts.live.board.events) == 10_001, 20)
    started_s = time.monotonic()
    page = board.client.get("/api/v1/events", params={"camera_id": "gate", "open": "false"}).json()
    assert time.monotonic() - started_s < 1.0
    assert page["total"] == 10_001


def test_evidence_is_told_with_the_event_and_its_files_are_sent(board: Dashboard) -> None:
    item = board.client.get(ONE).json()
    assert item["evidence"]["region"] == [1, 2, 3, 4]
    assert set(item["evidence"]["files"]) == {"picture.jpg", "clip.mp4"}
    assert item["evidence"]["missing"] == {"usual.jpg": "no reference"}
    assert item["evidence"]["scores"] == [[DAY_MS, 0.3, 0.5]]
    picture = board.client.get(f"{ONE}/evidence/picture.jpg")
    assert (picture.content, picture.headers["content-type"]) == (b"jpeg", "image/jpeg")
    (listed,) = board.client.get("/api/v1/events").json()["events"]
    assert listed["evidence"]["scores"] == []


def test_a_part_of_a_clip_is_sent(board: Dashboard) -> None:
    answer = board.client.get(f"{ONE}/evidence/clip.mp4", headers={"Range": "bytes=10-19"})
    assert (answer.status_code, answer.content, answer.headers["content-range"]) == (206, bytes(range(10, 20)), "bytes 10-19/100")


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-", (0, 100)),
        ("bytes=10-19", (10, 20)),
        ("bytes=90-500", (90, 100)),
        ("bytes=-30", (70, 100)),
        ("bytes=-500", (0, 100)),
        ("bytes=0-1,5-6", None),
        ("bytes=-", None),
        ("lines=1-2", None),
        ("", None),
    ],
)
def test_what_the_header_range_asks_for(header: str, part: tuple[int, int] | None) -> None:
    assert byte_range(header, 100) == part


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=20-10", "bytes=-0"])
def test_a_part_that_is_not_there_is_refused(header: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        byte_range(header, 100)
    assert (refused.value.status, refused.value.headers) == (416, {"Content-Range": "bytes */100"})


@pytest.mark.parametrize(
    "path",
    [
        f"{ONE}/evidence/evidence.json",
        f"{ONE}/evidence/..%2f..%2f..%2fsecret",
        f"{ONE}/evidence/../../../secret",
        f"{ONE}/evidence/..%252f..%252fsecret",
        f"{ONE}/evidence/%2fetc%2fpasswd",
        f"{ONE}/evidence/picture.jpg%00",
        f"{ONE}%2f..%2f..%2fsecret/evidence/picture.jpg",
        f"{ONE}/evidence/usual.jpg",
        "/api/v1/events/..%2f..%2fsecret/evidence/picture.jpg",
        "/api/v1/events/0123456789ABCDEF/evidence/picture.jpg",
        "/api/v1/events/0123456789abcdef0/evidence/picture.jpg",
        "/api/v1/events/fedcba9876543210/evidence/picture.jpg",
        "/static/../server.py",
        "/static/..%2fserver.py",
    ],
)
def test_nothing_else_is_sent(board: Dashboard, path: str) -> None:
    answer = board.client.get(path)
    assert answer.status_code in {404, 422}, path
    assert set(answer.json()) == {"error", "next"}


def test_links_among_evidence_are_not_followed(board: Dashboard, tmp_path: Path) -> None:
    (tmp_path / "evidence" / "2025-11-29" / EVENT_ID / "usual.jpg").symlink_to(tmp_path / "secret")
    assert "usual.jpg" not in board.client.get(ONE).json()["evidence"]["files"]
    assert board.client.get(f"{ONE}/evidence/usual.jpg").status_code == 404


def test_damaged_evidence_is_no_evidence(board: Dashboard, tmp_path: Path) -> None:
    (tmp_path / "evidence" / "2025-11-29" / EVENT_ID / "evidence.json").write_text("{")
    item = board.client.get(ONE).json()
    assert item["evidence"]["region"] is None
    assert "picture.jpg" in item["evidence"]["files"]


def test_a_mark_counts_in_the_answer_and_for_everybody(board: Dashboard) -> None:
    answer = board.client.post(f"{ONE}/marks", json={"kind": "acknowledge"}, headers=board.csrf())
    assert answer.status_code == 201
    assert answer.json()["acknowledged"]["user"] == "local"
    assert board.client.get(ONE).json()["event"]["acknowledged"]["user"] == "local"
    board.client.post(f"{ONE}/marks", json={"kind": "comment", "text": "  a dog "}, headers=board.csrf())
    assert [entry.text for entry in board.redis.marks] == [None, "a dog"]
    assert [(entry.action, entry.target, entry.outcome) for entry in board.redis.trail] == [
        ("acknowledge", EVENT_ID, "ok"),
        ("comment", EVENT_ID, "ok"),
    ]


@pytest.mark.parametrize(
    "body", [{"kind": "comment"}, {"kind": "true", "text": "x"}, {"kind": "love"}, {"kind": "comment", "text": "x" * 1001}]
)
def test_odd_marks_are_refused(board: Dashboard, body: dict[str, str]) -> None:
    assert board.client.post(f"{ONE}/marks", json=body, headers=board.csrf()).status_code == 422
    assert board.redis.marks == []


def test_what_is_called_normal_is_quiet_until_it_is_judged_otherwise(board: Dashboard) -> None:
    board.client.post(f"{ONE}/marks", json={"kind": "normal"}, headers=board.csrf())
    (quiet,) = board.redis.areas["gate"].quiet
    assert (quiet.event_id, quiet.user, quiet.channel) == (EVENT_ID, "local", None)
    assert quiet.box == pytest.approx((0.01, 0.04, 0.03, 0.08))
    assert quiet.up_to == pytest.approx(0.55)
    item = board.client.get(ONE).json()
    assert (item["quiet"]["event_id"], item["quieted"]) == (EVENT_ID, {"events": 0, "began_ms": []})
    board.redis.quieted_events = {EVENT_ID: Quieted(events=7, began_ms=(9, 8)), "0" * 16: Quieted(events=1)}
    assert board.client.get(ONE).json()["quieted"] == {"events": 7, "began_ms": [9, 8]}
    board.client.post(f"{ONE}/marks", json={"kind": "acknowledge"}, headers=board.csrf())
    assert len(board.redis.areas["gate"].quiet) == 1
    board.client.post(f"{ONE}/marks", json={"kind": "true"}, headers=board.csrf())
    assert board.redis.areas["gate"].quiet == ()
    item = board.client.get(ONE).json()
    assert (item["quiet"], item["quieted"]) == (None, None)


def test_an_event_says_whether_its_clip_is_kept_for_training(board: Dashboard) -> None:
    board.client.post(f"{ONE}/marks", json={"kind": "false"}, headers=board.csrf())
    assert board.client.get(ONE).json()["kept"] is False
    assert board.parts.evidence.files is not None
    board.parts.evidence.files.write(f"feedback/{EVENT_ID}.mp4", b"clip")
    assert board.client.get(ONE).json()["kept"] is True
    board.client.post(f"{ONE}/marks", json={"kind": "unmark"}, headers=board.csrf())
    assert board.client.get(ONE).json()["kept"] is False


def test_an_event_without_a_place_is_marked_and_nothing_is_quiet(board: Dashboard) -> None:
    board.write(event_of(2, "end"))
    answer = board.client.post(f"/api/v1/events/{2:016x}/marks", json={"kind": "normal"}, headers=board.csrf())
    assert answer.json()["verdict"]["kind"] == "normal"
    assert board.redis.areas == {}


def test_too_much_that_is_normal_is_refused_with_what_to_do(board: Dashboard) -> None:
    board.client.post(f"{ONE}/marks", json={"kind": "normal"}, headers=board.csrf())
    (quiet,) = board.redis.areas["gate"].quiet
    others = tuple(quiet.model_copy(update={"event_id": f"{number:016x}"}) for number in range(100, 150))
    board.redis.areas["gate"] = CameraAreas(quiet=others)
    answer = board.client.post(f"{ONE}/marks", json={"kind": "normal"}, headers=board.csrf())
    assert answer.status_code == 409
    assert "take some of what was called normal back" in answer.json()["next"]


@pytest.mark.parametrize("path", [f"{ONE}/marks", "/api/v1/login", "/api/v1/camera/actions", "/nowhere"])
def test_large_bodies_are_refused_unread(board: Dashboard, path: str) -> None:
    answer = board.client.post(path, content=b"x" * 20_000, headers=board.csrf())
    assert (answer.status_code, "16384" in answer.json()["next"]) == (413, True)
    assert board.client.post(path, content=iter([b"x"] * 3), headers=board.csrf()).status_code == 411


def test_a_method_that_is_not_known_is_answered_with_those_that_are(board: Dashboard) -> None:
    answer = board.client.patch("/api/v1/camera/mask")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, PUT")


def test_a_place_in_the_list_is_one_that_was_told(board: Dashboard) -> None:
    assert board.client.get("/api/v1/events", params={"cursor": "1-x y"}).status_code == 422


def test_a_timeline_has_minutes_before_the_single_scores(board: Dashboard) -> None:
    at_ms = [DAY_MS + number * 60_000 for number in range(-5, 10)]
    board.redis.minute_entries = [MinuteEntry(each, 600, 0.2, 0.4, each + 1, 0.5) for each in at_ms]
    asked = {"camera_id": "gate", "from_ms": at_ms[1], "to_ms": DAY_MS + 60_000}
    found = board.client.get("/api/v1/camera/timeline", params=asked).json()
    assert [part[0] for part in found["parts"]] == at_ms[1:5]
    assert (found["part_ms"], found["minutes_since_ms"], found["points"][0][0]) == (60_000, at_ms[0], DAY_MS)
    board.redis.minute_entries = []
    found = board.client.get("/api/v1/camera/timeline", params={"camera_id": "gate"}).json()
    assert (found["parts"], found["minutes_since_ms"]) == ([], None)
    assert board.client.get("/api/v1/camera/timeline", params={**asked, "from_ms": -1}).status_code == 422


def test_a_camera_with_any_name_has_a_picture_and_scores(board: Dashboard) -> None:
    board.redis.pictures[HOSTILE] = Picture(5, b"jpeg")
    board.write(scores=[score_of(HOSTILE, 1)])
    wait_for(lambda: HOSTILE in board.parts.live.board.camera_ids)
    assert board.client.get("/api/v1/camera", params={"camera_id": HOSTILE}).json()["newest"]["score"] == 0.25
    picture = board.client.get("/api/v1/camera/picture", params={"camera_id": HOSTILE})
    assert (picture.content, picture.headers["x-captured-at-ms"]) == (b"jpeg", "5")
    assert picture.headers["x-content-type-options"] == "nosniff"
    assert len(board.client.get("/api/v1/camera/scores", params={"camera_id": HOSTILE}).json()["points"]) <= 2_000


def test_without_redis_errors_say_so_and_what_is_known_stays(board: Dashboard) -> None:
    board.redis.is_away = True
    wait_for(lambda: not board.parts.live.link.reachable)
    answer = board.client.post(f"{ONE}/marks", json={"kind": "true"}, headers=board.csrf())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json() == {"error": "Redis: nothing listens there", "next": "try again once Redis answers"}
    assert board.client.get(ONE).status_code == 200
    board.redis.is_away = False
    wait_for(lambda: board.parts.live.link.reachable)


def test_every_answer_forbids_what_a_page_need_not_do(board: Dashboard) -> None:
    for path in ("/", "/static/app.js", "/api/v1/me", "/nowhere"):
        policy = board.client.get(path).headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy


def test_the_api_is_documented(board: Dashboard) -> None:
    document = board.client.get("/api/v1/openapi.json").json()
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert len(operations) > 12
    assert all(operation["description"] for operation in operations)
    assert board.client.get("/docs").status_code == 404
