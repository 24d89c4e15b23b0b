"""Decisions, event entries, and the region of an event."""

import base64
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from deploy.errors import ConfigError
from deploy.health import HealthState
from deploy.profile import Profile
from streamer.config import Settings
from streamer.interfaces import CameraState
from streamer.pipeline.decide import Decider, Decision, hot_region
from streamer.types import FrameInfo, LearningProgress, Outcome, Partition
from tests.harness.fakes import FakeClock
from tests.harness.pipeline import BUNDLE, profile_of

P3 = Partition("frames", 3)
AT_ONCE = {"min_duration_s": 0.0, "merge_gap_s": 0.3, "update_interval_s": 0.2}
HOT = np.array([[0.0, 0.0], [0.0, 1.0]], np.float32)
WALL_CLOCK_S = 1_700_000_000.25


def decider(cameras: dict[str, dict[str, float]] | None = None) -> Decider:
    """A decider that starts an event at the first frame."""
    settings = Settings.model_validate({"decision": AT_ONCE, "cameras": cameras or {}})
    return Decider(settings, BUNDLE, "openvino", FakeClock(WALL_CLOCK_S))


def outcome(
    offset: int, score: float | None, *, camera_id: str = "gate", clip_from: int | None = 0, profile: Profile | None = None
) -> Outcome:
    """A frame of 64 x 48 pixels, 100 ms after the one before it."""
    heatmap = None if score is None else HOT
    return Outcome(FrameInfo(P3, offset, camera_id, offset * 100, 64, 48), clip_from, profile, score, heatmap)


def run_of(subject: Decider, *outcomes: Outcome) -> list[Decision]:
    """Decisions for consecutive frames of one camera."""
    decisions: list[Decision] = []
    for frame in outcomes:
        state = decisions[-1].state if decisions else CameraState()
        decisions.append(subject.decide(state, frame))
    return decisions


def thresholds(subject: Decider, camera_id: str, profile: Profile | None = None) -> tuple[float, float]:
    rule = subject.rule(camera_id, profile).rule
    return round(rule.enter, 6), round(rule.exit, 6)


def test_default_thresholds_are_calibrated() -> None:
    subject = decider({"gate": {"enter": 0.9}})

    assert thresholds(subject, "yard") == (0.5, 0.4)
    assert thresholds(subject, "gate") == (0.9, 0.666667)


def test_camera_thresholds_apply() -> None:
    subject = decider({"gate": {"enter": 0.9}})

    [gate] = run_of(subject, outcome(2, 0.7))
    [yard] = run_of(subject, outcome(2, 0.7, camera_id="yard"))

    assert gate.events == []
    assert [(event.kind, event.camera_id, round(event.threshold, 6)) for event in yard.events] == [("start", "yard", 0.5)]
    assert gate.score is not None
    assert yard.score is not None
    assert (gate.score["threshold"], yard.score["threshold"]) == ("0.9", "0.5")


def test_least_exit_of_all_cameras() -> None:
    approx = pytest.approx
    assert decider().least_exit([]) == approx(0.4)
    assert decider({"gate": {"exit": 0.2}, "yard": {"enter": 0.9, "exit": 0.8}}).least_exit([]) == approx(0.2)
    assert decider({"yard": {"enter": 0.9, "exit": 0.8}}).least_exit([]) == approx(0.4)
    assert decider().least_exit([profile_of("gate", 1, 0, exit=0.3), profile_of("yard", 1, 0, exit=0.35)]) == approx(0.3)
    assert decider({"gate": {"exit": 0.45}}).least_exit([profile_of("gate", 1, 0, exit=0.3)]) == approx(0.4)


def test_settings_before_profile_before_bundle() -> None:
    subject = decider({"gate": {"exit": 0.2}})
    profiles = {name: profile_of(name, 1, 0, enter=0.8, exit=0.7) for name in ("gate", "yard")}

    assert thresholds(subject, "gate", profiles["gate"]) == (0.8, 0.2)
    assert thresholds(subject, "yard", profiles["yard"]) == (0.8, 0.7)
    assert thresholds(subject, "yard") == (0.5, 0.4)


def test_event_names_profile() -> None:
    profile = profile_of("gate", 1, 0, enter=0.6)

    [unusual] = run_of(decider(), outcome(2, 0.75, profile=profile))
    [usual] = run_of(decider(), outcome(2, 0.55, profile=profile))

    [start] = unusual.events
    assert (start.profile_id, start.calibration_id) == (profile.profile_id, profile.info.calibration.calibration_id)
    assert start.threshold == pytest.approx(0.6)
    assert usual.events == []
    assert usual.score is not None
    assert (usual.score["threshold"], usual.score["profile_id"]) == ("0.6", profile.profile_id)


def test_rejects_bad_threshold_at_start() -> None:
    with pytest.raises(ConfigError, match=r"cameras\.gate\.exit"):
        decider({"gate": {"exit": 0.8}})


def test_state_keeps_clip_from() -> None:
    decisions = run_of(decider(), outcome(7, None, clip_from=7), outcome(8, 0.1, clip_from=7), outcome(9, 0.1, clip_from=None))

    assert [decision.state.clip_from for decision in decisions] == [7, 7, None]


def test_event_fields() -> None:
    [decision] = run_of(decider(), outcome(2, 0.75))

    assert decision.events[0].model_dump(exclude={"event_id"}) == {
        "schema_version": "1",
        "kind": "start",
        "camera_id": "gate",
        "started_at_ms": 200,
        "captured_at_ms": 200,
        "ended_at_ms": None,
        "score": 0.75,
        "peak_score": 0.75,
        "threshold": pytest.approx(0.5),
        "budget": 1.0,
        "bound": pytest.approx(4.74, abs=0.02),  # one event was counted in a day
        "provisional": None,
        "observed_s": 86_400.0,
        "calibration_id": BUNDLE.calibration.calibration_id,
        "profile_id": None,
        "model_id": "brightness-0",
        "engine": "openvino",
        "channel": None,
        "text": None,
        "region": "32,24,32,24",
        "zones": None,
        "topic": "frames",
        "partition": 3,
        "offset": 2,
        "scored_at_ms": 1_700_000_000_250,
    }


def test_event_says_in_words_what_raised_it() -> None:
    stays = [replace(outcome(offset, score), channel="dwell") for offset, score in enumerate([0.6, 0.7, 0.9])]
    *started, ended = run_of(decider(), *stays, outcome(50, None))
    told = {(event.channel, event.text) for decision in started for event in decision.events}
    assert told == {("dwell", "stays where nothing stays so long")}
    assert [(event.kind, event.channel, event.text) for event in ended.events] == [("end", None, None)]


def test_event_id_is_stable() -> None:
    scores = [0.6, 0.7, 0.9, 0.1, 0.1, 0.1, 0.1]
    decisions = run_of(decider(), *(outcome(offset, score) for offset, score in enumerate(scores)))
    events = [event for decision in decisions for event in decision.events]

    assert [(event.kind, event.offset, event.peak_score) for event in events] == [
        ("start", 0, 0.6),
        ("update", 2, 0.9),
        ("end", 6, 0.9),
    ]
    assert len({event.event_id for event in events}) == 1
    assert {event.started_at_ms for event in events} == {0}
    assert [event.ended_at_ms for event in events] == [None, None, 200]


def test_hysteresis() -> None:
    between = [outcome(offset, 0.45) for offset in range(1, 9)]

    lasting = run_of(decider(), outcome(0, 0.6), *between)
    never_begun = run_of(decider(), outcome(0, 0.45), *between)

    assert [event.kind for decision in lasting for event in decision.events] == ["start", "update", "update", "update", "update"]
    assert [event for decision in never_begun for event in decision.events] == []


def test_end_has_score_but_no_region() -> None:
    *_, unscored = run_of(decider(), outcome(0, 0.6), outcome(50, None))
    *_, scored = run_of(decider(), outcome(0, 0.6), outcome(50, 0.1))

    assert [(event.kind, event.score, event.region) for event in unscored.events] == [("end", None, None)]
    assert [(event.kind, event.score, event.region) for event in scored.events] == [("end", 0.1, None)]


def test_event_ids_differ() -> None:
    [one] = run_of(decider(), outcome(2, 0.7))
    [other] = run_of(decider(), outcome(3, 0.7))

    assert one.events[0].event_id != other.events[0].event_id


def test_score_fields() -> None:
    without, scored = run_of(decider(), outcome(1, None), outcome(2, 0.123456789))

    assert without.score is None
    assert scored.score == {
        "captured_at_ms": "200",
        "score": "0.123457",
        "threshold": "0.5",
        "partition": "3",
        "offset": "2",
        "scored_at_ms": "1700000000250",
    }


def heatmap(rows: int, columns: int, hot: dict[tuple[int, int], float]) -> np.ndarray:
    """Zeros apart from the given (row, column) cells."""
    cells = np.zeros((rows, columns), np.float32)
    for place, heat in hot.items():
        cells[place] = heat
    return cells


@pytest.mark.parametrize(
    ("hot", "region"),
    [
        ({(0, 0): 1.0}, "0,0,80,60"),
        ({(7, 7): 1.0}, "560,420,80,60"),
        ({(2, 3): 1.0, (2, 4): 0.6, (3, 3): 0.6}, "240,120,160,120"),
        ({(2, 3): 1.0, (3, 4): 0.9}, "240,120,160,120"),  # corners touch
        ({(2, 3): 1.0, (2, 4): 0.4}, "240,120,80,60"),  # less than half as hot
        ({(2, 3): 1.0, (6, 6): 0.9}, "240,120,80,60"),  # hot, but elsewhere
    ],
)
def test_region_is_hottest_patch(hot: dict[tuple[int, int], float], region: str) -> None:
    assert hot_region(heatmap(8, 8, hot), 640, 480) == region


def test_region_level_from_minimum() -> None:
    cells = heatmap(4, 4, {(1, 1): 1.0, (1, 2): 0.4})

    assert hot_region(cells - 5, 40, 40) == hot_region(cells, 40, 40) == "10,10,10,10"


def test_entries_of_events_have_their_heat_maps() -> None:
    *_, last = decisions = run_of(decider(), outcome(0, 0.9), outcome(1, 0.8), outcome(2, 0.7), outcome(9, 0.0))

    assert [[event.kind for event in each.events] for each in decisions] == [["start"], [], ["update"], ["end"]]
    assert [len(each.heatmaps) for each in decisions] == [1, 0, 1, 0]
    entry = dict(decisions[0].heatmaps[0])
    levels = cv2.imdecode(np.frombuffer(base64.b64decode(entry.pop("png")), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(levels, HOT * 255)
    assert entry == {
        "schema": "1",
        "event_id": decisions[0].events[0].event_id,
        "kind": "start",
        "camera_id": "gate",
        "captured_at_ms": "0",
        "topic": "frames",
        "partition": "3",
        "offset": "0",
        "score": "0.9",
        "low": "0",
        "high": "1",
        "enter": "0.5",
        "exit": "0.4",
    }
    assert last.events[0].event_id == entry["event_id"]


def test_no_heat_map_where_the_engine_gave_none() -> None:
    nan = np.full((2, 2), np.nan, np.float32)
    first, second = run_of(decider(), replace(outcome(0, 0.9), heatmap=nan), replace(outcome(3, 0.9), heatmap=None))

    assert [first.events[0].kind, second.events[0].kind] == ["start", "update"]
    assert not [*first.heatmaps, *second.heatmaps]


def test_even_heatmap_covers_image() -> None:
    assert hot_region(np.full((3, 5), 0.7, np.float32), 100, 60) == "0,0,100,60"


CELLS = st_numpy.arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(-(2.0**10), 2.0**10, width=32)
)


@given(CELLS, st.integers(1, 50), st.integers(1, 50))
def test_region_inside_image(cells: np.ndarray, width_px: int, height_px: int) -> None:
    x, y, width, height = map(int, hot_region(cells, width_px, height_px).split(","))

    assert 0 <= x < x + width <= width_px
    assert 0 <= y < y + height <= height_px


@given(CELLS, st.integers(0, 50), st.integers(0, 50))
def test_region_holds_maximum(cells: np.ndarray, more_columns: int, more_rows: int) -> None:
    rows, columns = cells.shape
    width_px, height_px = columns + more_columns, rows + more_rows  # at least a pixel a cell

    x, y, width, height = map(int, hot_region(cells, width_px, height_px).split(","))

    row, column = (int(index) for index in np.unravel_index(cells.argmax(), cells.shape))
    assert x <= column * width_px // columns < (column + 1) * width_px // columns <= x + width
    assert y <= row * height_px // rows < (row + 1) * height_px // rows <= y + height


def test_a_minute_is_told_once_with_the_first_score_of_the_next() -> None:
    subject, scores = decider(), {offset: 0.75 if offset == 610 else 0.25 for offset in range(0, 630, 10)}
    frames = {**scores, 640: None, 1300: 0.1}
    decisions = run_of(subject, *(outcome(offset, score) for offset, score in frames.items()))

    told = {offset: decision.minute for offset, decision in zip(frames, decisions, strict=True) if decision.minute}

    assert told.keys() == {600, 1300}
    assert [told[600][name] for name in ("minute_at_ms", "frames", "mean", "highest")] == ["0", "60", "0.25", "0.25"]
    assert [told[1300][name] for name in ("minute_at_ms", "frames", "highest", "highest_at_ms", "threshold", "event_frames")] == [
        "60000",
        "3",
        "0.75",
        "61000",
        "0.5",
        "1",
    ]
    assert decisions[-1].state.minute is not None


def test_minutes_say_how_many_frames_could_start_no_event() -> None:
    subject, progress = decider(), LearningProgress(0.5, 60.0)
    learned = subject.decide(CameraState(), outcome(1, 0.9), progress)
    covered = subject.decide(learned.state.model_copy(update={"health": HealthState(problem="covered")}), outcome(2, 0.9))
    trusted = subject.decide(covered.state.model_copy(update={"health": HealthState()}), outcome(3, 0.9))

    assert trusted.state.minute is not None
    assert (trusted.state.minute.frames, trusted.state.minute.withheld_frames, trusted.state.minute.event_frames) == (3, 2, 1)
