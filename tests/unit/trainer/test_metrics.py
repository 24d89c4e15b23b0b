import numpy as np
import pytest

from trainer.evaluation.metrics import auc, clip_aucs, frame_auc, frame_roc, literature_scores

NAN = np.nan
SCORES = {"a": np.array([NAN, 1, 3, 4], np.float32), "b": np.array([NAN, 9, 8, 7], np.float32)}
LABELS = {"a": np.array([0, 0, 1, 1], np.uint8), "b": np.array([1, 1, 1, 1], np.uint8)}


def test_auc_is_the_share_of_pairs_in_the_right_order_ties_half():
    scores, labels = np.array([1, 2, 2, 3], np.float32), np.array([0, 0, 1, 1], np.uint8)
    assert auc(scores, labels) == pytest.approx((0.5 + 1 + 1 + 1) / 4)


def test_one_global_threshold_over_all_frames_and_unscored_frames_get_the_constant():
    # normal: 2 (filled), 1; anomalous: 3 4 2 (filled) 9 8 7; all pairs right but the tie 2:2
    assert frame_auc(SCORES, LABELS, 2.0) == pytest.approx(11.5 / 12)


def test_clips_of_one_class_have_no_auc_of_their_own():
    assert clip_aucs(SCORES, LABELS, 2.0) == {"a": 1.0}


def test_without_both_classes_there_is_no_auc():
    assert frame_auc(SCORES, {"b": LABELS["b"]}, 0.0) is None


def test_the_literature_scales_each_clip_by_its_own_extremes():
    long = {"low": np.linspace(0, 1, 60, dtype=np.float32), "high": np.linspace(100, 300, 60, dtype=np.float32)}
    scaled = literature_scores(long, 0.0)
    assert np.allclose(scaled["low"], scaled["high"], atol=1e-5)
    assert scaled["low"][30] == pytest.approx(long["low"][30], abs=1e-5)


def test_the_literature_smooths_around_each_frame_with_17_frames():
    spike = np.zeros(40, np.float32)
    spike[20] = 5.0
    smoothed = literature_scores({"a": spike}, 0.0)["a"]
    assert np.flatnonzero(smoothed > 1e-6).tolist() == list(range(12, 29))
    assert smoothed[20] == pytest.approx(1 / 17)


def test_a_clip_whose_scores_never_vary_is_all_zero_in_the_literature():
    assert literature_scores({"a": np.full(5, 3.0, np.float32)}, 0.0)["a"].tolist() == [0.0] * 5


def test_the_area_under_the_curve_is_the_frame_auc():
    curve = frame_roc(SCORES, LABELS, 2.0)
    assert curve is not None
    assert (curve.false_alarm_rate[0], curve.hit_rate[0], curve.false_alarm_rate[-1], curve.hit_rate[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(curve.hit_rate, curve.false_alarm_rate) == pytest.approx(frame_auc(SCORES, LABELS, 2.0))
    assert frame_roc(SCORES, {"b": LABELS["b"]}, 0.0) is None
