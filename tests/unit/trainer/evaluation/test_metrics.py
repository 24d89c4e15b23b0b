import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from trainer.evaluation.metrics import (
    RESAMPLES,
    PixelHistogram,
    auc,
    clip_aucs,
    frame_auc,
    frame_auc_interval,
    frame_roc,
    literature_scores,
    mean_clip_auc_interval,
)

NAN = np.nan
SCORES = {"a": np.array([NAN, 1, 3, 4], np.float32), "b": np.array([NAN, 9, 8, 7], np.float32)}
LABELS = {"a": np.array([0, 0, 1, 1], np.uint8), "b": np.array([1, 1, 1, 1], np.uint8)}
ONE_CLASS = {"b": LABELS["b"]}


def test_auc_counts_ties_half():
    scores, labels = np.array([1, 2, 2, 3], np.float32), np.array([0, 0, 1, 1], np.uint8)
    assert auc(scores, labels) == pytest.approx((0.5 + 1 + 1 + 1) / 4)


def test_frame_auc_fills_unscored_frames():
    # normal: 2 (filled), 1; anomalous: 3 4 2 (filled) 9 8 7; all pairs right but the tie 2:2
    assert frame_auc(SCORES, LABELS, 2.0) == pytest.approx(11.5 / 12)
    assert frame_auc(SCORES, ONE_CLASS, 0.0) is None


def test_clip_aucs_need_both_classes():
    assert clip_aucs(SCORES, LABELS, 2.0) == {"a": 1.0}


def test_roc_area_is_frame_auc():
    false_alarm_rate, hit_rate = frame_roc(SCORES, LABELS, 2.0)
    assert (false_alarm_rate[0], hit_rate[0], false_alarm_rate[-1], hit_rate[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(hit_rate, false_alarm_rate) == pytest.approx(frame_auc(SCORES, LABELS, 2.0))
    assert frame_roc(SCORES, ONE_CLASS, 0.0) is None


def test_literature_scales_each_clip():
    long = {"low": np.linspace(0, 1, 60, dtype=np.float32), "high": np.linspace(100, 300, 60, dtype=np.float32)}
    scaled = literature_scores(long, 0.0)
    assert np.allclose(scaled["low"], scaled["high"], atol=1e-5)
    assert scaled["low"][30] == pytest.approx(long["low"][30], abs=1e-5)
    assert literature_scores({"a": np.full(5, 3.0, np.float32)}, 0.0)["a"].tolist() == [0.0] * 5


def test_literature_smooths_17_frames():
    spike = np.zeros(40, np.float32)
    spike[20] = 5.0
    smoothed = literature_scores({"a": spike}, 0.0)["a"]
    assert np.flatnonzero(smoothed > 1e-6).tolist() == list(range(12, 29))
    assert smoothed[20] == pytest.approx(1 / 17)


def clips(count, seed=0, frames=40):
    rng = np.random.default_rng(seed)
    labels = {str(n): np.repeat(np.array([0, 1], np.uint8), frames // 2) for n in range(count)}
    scores = {name: np.round(rng.normal(row * rng.uniform(0, 2), 1), 1).astype(np.float32) for name, row in labels.items()}
    return scores, labels


def test_frame_auc_interval_equals_resampling_frames():
    scores, labels = clips(6)
    scores["0"][:5] = NAN
    interval = frame_auc_interval(scores, labels, 0.5)
    draws = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), size=RESAMPLES)
    aucs = []
    for draw in draws:
        names = np.repeat(list(labels), draw)
        row = np.concatenate([np.nan_to_num(scores[name], nan=0.5) for name in names])
        aucs.append(roc_auc_score(np.concatenate([labels[name] for name in names]), row))
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(aucs, (0.025, 0.975))))
    assert (interval.clips, interval.resamples, interval.skipped) == (6, RESAMPLES, 0)


def test_interval_narrows_with_clips():
    few, many = (frame_auc_interval(*clips(count), 0.0) for count in (6, 100))
    assert many.high - many.low < (few.high - few.low) / 2
    assert many.low < frame_auc(*clips(100), 0.0) < many.high


def test_resamples_of_one_class_are_skipped():
    scores, labels = clips(6)
    for name in "01234":
        labels[name][:] = 1  # only clip 5 has normal frames: absent from (5/6)**6 = 33 % of resamples
    interval = frame_auc_interval(scores, labels, 0.0)
    assert interval.skipped == pytest.approx(335, abs=60)
    assert interval.resamples + interval.skipped == RESAMPLES


def test_no_interval_from_too_little():
    scores, labels = clips(4)
    assert frame_auc_interval(scores, labels, 0.0) is None
    assert mean_clip_auc_interval([0.5] * 4) is None
    assert mean_clip_auc_interval([]) is None
    scores, labels = clips(6)
    assert frame_auc_interval(scores, {name: np.ones_like(row) for name, row in labels.items()}, 0.0) is None


def test_mean_clip_auc_interval():
    assert mean_clip_auc_interval([0.9] * 7).low == pytest.approx(0.9)
    interval = mean_clip_auc_interval([0.0] * 50 + [1.0] * 50)
    assert (interval.low, interval.high) == (pytest.approx(0.4, abs=0.02), pytest.approx(0.6, abs=0.02))
    assert (interval.clips, interval.skipped) == (100, 0)


def pixel_auc(*frames, origin=0.0):
    histogram = PixelHistogram(origin)
    for heatmap, mask in frames:
        histogram.add(None if heatmap is None else np.asarray(heatmap, np.float32), np.asarray(mask, bool))
    return histogram.auc()


@given(st.integers(0, 2**32 - 1), st.floats(-3, 3), st.sampled_from([1e-4, 1.0, 1e4]))
def test_pixel_auc_equals_that_of_all_pixels(seed, shift, unit):
    rng = np.random.default_rng(seed)
    masks = rng.random((3, 20, 30)) < 0.2
    heat = (unit * (rng.normal(size=masks.shape) + shift * masks)).astype(np.float32)
    assert pixel_auc(*zip(heat, masks, strict=True)) == pytest.approx(roc_auc_score(masks.ravel(), heat.ravel()), abs=2e-3)


def test_pixel_auc_has_one_threshold_for_all_frames():
    mask = [[True, False]]
    assert pixel_auc(([[1, 0]], mask), ([[9, 8]], mask)) == pytest.approx(3 / 4)  # within each frame all would be right


def test_origin_keeps_resolution():
    heat, mask = 1000 + 0.01 * np.arange(8.0).reshape(2, 4), np.arange(8).reshape(2, 4) > 3
    assert pixel_auc((heat, mask), origin=1000.0) == 1.0
    assert pixel_auc((heat, mask)) < 1.0


def test_heat_map_is_resized_bilinearly():
    mask = np.zeros((2, 8), bool)
    mask[:, 7] = True  # the map at 8 pixels: 0 0 0.125 0.375 0.625 0.875 1 1, a tie of the last two
    assert pixel_auc(([[0, 1]], mask)) == pytest.approx(6.5 / 7)


def test_missing_heat_map_ranks_lowest():
    frame = ([[-5, -4]], [[False, True]])
    assert pixel_auc(frame) == 1.0
    assert pixel_auc(frame, (None, [[True, True]])) == pytest.approx(1 / 3)
    assert pixel_auc(frame, (None, [[False, False]])) == 1.0


@pytest.mark.parametrize("mask", [True, False])
def test_pixel_auc_needs_both_classes(mask):
    assert pixel_auc(([[1, 2]], [[mask, mask]])) is None
