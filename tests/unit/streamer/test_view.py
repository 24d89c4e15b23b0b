"""The terminal view as an operator reads it."""

import io
from datetime import datetime

import pytest
from rich.console import Console

from streamer.event import Event
from streamer.redis.subscriber import ScoreEntry, Updates
from streamer.watch import Dashboard, event_line
from tests.harness.fakes import FakeClock

STARTED_AT_MS = 1_700_000_000_700


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(100.0)


@pytest.fixture
def board(clock: FakeClock) -> Dashboard:
    return Dashboard(clock)


def score(camera_id: str = "gate", value: float = 0.25, threshold: float = 0.5) -> ScoreEntry:
    return ScoreEntry(camera_id, STARTED_AT_MS, value, threshold, STARTED_AT_MS)


def event(kind: str = "start", camera_id: str = "gate", event_id: str = "e0", **changes: object) -> Event:
    content = {
        "event_id": event_id,
        "kind": kind,
        "camera_id": camera_id,
        "started_at_ms": STARTED_AT_MS,
        "captured_at_ms": STARTED_AT_MS,
        "score": 0.75,
        "peak_score": 0.875,
        "threshold": 0.5,
        "calibration_id": "c",
        "model_id": "m",
        "engine": "onnx",
        "region": "0,8,16,32",
        "topic": "frames",
        "partition": 0,
        "offset": 1,
        "scored_at_ms": STARTED_AT_MS,
    }
    return Event.model_validate(content | changes)


def shown(board: Dashboard) -> str:
    """The board as plain text."""
    console = Console(record=True, width=160, file=io.StringIO())
    console.print(board.render())
    return console.export_text()


def line_of(board: Dashboard, first_cell: str) -> list[str]:
    """The cells of the cameras' row that begins with this one."""
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in shown(board).splitlines() if line.startswith("│")]
    [cells] = [cells for cells in rows if cells[0] == first_cell]
    return cells


def test_an_empty_board_shows_its_headings_and_no_camera(board: Dashboard) -> None:
    text = shown(board)

    assert "score against threshold" in text
    assert "event_id" in text
    assert "│" not in text


def test_a_camera_shows_its_newest_score_against_its_threshold(board: Dashboard) -> None:
    board.update(Updates([score(value=0.9), score(value=0.25)], []))

    assert line_of(board, "gate") == ["gate", "█" * 10 + "·" * 10 + "┃" + "·" * 11, "0.250", "0.500", "0.7", "normal"]


@pytest.mark.parametrize(("value", "cells"), [(0.0, 0), (0.5, 20), (0.6, 23), (50.0, 31), (-3.0, 0)])
def test_the_bar_reaches_the_mark_when_the_score_reaches_the_threshold(board: Dashboard, value: float, cells: int) -> None:
    board.update(Updates([score(value=value)], []))

    bar = line_of(board, "gate")[1]
    assert (len(bar), bar[20], bar.count("█")) == (32, "┃", cells)


def test_a_camera_is_an_anomaly_from_start_to_end(board: Dashboard) -> None:
    states = []
    for kind in ("start", "update", "end"):
        board.update(Updates([score()], [event(kind)]))
        states.append(line_of(board, "gate")[-1])

    assert states == ["ANOMALY", "ANOMALY", "normal"]


def test_an_event_of_one_camera_leaves_the_others_normal(board: Dashboard) -> None:
    board.update(Updates([score("gate"), score("yard")], [event(camera_id="yard")]))

    assert (line_of(board, "gate")[-1], line_of(board, "yard")[-1]) == ("normal", "ANOMALY")


def test_an_event_read_before_its_cameras_first_score_is_not_forgotten(board: Dashboard) -> None:
    board.update(Updates([], [event()]))
    board.update(Updates([score()], []))

    assert line_of(board, "gate")[-1] == "ANOMALY"


def test_frames_a_second_are_those_of_the_last_three_seconds(board: Dashboard, clock: FakeClock) -> None:
    board.update(Updates([score("gate")] * 6, []))
    clock.now_s += 2
    board.update(Updates([score("gate")] * 3 + [score("yard")] * 3, []))
    assert [line_of(board, name)[4] for name in ("gate", "yard", "all")] == ["3.0", "1.0", "4.0"]

    clock.now_s += 2
    assert [line_of(board, name)[4] for name in ("gate", "yard", "all")] == ["1.0", "1.0", "2.0"]

    clock.now_s += 60
    assert line_of(board, "all")[4] == "0.0"


def test_cameras_are_listed_by_name(board: Dashboard) -> None:
    board.update(Updates([score("yard"), score("gate"), score("hall")], []))

    text = shown(board)
    assert text.index("gate") < text.index("hall") < text.index("yard")


def test_events_are_listed_in_order_and_only_the_newest(board: Dashboard) -> None:
    board.update(Updates([], [event(event_id=f"event-{number}") for number in range(10)]))

    listed = [line.split("│")[4].strip() for line in shown(board).splitlines() if "event-" in line]

    assert listed == [f"event-{number}" for number in range(2, 10)]


def test_an_events_line_says_when_where_and_how_far() -> None:
    captured = datetime.fromtimestamp(STARTED_AT_MS / 1000).astimezone().strftime("%H:%M:%S")

    assert event_line(event()).split("  ") == [f"{captured}.7", "gate", "start", "e0", "0.750", "0.875", "0,8,16,32"]
    assert event_line(event("end", score=None, region=None)).split("  ")[4:] == ["-", "0.875", "-"]


@pytest.mark.parametrize("camera_id", ["gate[/]", "[bold]gate", ":fire:"])
def test_a_cameras_name_is_shown_as_it_is(board: Dashboard, camera_id: str) -> None:
    board.update(Updates([score(camera_id)], [event(camera_id=camera_id)]))

    assert shown(board).count(camera_id) == 2
