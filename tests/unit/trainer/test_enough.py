from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.holdout import CALIBRATION_FRAMES, FALSE_EVENTS_PER_HOUR, HOURS, LOSS_RATIO, THRESHOLD_DRIFT, VERDICTS, Facts, judge

GOOD = Facts(hours=1.0, calibration_frames=16_000, threshold_drift=0.05, last_tenth_hours=0.1, events=0, loss_ratio=1.1)


def facts(**changes):
    return replace(GOOD, **changes)


def test_an_hour_in_which_everything_agrees_is_enough_and_needs_no_reason():
    judgement = judge(GOOD)
    assert (judgement.verdict, judgement.reasons, judgement.text) == ("enough", (), "enough")


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        ({"hours": 0.49}, "more would help", "29.4 minutes of footage, and 30 show more"),
        ({"hours": 0.05}, "too little", "3.0 minutes of footage"),
        ({"calibration_frames": 1999}, "more would help", "rests on 1999 frames, and 2000 need no extrapolation"),
        ({"calibration_frames": 500}, "too little", "rests on 500 frames"),
        ({"threshold_drift": 0.26}, "more would help", "thresholds that differ by 26% of"),
        ({"threshold_drift": 1.0}, "too little", "thresholds that differ by 100% of"),
        ({"events": 3}, "more would help", "3 events in the last tenth, 6.0 minutes long"),
        ({"events": 7}, "too little", "7 events in the last tenth"),
        ({"last_tenth_hours": 0.0}, "too little", "the last tenth has no frame that can be scored"),
        ({"loss_ratio": 1.3}, "more would help", "is 1.30 times that of learned footage"),
        ({"loss_ratio": 2.0}, "too little", "is 2.00 times that of learned footage"),
    ],
)
def test_every_fact_alone_can_make_each_verdict(changes, verdict, reason):
    judgement = judge(facts(**changes))
    assert judgement.verdict == verdict
    assert len(judgement.reasons) == 1
    assert reason in judgement.text
    assert judgement.text.startswith(f"{verdict}, because ")


@pytest.mark.parametrize(
    "changes",
    [
        {"hours": 0.5},
        {"calibration_frames": 2000},
        {"threshold_drift": 0.25},
        {"threshold_drift": None},
        {"events": 1},
        {"events": 2},
        {"loss_ratio": 1.25},
        {"loss_ratio": None},
    ],
)
def test_at_the_limit_a_fact_says_nothing_against_enough_and_what_is_not_known_neither(changes):
    assert judge(facts(**changes)).verdict == "enough"


def test_the_gravest_reason_comes_first_and_decides():
    judgement = judge(facts(hours=0.2, loss_ratio=3.0))
    assert judgement.verdict == "too little"
    assert ["loss" in reason for reason in judgement.reasons] == [True, False]


@given(
    st.builds(
        Facts,
        hours=st.floats(0, 10),
        calibration_frames=st.integers(50, 50_000),
        threshold_drift=st.none() | st.floats(0, 5),
        last_tenth_hours=st.floats(0, 1),
        events=st.integers(0, 100),
        loss_ratio=st.none() | st.floats(0.1, 10),
    ),
    st.sampled_from([("hours", 2.0), ("calibration_frames", 2), ("last_tenth_hours", 2.0)]),
)
def test_more_of_a_good_thing_never_makes_the_verdict_worse(found, more):
    name, factor = more
    better = replace(found, **{name: getattr(found, name) * factor})
    assert VERDICTS.index(judge(better).verdict) <= VERDICTS.index(judge(found).verdict)


@pytest.mark.parametrize("limits", [HOURS, CALIBRATION_FRAMES, THRESHOLD_DRIFT, FALSE_EVENTS_PER_HOUR, LOSS_RATIO])
def test_between_its_limits_a_fact_is_graded_in_the_middle(limits):
    assert [limits.grade(value) for value in (limits.enough, sum(limits) / 2, limits.too_little)] == [0, 1, 2]
