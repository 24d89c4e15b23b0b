import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from trainer.evaluation.metrics import PixelCounts


def counted(*frames, origin=0.0):
    counts = PixelCounts(origin)
    for heatmap, mask in frames:
        counts.add(None if heatmap is None else np.asarray(heatmap, np.float32), np.asarray(mask, bool))
    return counts.auc()


@given(st.integers(0, 2**32 - 1), st.floats(-3, 3), st.sampled_from([1e-4, 1.0, 1e4]))
def test_it_is_the_area_under_the_curve_of_all_pixels(seed, shift, unit):
    rng = np.random.default_rng(seed)
    masks = rng.random((3, 20, 30)) < 0.2
    heat = (unit * (rng.normal(size=masks.shape) + shift * masks)).astype(np.float32)
    assert counted(*zip(heat, masks, strict=True)) == pytest.approx(roc_auc_score(masks.ravel(), heat.ravel()), abs=2e-3)


def test_one_threshold_for_all_frames():
    mask = [[True, False]]
    assert counted(([[1, 0]], mask), ([[9, 8]], mask)) == pytest.approx(3 / 4)  # within each frame all would be right


def test_a_large_constant_takes_no_resolution_where_it_is_known():
    heat, mask = 1000 + 0.01 * np.arange(8.0).reshape(2, 4), np.arange(8).reshape(2, 4) > 3
    assert counted((heat, mask), origin=1000.0) == 1.0
    assert counted((heat, mask)) < 1.0


def test_the_heat_map_is_laid_over_the_frame_bilinearly():
    mask = np.zeros((2, 8), bool)
    mask[:, 7] = True  # laid over 8 pixels: 0 0 0.125 0.375 0.625 0.875 1 1, a tie of the last two
    assert counted(([[0, 1]], mask)) == pytest.approx(6.5 / 7)


def test_a_frame_without_a_heat_map_points_nowhere():
    seen = ([[-5, -4]], [[False, True]])
    assert counted(seen) == 1.0
    assert counted(seen, (None, [[True, True]])) == pytest.approx(1 / 3)
    assert counted(seen, (None, [[False, False]])) == 1.0


@pytest.mark.parametrize("mask", [True, False])
def test_without_both_classes_there_is_no_area(mask):
    assert counted(([[1, 2]], [[mask, mask]])) is None
