"""The decider: each camera's own rule, the frames a restart needs, and where every event comes from."""

import numpy as np
import pytest

from deploy.errors import ConfigError
from streamer.config import Settings
from streamer.interfaces import CameraState
from streamer.pipeline.decide import Decider, Decision
from streamer.types import FrameInfo, Outcome, Partition
from tests.harness.fakes import FakeClock
from tests.unit.streamer.pipeline_kit import BUNDLE

P3 = Partition("frames", 3)
AT_ONCE = {"min_duration_s": 0.0, "merge_gap_s": 0.3, "update_interval_s": 0.2}
HOT = np.array([[0.0, 0.0], [0.0, 1.0]], np.float32)
WALL_CLOCK_S = 1_700_000_000.25


def decider(cameras: dict[str, dict[str, float]] | None = None) -> Decider:
    """A decider that announces at the first frame."""
    settings = Settings.model_validate({"decision": AT_ONCE, "cameras": cameras or {}})
    return Decider(settings, BUNDLE, "openvino", FakeClock(WALL_CLOCK_S))


def outcome(offset: int, score: float | None, *, camera_id: str = "gate", clip_from: int | None = 0) -> Outcome:
    """A frame of 64 x 48 pixels, 100 ms after the one before it."""
    heatmap = None if score is None else HOT
    return Outcome(FrameInfo(P3, offset, camera_id, offset * 100, 64, 48), clip_from, score, heatmap)


def run_of(subject: Decider, *outcomes: Outcome) -> list[Decision]:
    """What one camera's frames decide, one after another."""
    decisions: list[Decision] = []
    for frame in outcomes:
        state = decisions[-1].state if decisions else CameraState()
        decisions.append(subject.decide(state, frame))
    return decisions


def test_a_camera_without_thresholds_of_its_own_gets_the_calibrated_ones() -> None:
    subject = decider({"gate": {"enter": 0.9}})

    assert (subject.rule("yard").enter, subject.rule("yard").exit) == (0.5, 0.4)
    assert (subject.rule("gate").enter, subject.rule("gate").exit) == (0.9, 0.4)


def test_each_cameras_scores_are_held_against_its_own_threshold() -> None:
    subject = decider({"gate": {"enter": 0.9}})

    [gate] = run_of(subject, outcome(2, 0.7))
    [yard] = run_of(subject, outcome(2, 0.7, camera_id="yard"))

    assert gate.events == []
    assert [(event.kind, event.camera_id, event.threshold) for event in yard.events] == [("start", "yard", 0.5)]
    assert gate.score is not None
    assert yard.score is not None
    assert (gate.score["threshold"], yard.score["threshold"]) == ("0.9", "0.5")


def test_the_least_exit_threshold_is_that_of_all_cameras_calibrated_ones_included() -> None:
    assert decider().least_exit == BUNDLE.calibration.exit == 0.4
    assert decider({"gate": {"exit": 0.2}, "yard": {"enter": 0.9, "exit": 0.8}}).least_exit == 0.2
    assert decider({"yard": {"enter": 0.9, "exit": 0.8}}).least_exit == 0.4


def test_a_cameras_wrong_threshold_is_found_before_its_first_frame() -> None:
    with pytest.raises(ConfigError, match=r"cameras\.gate\.exit"):
        decider({"gate": {"exit": 0.8}})


def test_what_a_restart_needs_is_kept_from_frame_to_frame() -> None:
    decisions = run_of(decider(), outcome(7, None, clip_from=7), outcome(8, 0.1, clip_from=7), outcome(9, 0.1, clip_from=None))

    assert [decision.state.clip_from for decision in decisions] == [7, 7, None]


def test_an_event_names_everything_that_explains_it() -> None:
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
        "threshold": 0.5,
        "calibration_id": BUNDLE.calibration.calibration_id,
        "model_id": "brightness-0",
        "engine": "openvino",
        "region": "32,24,32,24",
        "topic": "frames",
        "partition": 3,
        "offset": 2,
        "scored_at_ms": 1_700_000_000_250,
    }


def test_one_event_keeps_its_id_and_start_from_start_to_end() -> None:
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


def test_an_event_goes_on_between_the_exit_and_the_enter_threshold_but_does_not_begin_there() -> None:
    between = [outcome(offset, 0.45) for offset in range(1, 9)]

    lasting = run_of(decider(), outcome(0, 0.6), *between)
    never_begun = run_of(decider(), outcome(0, 0.45), *between)

    assert [event.kind for decision in lasting for event in decision.events] == ["start", "update", "update", "update", "update"]
    assert [event for decision in never_begun for event in decision.events] == []


def test_an_end_has_no_region_and_the_score_of_its_frame_if_there_is_one() -> None:
    *_, unscored = run_of(decider(), outcome(0, 0.6), outcome(50, None))
    *_, scored = run_of(decider(), outcome(0, 0.6), outcome(50, 0.1))

    assert [(event.kind, event.score, event.region) for event in unscored.events] == [("end", None, None)]
    assert [(event.kind, event.score, event.region) for event in scored.events] == [("end", 0.1, None)]


def test_events_that_begin_with_different_frames_have_different_ids() -> None:
    [one] = run_of(decider(), outcome(2, 0.7))
    [other] = run_of(decider(), outcome(3, 0.7))

    assert one.events[0].event_id != other.events[0].event_id


def test_a_frame_that_completes_no_clip_has_no_score_entry() -> None:
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
