import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.sequences import GoldenSequences
from deploy.validation.accuracy import ACCURACY_LIMITS, MIN_FRAMES, compare_scores

RNG = np.random.default_rng(5)
SCORES = np.concatenate([RNG.normal(0, 0.3, (2, 24)), RNG.normal(4, 1, (2, 24))], axis=1).astype(np.float32)
HURRIED = np.broadcast_to(np.arange(48) >= 24, SCORES.shape)


def sequences(scores=SCORES, sped_up=HURRIED):
    return GoldenSequences(np.empty((*scores.shape, 1, 1, 1), np.uint8), sped_up, scores)


@pytest.mark.parametrize("precision", ACCURACY_LIMITS)
def test_reference_scores_pass(precision):
    result = compare_scores(precision, SCORES, sequences())
    assert result.passed
    assert (result.frames, result.max_error, result.spearman, result.auc_difference) == (96, 0.0, pytest.approx(1.0), 0.0)


@given(st.floats(0.5, 2.0), st.floats(-3.0, 3.0))
def test_scale_matters_for_float32_only(slope, offset):
    moved = (slope * SCORES + offset).astype(np.float32)
    assert compare_scores("bf16", moved, sequences()).passed
    assert compare_scores("f32", moved, sequences()).passed == (np.abs(moved - SCORES).max() <= 1e-3 * np.abs(SCORES).max())


def test_fails_on_changed_order():
    shuffled = SCORES + RNG.normal(0, 0.3, SCORES.shape).astype(np.float32)
    result = compare_scores("bf16", shuffled, sequences())
    assert not result.passed
    assert result.failures[0].startswith(f"the rank correlation is {result.spearman:.4f}, at least 0.995")


def test_statistics_equal_libraries():
    scipy_stats, metrics = pytest.importorskip("scipy.stats"), pytest.importorskip("sklearn.metrics")
    near = SCORES - 3.0 * HURRIED + RNG.normal(0, 0.5, SCORES.shape).astype(np.float32)
    result = compare_scores("bf16", near, sequences())
    before, after = (metrics.roc_auc_score(HURRIED.ravel(), scores.ravel()) for scores in (SCORES, near))
    assert result.spearman == pytest.approx(scipy_stats.spearmanr(SCORES.ravel(), near.ravel())[0])
    assert result.auc_difference == pytest.approx(abs(before - after))
    assert any("the AUC differs" in failure for failure in result.failures)


def test_fails_on_constant_scores():
    assert not compare_scores("bf16", np.zeros_like(SCORES), sequences()).passed
    assert compare_scores("bf16", np.zeros_like(SCORES), sequences()).spearman == 0.0


def test_ignores_frames_without_score():
    without = SCORES.copy()
    without[:, :4] = np.nan
    assert compare_scores("f32", without, sequences(without)).frames == 88


def test_fails_on_too_few_scores():
    few = slice(0, 1), slice(15, 15 + MIN_FRAMES - 1)
    result = compare_scores("bf16", SCORES[few], sequences(SCORES[few], HURRIED[few]))
    assert result.failures == (f"the bundle's golden sequences have {MIN_FRAMES - 1} scores, at least {MIN_FRAMES} are needed",)
