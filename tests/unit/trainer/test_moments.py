import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deploy.decision import DecisionRule
from trainer.holdout import Moment, unusual_moments

RULE = DecisionRule(enter=1.0, exit=0.8)
FPS = 10.0


def row(frames, **spans):
    """Zeros with values in spans such as ``s10_14=2.0``; NaN before frame 4."""
    scores = np.zeros(frames, np.float32)
    scores[:4] = np.nan
    for span, value in spans.items():
        first, last = map(int, span[1:].split("_"))
        scores[first : last + 1] = value
    return scores


def test_announced_events_come_first_with_their_stretch_and_peak_the_highest_before_the_others():
    scores = {"gate": row(200, s20_29=1.2, s25_25=1.5), "yard": row(200, s100_110=3.0)}
    moments = unusual_moments(RULE, scores, FPS, at_least=2)
    assert moments == [Moment("yard", 100, 110, 100, 3.0, announced=True), Moment("gate", 20, 29, 25, 1.5, announced=True)]


def test_where_nothing_passes_the_threshold_the_highest_scores_are_told_two_seconds_apart():
    scores = {"gate": row(200, s50_50=0.7, s60_60=0.6, s90_90=0.5), "yard": row(200, s30_30=0.65)}
    moments = unusual_moments(RULE, scores, FPS, at_least=3)
    assert [(moment.clip, moment.peak_frame, moment.announced) for moment in moments] == [
        ("gate", 50, False),
        ("yard", 30, False),
        ("gate", 90, False),
    ]


def test_no_moment_is_told_twice_and_more_events_than_asked_for_are_all_told():
    scores = {"gate": row(400, s20_29=1.2, s100_109=1.3, s200_209=1.4, s300_300=5.0)}
    moments = unusual_moments(RULE, scores, FPS, at_least=2)
    assert [moment.first_frame for moment in moments] == [200, 100, 20]


def test_footage_without_a_score_has_no_moments():
    assert unusual_moments(RULE, {"gate": np.full(9, np.nan, np.float32)}, FPS, at_least=5) == []


@given(st.lists(st.floats(0, 2, width=32), min_size=1, max_size=300), st.integers(1, 8))
def test_moments_never_overlap_and_peaks_are_the_highest_of_their_stretch(values, at_least):
    scores = np.array(values, np.float32)
    moments = unusual_moments(RULE, {"gate": scores}, FPS, at_least)
    taken = sorted((moment.first_frame, moment.last_frame) for moment in moments)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(taken))
    for moment in moments:
        assert moment.peak_score == scores[moment.peak_frame] == scores[moment.first_frame : moment.last_frame + 1].max()
