"""Masks, zones and what was called normal, applied to scores."""

import tomllib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from numpy.typing import NDArray

from deploy.errors import ConfigError
from deploy.profile_learning import Channel
from streamer.areas import CameraAreas, Quiet, Zone
from streamer.config import Settings
from streamer.pipeline.areas import AreaRules, KnownAreas, covered
from streamer.pipeline.decide import CameraRule, Decider
from streamer.settings_file import parse_settings, settings_toml
from streamer.types import FrameInfo, Outcome, Partition
from tests.harness.fakes import MemoryAreaStore
from tests.harness.pipeline import BUNDLE, CRASHES, OUTAGES, Rig, message, run_of

LEFT = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
RIGHT = ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0))
QUIET_LEFT = Quiet(event_id="e", box=(0.0, 0.0, 0.5, 1.0), channel="speed", up_to=0.95, user="ann", at_ms=1)


def outcome(heatmap: Any, channel: Channel | None = "speed") -> Outcome:
    heat = np.asarray(heatmap, np.float32)
    return Outcome(FrameInfo(Partition("frames", 0), 0, "gate", 0, 64, 48), 0, None, float(heat.max()), heat, channel=channel)


def rules(camera: dict[str, Any] | None = None, drawn: CameraAreas | None = None) -> tuple[AreaRules, CameraRule]:
    settings = Settings.model_validate({"cameras": {"gate": camera or {}}})
    store = MemoryAreaStore()
    if drawn is not None:
        store.change("gate", lambda _: drawn)
    peaks = tuple(np.linspace(0.5, 0.3, 40).tolist())
    bundle = replace(BUNDLE, calibration=BUNDLE.calibration.model_copy(update={"peaks": peaks}))
    decider = Decider(settings, bundle, "test")
    subject = AreaRules(settings, KnownAreas(settings, store), decider)
    subject.refresh()
    return subject, decider.rule("gate", None)


def test_nothing_is_scored_under_a_mask() -> None:
    subject, _ = rules({"masks": [LEFT]})
    shaped = subject.apply(outcome([[0.9, 0.2], [0.1, 0.4]]))
    assert shaped.score == pytest.approx(0.4)
    assert shaped.heatmap is not None
    np.testing.assert_allclose(shaped.heatmap, [[0.1, 0.2], [0.1, 0.4]])


def test_masks_of_settings_stay_whatever_is_drawn() -> None:
    subject, _ = rules({"masks": [LEFT]}, CameraAreas(masks=(RIGHT,)))
    assert subject.apply(outcome([[0.9, 0.2], [0.1, 0.4]])).score == pytest.approx(0.1)


def test_events_name_the_zones_of_their_hottest_part() -> None:
    subject, _ = rules(None, CameraAreas(zones=(Zone(name="till", polygon=RIGHT), Zone(name="door", polygon=LEFT))))
    assert subject.apply(outcome([[0.1, 0.9]])).zones == ("till",)
    assert subject.apply(outcome([[0.9, 0.1]])).zones == ("door",)


def test_a_zone_with_another_budget_is_more_or_less_sensitive() -> None:
    scores = []
    for budget in (1000.0, None, 0.001):
        subject, own = rules(None, CameraAreas(zones=(Zone(name="till", polygon=RIGHT, false_events_per_camera_day=budget),)))
        shaped = subject.apply(outcome([[0.0, 0.5]]))
        scores.append(shaped.score)
        assert subject.least_exit([]) == pytest.approx(own.rule.exit - max(0.0, (shaped.score or 0.0) - 0.5))
    assert scores[0] > scores[1] > scores[2]
    assert scores[1] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("heatmap", "channel", "is_quiet"),
    [
        ([[0.9, 0.1]], "speed", True),
        ([[0.9, 0.1]], None, True),
        ([[0.9, 0.1]], "dwell", False),  # something else
        ([[0.1, 0.9]], "speed", False),  # elsewhere
        ([[0.99, 0.1]], "speed", False),  # much more of it
    ],
)
def test_only_the_same_thing_is_quiet(heatmap: Any, channel: Channel | None, is_quiet: bool) -> None:
    subject, own = rules(None, CameraAreas(quiet=(QUIET_LEFT,)))
    score = subject.apply(outcome(heatmap, channel)).score
    assert score is not None
    assert (score < own.rule.exit) == is_quiet


def test_a_camera_without_areas_is_left_alone() -> None:
    subject, _ = rules()
    for each in (outcome([[0.9, 0.1]]), replace(outcome([[0.9]]), heatmap=None), outcome([[np.nan, 0.2]])):
        assert subject.apply(each) is each or each.heatmap is not None


@given(st_numpy.arrays(np.float32, (4, 6), elements=st.floats(-5, 5, width=32)))
def test_a_zone_without_a_budget_changes_no_score(heatmap: NDArray[np.float32]) -> None:
    subject, _ = rules(None, CameraAreas(zones=(Zone(name="all", polygon=LEFT),)))
    assert subject.apply(outcome(heatmap)).score == pytest.approx(float(heatmap.max()))


def test_cells_belong_to_a_polygon_if_half_of_them_does() -> None:
    assert covered(((0, 0), (0.6, 0), (0.6, 1), (0, 1)), (1, 2)).tolist() == [[True, False]]
    assert covered(((0, 0), (0.8, 0), (0.8, 1), (0, 1)), (1, 2)).tolist() == [[True, True]]


def test_areas_in_the_settings_can_be_printed_and_read_again() -> None:
    zone = {"name": "till", "polygon": RIGHT, "false_events_per_camera_day": 0.1}
    settings = Settings.model_validate({"cameras": {"gate": {"masks": [LEFT], "zones": [zone]}}})
    assert parse_settings(tomllib.loads(settings_toml(settings)), "again") == settings
    with pytest.raises(ConfigError, match=r"cameras\.gate\.masks\.0\.1\.0: .*less than or equal to 1"):
        parse_settings({"cameras": {"gate": {"masks": [[[0, 0], [2, 0], [1, 1]]]}}}, "settings")


def test_what_another_place_raises_is_not_quieted() -> None:
    subject, _ = rules(None, CameraAreas(quiet=(QUIET_LEFT,)))
    assert subject.apply(outcome([[0.9, 0.1]])).quieted == (("e", pytest.approx(0.9)),)
    assert subject.apply(outcome([[0.9, 0.7]])).quieted == ()
    assert subject.apply(outcome([[0.2, 0.1]])).quieted == ()


QUIET_ALL = QUIET_LEFT.model_copy(update={"box": (0.0, 0.0, 1.0, 1.0), "channel": None})


@given(crashes=CRASHES, outages=OUTAGES)
def test_events_that_are_quieted_are_counted_once_by_the_rule_for_events(crashes: list[int], outages: list[str]) -> None:
    one, short, gap = [0.9, 0.8, 0.9], [0.9], [0.1] * 6  # an event takes two frames, and ends after four
    rig = Rig(run_of("gate", [*gap, *one, *gap, *short, *gap, *one, 0.1, 0.9, *gap]), max_clips=1)
    rig.areas.change("gate", lambda _: CameraAreas(quiet=(QUIET_ALL,)))
    rig.store.failures = outages
    for turns in crashes:
        rig.pipeline.areas.refresh()
        rig.steps(turns)
        rig.start()
    rig.pipeline.areas.refresh()
    rig.finish()
    assert rig.store.events == []
    quieted = rig.store.progress[Partition("frames", 0)].cameras["gate"].quieted["e"]
    assert (quieted.events, quieted.began_ms, quieted.open) == (2, (2200, 600), None)


def test_what_is_drawn_holds_from_the_next_second_on_and_while_redis_is_away() -> None:
    bright = [message(0, offset, "gate", 0.9) for offset in range(40)]
    rig = Rig(bright, max_clips=1, poll_messages=1)
    rig.steps(5)
    assert [event["kind"] for event in rig.store.events][:1] == ["start"]
    assert float(rig.store.scores[-1][1]["score"]) > 0.9
    rig.areas.change("gate", lambda _: CameraAreas(quiet=(QUIET_ALL,)))
    rig.clock.now_s += 2
    rig.steps(2)
    rig.areas.available = False
    rig.clock.now_s += 2
    rig.finish()
    assert float(rig.store.scores[-1][1]["score"]) < 0.4
    assert [event["kind"] for event in rig.store.events].count("start") == 1
