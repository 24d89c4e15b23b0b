"""Masks and zones that operators draw: what is taken, what is in force then, and who may."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streamer.areas import MAX_AREAS, CameraAreas, Zone
from streamer.config import CameraSettings
from streamer.dashboard.users import add_user
from streamer.redis.overview import Picture
from tests.harness.dashboard import Dashboard, dashboard, score_of, wait_for

LEFT = [[0.0, 0.0], [0.5, 0.0], [0.5, 1.0], [0.0, 1.0]]
RIGHT = [[0.5, 0.0], [1.0, 0.0], [1.0, 1.0]]
PASSWORD = "correct horse battery"


@pytest.fixture
def board() -> Iterator[Dashboard]:
    with dashboard() as running:
        with_camera(running)
        yield running


def with_camera(board: Dashboard) -> None:
    board.write(scores=[score_of("gate", 1)])
    wait_for(lambda: "gate" in board.parts.live.board.camera_ids)


def put(board: Dashboard, kind: str, **fields: Any) -> Any:
    return board.client.put(f"/api/v1/camera/{kind}", json={"camera_id": "gate", **fields}, headers=board.csrf())


def remove(board: Dashboard, kind: str, **which: str) -> Any:
    return board.client.delete(f"/api/v1/camera/{kind}", params={"camera_id": "gate", **which}, headers=board.csrf())


def test_a_mask_is_in_force_until_it_is_removed(board: Dashboard) -> None:
    (mask,) = put(board, "mask", polygon=LEFT).json()["masks"]
    assert (mask["polygon"], mask["in_settings"]) == (LEFT, False)
    assert len(put(board, "mask", polygon=LEFT).json()["masks"]) == 1
    assert len(put(board, "mask", polygon=RIGHT).json()["masks"]) == 2
    left = remove(board, "mask", mask_id=mask["mask_id"]).json()["masks"]
    assert [each["polygon"] for each in left] == [RIGHT]
    assert remove(board, "mask", mask_id=mask["mask_id"]).status_code == 404
    assert [(entry.action, entry.target) for entry in board.redis.trail][-2:] == [("remove mask", "gate")] * 2


def test_a_picture_that_shows_what_was_just_masked_is_no_longer_sent(board: Dashboard) -> None:
    board.redis.pictures["gate"] = Picture(5, b"jpeg")
    put(board, "zone", name="till", polygon=LEFT)
    assert board.client.get("/api/v1/camera/picture", params={"camera_id": "gate"}).status_code == 200
    put(board, "mask", polygon=LEFT)
    assert board.client.get("/api/v1/camera/picture", params={"camera_id": "gate"}).status_code == 404


def test_a_zone_replaces_the_one_of_its_name(board: Dashboard) -> None:
    put(board, "zone", name="till", polygon=LEFT)
    (zone,) = put(board, "zone", name=" till ", polygon=RIGHT, false_events_per_camera_day=10).json()["zones"]
    assert (zone["name"], zone["polygon"], zone["false_events_per_camera_day"]) == ("till", RIGHT, 10)
    assert board.redis.areas["gate"].zones[0].false_events_per_camera_day == 10
    assert remove(board, "zone", name="till").json()["zones"] == []
    assert remove(board, "zone", name="till").status_code == 404
    assert {entry.target for entry in board.redis.trail} == {"gate: till"}


def test_what_the_settings_say_is_shown_and_stays(board: Dashboard) -> None:
    zone = Zone(name="till", polygon=((0, 0), (1, 0), (1, 1)))
    own = CameraSettings(masks=(((0, 0), (1, 0), (1, 1)),), zones=(zone,))
    settings = board.parts.settings.model_copy(update={"cameras": {"gate": own}})
    board.client.app.state.parts = replace(board.parts, settings=settings)  # type: ignore[attr-defined]  # it is a FastAPI
    areas = board.client.get("/api/v1/camera/areas", params={"camera_id": "gate"}).json()
    assert [areas["masks"][0]["in_settings"], areas["zones"][0]["in_settings"]] == [True, True]
    assert remove(board, "mask", mask_id=areas["masks"][0]["mask_id"]).status_code == 404
    assert remove(board, "zone", name="till").status_code == 404
    assert [each["in_settings"] for each in put(board, "zone", name="till", polygon=LEFT).json()["zones"]] == [False]
    assert [each["in_settings"] for each in remove(board, "zone", name="till").json()["zones"]] == [True]


@pytest.mark.parametrize(
    "polygon",
    [
        LEFT[:2],
        [[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]],
        [[0, 0], [0.01, 0], [0.01, 0.01]],
        [[0, 0], [1.1, 0], [1, 1]],
        LEFT * 26,
        [[0, 0, 0], [1, 0, 0], [1, 1, 0]],
        [["a", 0], [1, 0], [1, 1]],
    ],
    ids=["two corners", "a line", "tiny", "outside", "too many corners", "in space", "no number"],
)
def test_odd_polygons_are_refused(board: Dashboard, polygon: Any) -> None:
    for kind in ("mask", "zone"):
        answer = put(board, kind, name="till", polygon=polygon)
        assert (answer.status_code, set(answer.json())) == (422, {"error", "next"})
    assert board.redis.areas == {}


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "  "},
        {"name": "a,b"},
        {"name": "a\nb"},
        {"name": "x" * 65},
        {"name": "till", "false_events_per_camera_day": 0},
        {"name": "till", "false_events_per_camera_day": 1e9},
        {"name": "till", "colour": "red"},
        {"name": "till", "camera_id": "\n"},
    ],
)
def test_odd_zones_are_refused(board: Dashboard, fields: dict[str, Any]) -> None:
    assert put(board, "zone", polygon=LEFT, **{"camera_id": "gate", **fields}).status_code == 422


def test_cameras_that_do_not_exist_get_none(board: Dashboard) -> None:
    answer = board.client.put("/api/v1/camera/mask", json={"camera_id": "x", "polygon": LEFT}, headers=board.csrf())
    assert answer.status_code == 404
    assert board.redis.areas == {}


def test_more_than_may_be_are_refused_with_what_to_do(board: Dashboard) -> None:
    polygon = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))
    board.redis.areas["gate"] = CameraAreas(zones=tuple(Zone(name=str(each), polygon=polygon) for each in range(MAX_AREAS)))
    answer = put(board, "zone", name="till", polygon=LEFT)
    assert (answer.status_code, answer.json()["next"]) == (409, "remove one that is no longer needed")
    assert put(board, "zone", name="1", polygon=LEFT).status_code == 200


def test_viewers_draw_nothing_and_operators_remove_no_mask(tmp_path: Path) -> None:
    for name, role in (("vic", "viewer"), ("olga", "operator")):
        add_user(tmp_path / "users.json", name, role, PASSWORD)  # type: ignore[arg-type]  # one of the roles
    with dashboard(tmp_path / "users.json") as board:
        with_camera(board)
        board.log_in("vic", PASSWORD)
        assert {put(board, kind, name="till", polygon=LEFT).status_code for kind in ("mask", "zone")} == {403}
        assert remove(board, "zone", name="till").status_code == 403
        board.log_in("olga", PASSWORD)
        put(board, "zone", name="till", polygon=LEFT)
        (mask,) = put(board, "mask", polygon=LEFT).json()["masks"]
        assert remove(board, "mask", mask_id=mask["mask_id"]).status_code == 403
        assert remove(board, "zone", name="till").status_code == 200
        assert len(board.redis.areas["gate"].masks) == 1
        assert [entry.action for entry in board.redis.trail if entry.outcome == "refused"][-1] == "DELETE /api/v1/camera/mask"
