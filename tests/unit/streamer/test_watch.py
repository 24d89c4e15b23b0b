"""The terminal dashboard as an operator reads it."""

import io
import threading
from datetime import datetime
from typing import ClassVar

import pytest
from rich.console import Console

from streamer.interfaces import RedisUnavailable
from streamer.redis.subscriber import HealthEntry, ScoreEntry, Updates
from streamer.types import Event
from streamer.watch import Dashboard, event_cells, follow, still_open
from tests.harness.fakes import FakeClock

STARTED_AT_MS = 1_700_000_000_700


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(100.0)


@pytest.fixture
def dashboard(clock: FakeClock) -> Dashboard:
    return Dashboard(clock, lambda: STARTED_AT_MS / 1000 + clock() - 100)


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
        "budget": 1.0,
        "observed_s": 600.0,
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


def shown(dashboard: Dashboard) -> str:
    """The dashboard as plain text."""
    console = Console(record=True, width=160, file=io.StringIO())
    console.print(dashboard.render())
    return console.export_text()


def line_of(dashboard: Dashboard, first_cell: str) -> list[str]:
    """The cells of the camera table's row that starts with this cell."""
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in shown(dashboard).splitlines() if line.startswith("│")
    ]
    [cells] = [cells for cells in rows if cells[0] == first_cell]
    return cells


def test_empty_dashboard(dashboard: Dashboard) -> None:
    text = shown(dashboard)

    assert "score against threshold" in text
    assert "event_id" in text
    assert "│" not in text


def test_shows_newest_score(dashboard: Dashboard) -> None:
    dashboard.update(Updates([score(value=0.9), score(value=0.25)], []))

    assert line_of(dashboard, "gate") == ["gate", "█" * 10 + "·" * 10 + "┃" + "·" * 11, "0.250", "0.500", "0.7", "normal"]


@pytest.mark.parametrize(("value", "cells"), [(0.0, 0), (0.5, 20), (0.6, 23), (50.0, 31), (-3.0, 0)])
def test_bar_reaches_mark_at_threshold(dashboard: Dashboard, value: float, cells: int) -> None:
    dashboard.update(Updates([score(value=value)], []))

    bar = line_of(dashboard, "gate")[1]
    assert (len(bar), bar[20], bar.count("█")) == (32, "┃", cells)


def test_anomaly_from_start_to_end(dashboard: Dashboard) -> None:
    states = []
    for kind in ("start", "update", "end"):
        dashboard.update(Updates([score()], [event(kind)]))
        states.append(line_of(dashboard, "gate")[-1])

    assert states == ["ANOMALY", "ANOMALY", "normal"]


@pytest.mark.parametrize(("left_s", "left"), [(14.4, "14 s left"), (0.0, "until certain")])
def test_learning_instead_of_score(dashboard: Dashboard, left_s: float, left: str) -> None:
    dashboard.update(Updates([score()._replace(learning=0.4, learning_left_s=left_s)], []))
    assert line_of(dashboard, "gate") == ["gate", f"learning 40%, {left}", "-", "-", "0.3", "learning"]

    dashboard.update(Updates([score()], []))
    assert line_of(dashboard, "gate")[-1] == "normal"


def test_problem_with_a_camera_until_it_is_over(dashboard: Dashboard) -> None:
    for kind, state in (("start", "covered"), ("end", "normal")):
        dashboard.update(Updates([score()], [], [HealthEntry("gate", kind, "covered", "nothing can be seen", 5)]))
        assert line_of(dashboard, "gate")[-1] == state


def test_a_camera_without_scores_is_not_normal(dashboard: Dashboard, clock: FakeClock) -> None:
    dashboard.update(Updates([score()], []))
    clock.now_s += 42
    assert line_of(dashboard, "gate")[-1] == "no score for 42 s"
    dashboard.update(Updates([score()], []))
    assert line_of(dashboard, "gate")[-1] == "normal"


def test_begins_with_what_is_going_on(dashboard: Dashboard, clock: FakeClock) -> None:
    clock.now_s += 60
    offline = HealthEntry("yard", "start", "offline", "no frame", 5)
    ended = [HealthEntry("hall", kind, "covered", "nothing can be seen", 5) for kind in ("start", "end")]
    now_ms = STARTED_AT_MS + 60_000
    scores = [score("gate")._replace(scored_at_ms=now_ms), score("hall")._replace(scored_at_ms=now_ms), score("lane")]
    events = [event("start"), event("update"), event("start", "hall", "e1"), event("end", "hall", "e1")]
    recent = Updates(scores, events, [offline, *ended])
    dashboard.recall(recent)
    states = {name: line_of(dashboard, name)[-1] for name in ("gate", "hall", "lane", "yard")}
    assert states == {"gate": "ANOMALY", "hall": "normal", "lane": "no score for 60 s", "yard": "offline"}
    assert line_of(dashboard, "all")[4] == "0.0"
    assert still_open(recent) == Updates([], [event("update")], [offline])


def test_waits_for_a_redis_that_went_away(dashboard: Dashboard, clock: FakeClock) -> None:
    class Flaky:
        answers: ClassVar[list[Updates | None]] = [None, None, Updates([score()], [])]

        def poll(self, _wait_s: float) -> Updates:
            answer = self.answers.pop(0)
            if not self.answers:
                stop.set()
            if answer is None:
                raise RedisUnavailable("nothing listens there")
            return answer

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            return self.is_set()

    console, stop, shows = Console(record=True, width=160, file=io.StringIO()), Stop(), list[Updates]()
    follow(Flaky(), dashboard, shows.append, console, stop)
    assert console.export_text().splitlines() == [
        "Redis does not answer, trying again: nothing listens there",
        "Redis answers again",
    ]
    assert shows == [Updates([], []), Updates([], []), Updates([score()], [])]
    assert line_of(dashboard, "gate")[-1] == "normal"


def test_event_marks_its_camera_only(dashboard: Dashboard) -> None:
    dashboard.update(Updates([score("gate"), score("yard")], [event(camera_id="yard")]))

    assert (line_of(dashboard, "gate")[-1], line_of(dashboard, "yard")[-1]) == ("normal", "ANOMALY")


def test_event_before_first_score(dashboard: Dashboard) -> None:
    dashboard.update(Updates([], [event()]))
    dashboard.update(Updates([score()], []))

    assert line_of(dashboard, "gate")[-1] == "ANOMALY"


def test_frame_rate_over_three_seconds(dashboard: Dashboard, clock: FakeClock) -> None:
    dashboard.update(Updates([score("gate")] * 6, []))
    clock.now_s += 2
    dashboard.update(Updates([score("gate")] * 3 + [score("yard")] * 3, []))
    assert [line_of(dashboard, name)[4] for name in ("gate", "yard", "all")] == ["3.0", "1.0", "4.0"]

    clock.now_s += 2
    assert [line_of(dashboard, name)[4] for name in ("gate", "yard", "all")] == ["1.0", "1.0", "2.0"]

    clock.now_s += 60
    assert line_of(dashboard, "all")[4] == "0.0"


def test_cameras_sorted_by_name(dashboard: Dashboard) -> None:
    dashboard.update(Updates([score("yard"), score("gate"), score("hall")], []))

    text = shown(dashboard)
    assert text.index("gate") < text.index("hall") < text.index("yard")


def test_lists_newest_events_in_order(dashboard: Dashboard) -> None:
    dashboard.update(Updates([], [event(event_id=f"event-{number}") for number in range(10)]))

    listed = [line.split("│")[4].strip() for line in shown(dashboard).splitlines() if "event-" in line]

    assert listed == [f"event-{number}" for number in range(2, 10)]


def test_event_cells() -> None:
    captured = datetime.fromtimestamp(STARTED_AT_MS / 1000).astimezone().strftime("%H:%M:%S")

    assert event_cells(event()) == (f"{captured}.7", "gate", "start", "e0", "0.750", "0.875", "0,8,16,32", "-")
    assert event_cells(event(channel="speed", text="moves faster"))[-1] == "moves faster"
    assert event_cells(event("end", score=None, region=None))[4:] == ("-", "0.875", "-", "-")


@pytest.mark.parametrize("camera_id", ["gate[/]", "[bold]gate", ":fire:"])
def test_camera_id_is_not_markup(dashboard: Dashboard, camera_id: str) -> None:
    dashboard.update(Updates([score(camera_id)], [event(camera_id=camera_id)]))

    assert shown(dashboard).count(camera_id) == 2
