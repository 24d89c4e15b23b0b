import numpy as np
import pytest

from deploy.decision import DecisionRule
from trainer.evaluation.event_metrics import (
    AnnouncedEvent,
    TrueEvent,
    announced_events,
    clip_events,
    event_metrics,
    match_events,
    rate_bound,
    true_events,
)

RULE = DecisionRule(enter=10.0, exit=5.0, merge_gap_ms=1000)
FPS = 10.0
SECOND = 10


def metrics(scores, labels):
    labels = {name: np.asarray(row, np.uint8) for name, row in labels.items()}
    return event_metrics(clip_events(RULE, scores, labels, FPS), labels, FPS)


def labels(*runs):
    return np.concatenate([np.full(frames, value, np.uint8) for value, frames in runs])


def test_true_events_are_runs_of_ones():
    assert true_events(np.array([1, 1, 0, 0, 1, 0, 1], np.uint8)) == [(0, 1), (4, 4), (6, 6)]
    assert true_events(np.zeros(3, np.uint8)) == []


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (((1, 20), (12, 6), (6, 4), (1, 30)), AnnouncedEvent(20, 23, 29, active=tuple(range(20, 30)))),
        (((np.nan, 4), (12, 10)), AnnouncedEvent(4, 7, 13, active=tuple(range(4, 14)))),
    ],
    ids=["until the last frame at exit", "open at the end of the clip"],
)
def test_announced_events_follow_the_rule(runs, parts, expected):
    assert announced_events(RULE, runs(*parts), FPS) == [expected]


def test_found_false_and_delays(runs):
    late = runs((1, 24), (12, 10), (1, 66))  # announced at 27, 0.7 s after frame 20; the second event is missed
    false = runs((1, 50), (12, 10), (1, 40))
    result = metrics({"a": late, "b": false}, {"a": labels((0, 20), (1, 20), (0, 40), (1, 20)), "b": np.zeros(100)})
    assert (result.true, result.announced, result.found, result.false, result.early) == (2, 2, 1, 1, 0)
    assert (result.precision, result.recall, result.f1) == (0.5, 0.5, 0.5)
    assert result.median_delay_s == result.worst_delay_s == pytest.approx(0.7)
    assert result.alarmed_normal_share == pytest.approx(10 / 160)
    assert result.false_per_camera_hour == pytest.approx(1 / (200 / FPS / 3600))


def test_first_announcement_counts(runs):
    row = runs((1, 10), (12, 10), (1, 20), (12, 15), (1, 50), (12, 15))
    result = metrics({"a": row}, {"a": labels((1, 60), (0, 40), (1, 20))})
    assert (result.announced, result.found, result.precision, result.recall) == (3, 2, 1.0, 1.0)
    assert (result.median_delay_s, result.worst_delay_s) == (pytest.approx((1.3 + 0.8) / 2), pytest.approx(1.3))


@pytest.mark.parametrize(
    ("started", "early"),
    [(99, 0), (90, 0), (89, 1), (10, 1)],
    ids=["just before", "at the tolerance", "past the tolerance", "long before"],
)
def test_early_alarm_is_false_and_a_find(started, early):
    clip = match_events(
        [TrueEvent(100, 150)], [AnnouncedEvent(started, started + 3, 100, active=(started, 100))], tolerance=SECOND
    )
    assert (clip.found, list(clip.delays), clip.early, clip.false) == (1, [max(0, started + 3 - 100)], early, early)


def test_only_the_first_true_event_decides_earliness():
    true = [TrueEvent(0, 10), TrueEvent(100, 150)]
    clip = match_events(true, [AnnouncedEvent(5, 8, 120, active=(5, 120))], tolerance=SECOND)
    assert (clip.found, clip.false, list(clip.delays)) == (2, 0, [8, 0])


def test_pause_within_an_alarm_finds_nothing():
    clip = match_events([TrueEvent(0, 10), TrueEvent(50, 60)], [AnnouncedEvent(5, 8, 120, active=(5, 120))], tolerance=SECOND)
    assert (clip.found, clip.false) == (1, 0)


def test_precision_shows_an_early_alarm(runs):
    result = metrics({"a": runs((12, 50))}, {"a": labels((0, 30), (1, 20))})
    assert (result.announced, result.found, result.false, result.early) == (1, 1, 1, 1)
    assert (result.precision, result.recall, result.median_delay_s) == (0.5, 1.0, 0.0)


def test_one_alarm_may_find_two_events(runs):
    result = metrics({"a": runs((12, 60))}, {"a": labels((1, 20), (0, 20), (1, 20))})
    assert (result.announced, result.found, result.false, result.f1, result.alarmed_normal_share) == (1, 2, 0, 1.0, 1.0)


def test_undefined_ratios_are_none(runs):
    normal, anomalous = {"a": np.zeros(50)}, {"a": np.ones(50)}
    silent, loud = {"a": runs((1, 50))}, {"a": runs((12, 50))}
    quiet = metrics(silent, normal)
    assert (quiet.precision, quiet.recall, quiet.f1, quiet.alarmed_normal_share) == (None, None, None, 0.0)
    missed = metrics(silent, anomalous)
    assert (missed.true, missed.found, missed.median_delay_s) == (1, 0, None)
    assert (missed.precision, missed.recall, missed.f1, missed.alarmed_normal_share) == (None, 0.0, 0.0, None)
    assert (missed.normal_frames, missed.normal_s, missed.false_per_camera_day_bound) == (0, 0.0, None)
    wrong = metrics(loud, normal)
    assert (wrong.precision, wrong.recall, wrong.f1, wrong.worst_delay_s) == (0.0, None, 0.0, None)


def test_poisson_bound():
    # P(0 events) = exp(-rate) = 0.05; P(0 or 1 event) = exp(-rate) * (1 + rate) = 0.05
    assert rate_bound(0, 1.0) == pytest.approx(-np.log(0.05))
    one = rate_bound(1, 1.0)
    assert np.exp(-one) * (1 + one) == pytest.approx(0.05)
    assert rate_bound(0, 36.2 / 86400) == pytest.approx(7150, abs=1)  # the 362 normal test frames of Ped2
    assert rate_bound(3, 0.0) is None


def test_bound_rests_on_normal_footage(runs):
    result = metrics({"a": runs((1, 100))}, {"a": labels((0, 40), (1, 60))})
    assert (result.normal_frames, result.normal_s) == (40, 4.0)
    assert result.false_per_camera_day_bound == pytest.approx(-np.log(0.05) / 4 * 86400)
