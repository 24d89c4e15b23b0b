"""Calibration counts what the decision rule announces; thresholds keep a budget, and never promise more than was counted."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from deploy.calibration import (
    EXIT_HEIGHT,
    EXTRAPOLATION_PER_HOUR,
    LEAST_EXTRAPOLATION,
    MOST_PEAKS,
    Calibration,
    ScoredFrames,
    calibrate_scores,
    count_events,
    merge,
    scored_at_rate,
    thresholds,
    thresholds_at,
)
from deploy.decision import DecisionRule, DecisionTimes, Observation, OpenEvent, decide

TIMES = DecisionTimes()
BUDGETS = [0.1, 1.0, 10.0, 100.0, 1000.0]
DAY_S = 86_400.0

rows = st_numpy.arrays(np.float32, st.integers(2, 200), elements=st.floats(0, 8, width=16) | st.just(math.nan))
times = st.builds(DecisionTimes, min_duration_ms=st.sampled_from([0, 100, 300]), merge_gap_ms=st.sampled_from([200, 1000, 5000]))
peaks = st.lists(st.floats(0.1, 50), min_size=0, max_size=40).map(lambda found: tuple(sorted(found, reverse=True)))
calibrations = st.builds(Calibration, median=st.just(0.0), peaks=peaks, observed_s=st.floats(5, 1e6), times=st.just(TIMES))


def correlated(frames: int, seed: int, correlation: float = 0.9) -> np.ndarray:
    """Exponential scores whose neighbours are alike, float32 (frames,): a Gaussian autoregression, transformed."""
    from scipy.signal import lfilter
    from scipy.stats import norm

    noise = np.random.default_rng(seed).normal(size=frames + 100)
    walk = lfilter([math.sqrt(1 - correlation**2)], [1, -correlation], noise)[100:]
    return (-norm.logsf(walk)).astype(np.float32)


def announced(frames: ScoredFrames, rule: DecisionRule) -> int:
    """Events that the decision rule itself announces."""
    event: OpenEvent | None = None
    starts = 0
    for captured_at_ms, score in zip(frames.captured_at_ms.tolist(), frames.scores.tolist(), strict=True):
        event, changes = decide(rule, event, Observation("e", captured_at_ms, None if math.isnan(score) else score))
        starts += sum(change.kind == "start" for change in changes)
    return starts


@given(rows, times, st.floats(0.5, 8), st.sampled_from([5.0, 10.0, 25.0]))
def test_counts_what_the_rule_announces(row: np.ndarray, rule: DecisionTimes, height: float, fps: float) -> None:
    frames = scored_at_rate(row, fps)
    median = 1.0
    enter, exit_ = median + height, median + EXIT_HEIGHT * height
    expected = announced(frames, DecisionRule(enter=enter, exit=exit_, **rule.model_dump()))
    assert count_events(frames, median, enter, rule) == expected


@given(rows.filter(lambda row: np.isfinite(row).sum() > 1), st.sampled_from([10.0, 25.0]))
def test_as_many_events_at_each_peak(row: np.ndarray, fps: float) -> None:
    frames = scored_at_rate(row, fps)
    calibration = calibrate_scores([frames], TIMES)
    assert all(before >= after for before, after in pairwise(calibration.peaks))
    for peak in calibration.peaks:
        as_high = sum(other >= peak for other in calibration.peaks)
        assert count_events(frames, calibration.median, peak - 1e-9, calibration.times) == as_high


@given(calibrations, st.sampled_from(BUDGETS), st.floats(1.0, 100.0))
def test_larger_budget_never_raises_threshold(calibration: Calibration, budget: float, factor: float) -> None:
    strict, lenient = thresholds(calibration, budget, TIMES), thresholds(calibration, budget * factor, TIMES)
    assert strict.enter >= lenient.enter
    assert strict.bound <= lenient.bound
    assert strict.enter >= strict.exit >= calibration.median


@given(calibrations, st.sampled_from(BUDGETS), st.floats(0.1, 10), st.floats(-20, 20))
def test_units_of_the_score_do_not_matter(calibration: Calibration, budget: float, scale: float, shift: float) -> None:
    other = calibration.model_copy(update={"median": shift, "peaks": tuple(shift + scale * peak for peak in calibration.peaks)})
    one, changed = thresholds(calibration, budget, TIMES), thresholds(other, budget, TIMES)
    assert changed.enter == pytest.approx(shift + scale * one.enter, abs=0.03)
    assert changed.exit == pytest.approx(shift + scale * one.exit, abs=0.03)


@given(calibrations, st.floats(0.1, 60), st.floats(1.0, 10.0))
def test_more_of_the_same_never_widens_bound(calibration: Calibration, enter: float, longer: float) -> None:
    more = calibration.model_copy(update={"observed_s": calibration.observed_s * longer})
    twice = calibration.model_copy(
        update={"observed_s": calibration.observed_s * 2, "peaks": tuple(sorted(2 * calibration.peaks, reverse=True))}
    )
    bound = thresholds_at(calibration, enter, TIMES).bound
    assert thresholds_at(more, enter, TIMES).bound <= bound
    assert thresholds_at(twice, enter, TIMES).bound <= bound


@pytest.mark.parametrize("hours", [0.1, 3.0])
def test_budget_holds_on_new_scores(hours: float) -> None:
    """Footage of that length, learned 30 times; the events of another day at each of the thresholds."""
    day = scored_at_rate(correlated(432_000, 1), 5.0)
    counted = {budget: [] for budget in (20.0, 100.0)}
    for seed in range(30):
        calibration = calibrate_scores([scored_at_rate(correlated(round(hours * 18_000), 100 + seed), 5.0)], TIMES)
        for budget, counts in counted.items():
            limits = thresholds(calibration, budget, TIMES)
            counts.append(count_events(day, limits.median, limits.enter, TIMES))
            assert counts[-1] <= 2 * limits.bound
    for budget, counts in counted.items():
        allowed = max(budget, 24 / hours / max(LEAST_EXTRAPOLATION, EXTRAPOLATION_PER_HOUR * hours))
        assert np.mean(counts) <= 2 * allowed
        assert np.median(counts) >= 0.1 * allowed or hours < 1


def test_little_footage_is_not_extrapolated_far() -> None:
    minute = calibrate_scores([scored_at_rate(correlated(600, 2), 10.0)], TIMES)
    assert thresholds(minute, 1.0, TIMES).enter == thresholds(minute, DAY_S / 60 / LEAST_EXTRAPOLATION, TIMES).enter


def test_one_moment_far_above_all_others_sets_the_threshold_to_its_height_and_no_higher() -> None:
    peaks = (1.4, 1.2, 1.1, 1.0, 0.9, 0.8, 0.7)
    limits = [
        thresholds(Calibration(median=0.0, peaks=(highest, *peaks), observed_s=60, times=TIMES), 1.0, TIMES)
        for highest in (2.0, 6.0)
    ]
    assert 2.0 < limits[0].enter < 4.0
    assert limits[1].enter == 6.0


@pytest.mark.parametrize(("events", "limit"), [(0, 3.0), (1, 4.74), (10, 16.96)])
def test_bound_is_poisson(events: int, limit: float) -> None:
    day = Calibration(median=0.0, peaks=(2.0,) * events, observed_s=DAY_S, times=TIMES)
    assert thresholds_at(day, 1.5, TIMES).bound == pytest.approx(limit, rel=0.06)


@pytest.mark.parametrize("other", [{"min_duration_ms": 0}, {"merge_gap_ms": 1000}])
def test_nothing_promised_for_an_eager_rule(other: dict[str, int]) -> None:
    day = Calibration(median=0.0, peaks=(2.0,), observed_s=DAY_S, times=TIMES)
    assert thresholds(day, 1.0, TIMES.model_copy(update=other)).bound == math.inf
    assert thresholds(day, 1.0, TIMES.model_copy(update={"merge_gap_ms": 60_000, "min_duration_ms": 500})).bound < math.inf


def test_nothing_promised_below_the_peaks_kept() -> None:
    busy = Calibration(median=0.0, peaks=(2.0,) * MOST_PEAKS, observed_s=DAY_S, times=TIMES)
    assert thresholds_at(busy, 1.0, TIMES).bound == math.inf


def test_parts_have_events_of_their_own() -> None:
    quiet, loud = np.zeros(100, np.float32), np.full(50, 3.0, np.float32)
    part = scored_at_rate(np.concatenate([quiet, loud]), 10.0)
    assert calibrate_scores([part, part], TIMES).peaks == (3.0, 3.0)
    assert calibrate_scores([part], TIMES).peaks == (3.0,)


def test_scores_that_never_change() -> None:
    calibration = calibrate_scores([scored_at_rate(np.full(100, 2.0, np.float32), 10.0)], TIMES)
    assert calibration.peaks == ()
    assert thresholds(calibration, 1.0, TIMES).enter > 2.0


def test_merged_calibrations_are_those_of_all_footage() -> None:
    scores = np.random.default_rng(3).exponential(1.0, 36_000).astype(np.float32)
    parts = [scored_at_rate(part, 10.0) for part in np.split(scores, 2)]
    whole, (one, other) = calibrate_scores(parts, TIMES), (calibrate_scores([part], TIMES) for part in parts)
    merged = merge(one, other, 1e6)
    assert merged.observed_s == pytest.approx(whole.observed_s)
    assert merged.median == pytest.approx(whole.median, rel=0.05)
    for budget in (200.0, 1000.0):
        assert thresholds(merged, budget, TIMES).enter == pytest.approx(thresholds(whole, budget, TIMES).enter, rel=0.05)


@given(st.lists(st.floats(0, 10), max_size=300), st.lists(st.floats(0, 10), max_size=300), st.floats(1, 1e4))
def test_merging_forgets_the_earlier_beyond_the_memory(earlier: list[float], later: list[float], memory_s: float) -> None:
    one, other = (
        Calibration(median=0.0, peaks=tuple(sorted(peaks, reverse=True)[:MOST_PEAKS]), observed_s=3600, times=TIMES)
        for peaks in (earlier, later)
    )
    merged = merge(one, other, memory_s)
    assert merged.observed_s == pytest.approx(min(7200, max(3600, memory_s)))
    assert list(merged.peaks) == sorted(merged.peaks, reverse=True)
    kept = len(merged.peaks) - len(other.peaks)
    assert kept <= len(one.peaks) * (merged.observed_s - 3600) / 3600 + 1e-6
