import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.calibration import Thresholds
from deploy.decision import DecisionRule
from trainer.holdout import (
    BOUND,
    FALSE_EVENTS_PER_HOUR,
    HOURS,
    LOSS_RATIO,
    VERDICTS,
    FootageFacts,
    HoldoutReport,
    UnusualMoment,
    assess_footage,
    clock,
    find_unusual_moments,
    holdout_lines,
    loss_ratio,
)

RULE = DecisionRule(enter=1.0, exit=0.8, merge_gap_ms=1000)
FPS = 10.0
GOOD = FootageFacts(hours=1.0, calibration_s=1600.0, bound=5.0, last_tenth_hours=0.1, events=0, loss_ratio=1.1)


# Unusual moments


def row(frames, **spans):
    """Zeros with values in spans such as ``s10_14=2.0``; NaN before frame 4."""
    scores = np.zeros(frames, np.float32)
    scores[:4] = np.nan
    for span, value in spans.items():
        first, last = map(int, span[1:].split("_"))
        scores[first : last + 1] = value
    return scores


def test_alerts_come_first_highest_peak_before():
    scores = {"gate": row(200, s20_29=1.2, s25_25=1.5), "yard": row(200, s100_110=3.0)}
    assert find_unusual_moments(RULE, scores, FPS, at_least=2) == [
        UnusualMoment("yard", 100, 110, 100, 3.0, announced=True),
        UnusualMoment("gate", 20, 29, 25, 1.5, announced=True),
    ]


def test_without_alerts_peaks_two_seconds_apart():
    scores = {"gate": row(200, s50_50=0.7, s60_60=0.6, s90_90=0.5), "yard": row(200, s30_30=0.65)}
    moments = find_unusual_moments(RULE, scores, FPS, at_least=3)
    assert [(moment.clip, moment.peak_frame, moment.announced) for moment in moments] == [
        ("gate", 50, False),
        ("yard", 30, False),
        ("gate", 90, False),
    ]


def test_all_alerts_even_if_more_than_asked_for():
    scores = {"gate": row(400, s20_29=1.2, s100_109=1.3, s200_209=1.4, s300_300=5.0)}
    assert [moment.first_frame for moment in find_unusual_moments(RULE, scores, FPS, at_least=2)] == [200, 100, 20]


def test_no_moments_without_scores():
    assert find_unusual_moments(RULE, {"gate": np.full(9, np.nan, np.float32)}, FPS, at_least=5) == []


@given(st.lists(st.floats(0, 2, width=32), min_size=1, max_size=300), st.integers(1, 8))
def test_moments_are_disjoint_with_true_peaks(values, at_least):
    scores = np.array(values, np.float32)
    moments = find_unusual_moments(RULE, {"gate": scores}, FPS, at_least)
    spans = sorted((moment.first_frame, moment.last_frame) for moment in moments)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))
    for moment in moments:
        assert moment.peak_score == scores[moment.peak_frame] == scores[moment.first_frame : moment.last_frame + 1].max()


# Was the footage enough?


def test_enough_needs_no_reason():
    assessment = assess_footage(GOOD)
    assert (assessment.verdict, assessment.reasons, assessment.text) == ("enough", (), "enough")


@pytest.mark.parametrize(
    ("changes", "verdict", "reason"),
    [
        ({"hours": 0.49}, "more would help", "29.4 minutes of footage, and 30 show more"),
        ({"hours": 0.05}, "too little", "3.0 minutes of footage"),
        ({"bound": 250.0}, "more would help", "rests on 1600 s, and may let through 250 false events a day"),
        ({"bound": 5000.0}, "too little", "may let through 5,000 false events"),
        ({"events": 2}, "more would help", "2 events in the last tenth, 6.0 minutes long"),
        ({"events": 4}, "too little", "4 events in the last tenth"),
        ({"last_tenth_hours": 0.0}, "too little", "the last tenth has no frame that can be scored"),
        ({"loss_ratio": 1.3}, "more would help", "is 1.30 times that of training footage"),
        ({"loss_ratio": 2.0}, "too little", "is 2.00 times that of training footage"),
    ],
)
def test_each_fact_alone_decides(changes, verdict, reason):
    assessment = assess_footage(replace(GOOD, **changes))
    assert assessment.verdict == verdict
    assert len(assessment.reasons) == 1
    assert reason in assessment.text
    assert assessment.text.startswith(f"{verdict}, because ")


@pytest.mark.parametrize(
    "changes",
    [
        {"hours": 0.5},
        {"bound": BOUND.enough},
        {"events": 1},
        {"loss_ratio": 1.25},
        {"loss_ratio": None},
    ],
)
def test_enough_at_the_limit_or_unknown(changes):
    assert assess_footage(replace(GOOD, **changes)).verdict == "enough"


def test_worst_reason_comes_first():
    assessment = assess_footage(replace(GOOD, hours=0.2, loss_ratio=3.0))
    assert assessment.verdict == "too little"
    assert ["loss" in reason for reason in assessment.reasons] == [True, False]


@given(
    st.builds(
        FootageFacts,
        hours=st.floats(0, 10),
        calibration_s=st.floats(5, 50_000),
        bound=st.floats(0, 1e5),
        last_tenth_hours=st.floats(0, 1),
        events=st.integers(0, 100),
        loss_ratio=st.none() | st.floats(0.1, 10),
    ),
    st.sampled_from([("hours", 2.0), ("bound", 0.5), ("last_tenth_hours", 2.0)]),
)
def test_more_footage_never_worsens_the_verdict(facts, more):
    name, factor = more
    better = replace(facts, **{name: getattr(facts, name) * factor})
    assert VERDICTS.index(assess_footage(better).verdict) <= VERDICTS.index(assess_footage(facts).verdict)


@pytest.mark.parametrize("limits", [HOURS, BOUND, FALSE_EVENTS_PER_HOUR, LOSS_RATIO])
def test_grades_between_limits(limits):
    assert [limits.grade(value) for value in (limits.enough, sum(limits) / 2, limits.too_little)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("learned", "held_out", "ratio"), [(2.0, 3.0, 1.5), (2.0, None, None), (-1.0, 2.0, None), (0.0, 1.0, None)]
)
def test_loss_ratio(learned, held_out, ratio):
    assert loss_ratio({"loss_learned": learned, "loss_held_out": held_out}) == ratio


# Text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0:00:00.0"), (59.96, "0:01:00.0"), (3723.44, "1:02:03.4"), (36000.0, "10:00:00.0")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def lines(*moments):
    facts = replace(GOOD, events=sum(moment.announced for moment in moments))
    return list(holdout_lines(HoldoutReport(moments, facts, assess_footage(facts), 25.0, Thresholds(0.0, 1.5, 1.0, 5.0))))


def test_lines_of_alerts_and_peaks():
    text = lines(
        UnusualMoment("gate", 1500, 1550, 1525, 2.345, announced=True),
        UnusualMoment("gate", 100, 100, 100, 0.5, announced=False),
        UnusualMoment("gate", 200, 200, 200, 7.0, announced=False),
    )
    assert "6.0 minutes" in text[0]
    assert "has 1 event at the threshold 1.5" in text[0]
    assert text[1:4] == [
        "  1. gate: 0:01:00.0 to 0:01:02.0, score 2.35 at 0:01:01.0 (frame 1525)",
        "  2. gate: no event, score 0.5 at 0:00:04.0 (frame 100)",
        "  3. gate: too short for an event, score 7 at 0:00:08.0 (frame 200)",
    ]
    assert text[-1] == "was the footage enough? enough"


def test_lines_without_alerts():
    assert "has no events at the threshold" in lines()[0]
