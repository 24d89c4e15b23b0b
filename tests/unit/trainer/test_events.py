import numpy as np
import pytest

from deploy.decision import DecisionRule
from trainer.evaluation.event_metrics import Announced, announced_events, event_figures, true_events

RULE = DecisionRule(enter=10.0, exit=5.0)
FPS = 10.0


def scores(*runs: tuple[float, int]) -> np.ndarray:
    return np.concatenate([np.full(count, value, np.float32) for value, count in runs])


def test_true_events_are_the_maximal_runs_of_ones():
    assert true_events(np.array([1, 1, 0, 0, 1, 0, 1], np.uint8)) == [(0, 1), (4, 4), (6, 6)]
    assert true_events(np.zeros(3, np.uint8)) == []


def test_an_event_is_announced_after_its_minimum_duration_and_ends_with_its_last_active_frame():
    row = scores((1, 20), (12, 6), (6, 4), (1, 30))
    assert announced_events(RULE, row, FPS) == [Announced(started=20, announced=23, ended=29)]


def test_an_event_still_open_at_the_end_counts():
    assert announced_events(RULE, scores((np.nan, 4), (12, 10)), FPS) == [Announced(started=4, announced=7, ended=13)]


def test_found_false_and_delays_by_hand():
    labels = {
        "a": np.r_[np.zeros(20), np.ones(20), np.zeros(40), np.ones(20)].astype(np.uint8),
        "b": np.zeros(100, np.uint8),
    }
    found_late = scores((1, 24), (12, 10), (1, 66))  # announced at 27, 0.7 s after frame 20; the second event is missed
    false_alarm = scores((1, 50), (12, 10), (1, 40))
    figures = event_figures(RULE, {"a": found_late, "b": false_alarm}, labels, FPS)
    assert (figures.true, figures.announced, figures.found, figures.false) == (2, 2, 1, 1)
    assert (figures.precision, figures.recall, figures.f1) == (0.5, 0.5, 0.5)
    assert figures.median_delay_s == figures.worst_delay_s == pytest.approx(0.7)
    assert figures.alarmed_normal_share == pytest.approx(10 / 160)
    assert figures.false_per_camera_hour == pytest.approx(1 / (200 / FPS / 3600))


def test_an_event_announced_before_the_true_one_has_no_negative_delay():
    labels = {"a": np.r_[np.zeros(30), np.ones(20)].astype(np.uint8)}
    figures = event_figures(RULE, {"a": scores((12, 50))}, labels, FPS)
    assert (figures.found, figures.false, figures.median_delay_s) == (1, 0, 0.0)


def test_without_a_found_event_there_is_no_delay():
    figures = event_figures(RULE, {"a": scores((1, 50))}, {"a": np.ones(50, np.uint8)}, FPS)
    assert (figures.true, figures.found, figures.median_delay_s) == (1, 0, None)


def test_the_first_announcement_counts_and_the_worst_delay_is_the_longest():
    labels = {"a": np.r_[np.ones(60), np.zeros(40), np.ones(20)].astype(np.uint8)}
    row = scores((1, 10), (12, 10), (1, 20), (12, 15), (1, 50), (12, 15))
    figures = event_figures(RULE, {"a": row}, labels, FPS)
    assert (figures.announced, figures.found, figures.precision, figures.recall) == (3, 2, 1.0, 1.0)
    assert (figures.median_delay_s, figures.worst_delay_s) == (pytest.approx((1.3 + 0.8) / 2), pytest.approx(1.3))


def test_one_announced_event_may_meet_two_true_ones_and_pays_with_normal_frames():
    labels = {"a": np.r_[np.ones(20), np.zeros(20), np.ones(20)].astype(np.uint8)}
    figures = event_figures(RULE, {"a": scores((12, 60))}, labels, FPS)
    assert (figures.announced, figures.found, figures.false, figures.f1) == (1, 2, 0, 1.0)
    assert figures.alarmed_normal_share == 1.0


def test_shares_of_nothing_are_none_and_silence_is_no_success():
    normal, anomalous = {"a": np.zeros(50, np.uint8)}, {"a": np.ones(50, np.uint8)}
    silent, loud = {"a": scores((1, 50))}, {"a": scores((12, 50))}
    quiet = event_figures(RULE, silent, normal, FPS)
    assert (quiet.precision, quiet.recall, quiet.f1, quiet.alarmed_normal_share) == (None, None, None, 0.0)
    missed = event_figures(RULE, silent, anomalous, FPS)
    assert (missed.precision, missed.recall, missed.f1, missed.alarmed_normal_share) == (None, 0.0, 0.0, None)
    wrong = event_figures(RULE, loud, normal, FPS)
    assert (wrong.precision, wrong.recall, wrong.f1, wrong.worst_delay_s) == (0.0, None, 0.0, None)
