import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.pseudo_anomalies.segments import Cutout, PlacedCutout, paint_mask, paste, soft_alpha

HEIGHT_PX, WIDTH_PX = 40, 50
anywhere = st.floats(-80, 80)
inside = st.tuples(st.floats(0, WIDTH_PX - 13), st.floats(0, HEIGHT_PX - 11))


def disc() -> Cutout:
    """A textured disc of 10 x 12 pixels with soft edges."""
    y, x = np.mgrid[:10, :12]
    mask = ((y - 4.5) ** 2 / 12 + (x - 5.5) ** 2 / 18 < 1).astype(np.uint8)
    return Cutout(np.random.default_rng(0).uniform(120, 250, (10, 12)).astype(np.float32), soft_alpha(mask))


def street() -> np.ndarray:
    return np.random.default_rng(1).uniform(40, 100, (HEIGHT_PX, WIDTH_PX)).astype(np.float32)


def painted(x: float, y: float, cutout: Cutout | None = None) -> np.ndarray:
    frame = street()
    paste(frame, PlacedCutout(cutout or disc(), x, y))
    return frame


def covered(x: float, y: float) -> np.ndarray:
    mask = np.zeros((HEIGHT_PX, WIDTH_PX), np.float32)
    paint_mask(mask, PlacedCutout(disc(), x, y))
    return mask


@given(st.integers(-15, WIDTH_PX + 5), st.integers(-15, HEIGHT_PX + 5))
def test_blends_at_whole_pixels(x, y):
    wide, cutout = np.pad(street(), 20), disc()
    there = wide[y + 20 : y + 30, x + 20 : x + 32]
    there += (cutout.image - there) * cutout.alpha
    assert np.allclose(painted(x, y), wide[20:-20, 20:-20], atol=0.01)


@given(inside)
def test_blends_at_subpixels(at):
    """White on black: the centre of mass moves with the position, and the total stays."""
    x, y = at
    alpha = disc().alpha
    frame = np.zeros((HEIGHT_PX, WIDTH_PX), np.float32)
    paste(frame, PlacedCutout(Cutout(np.ones_like(alpha), alpha), x, y))
    rows, columns = np.mgrid[:HEIGHT_PX, :WIDTH_PX]
    own_rows, own_columns = np.mgrid[: alpha.shape[0], : alpha.shape[1]]
    total = alpha.sum()
    assert frame.sum() == pytest.approx(total, rel=0.01)
    assert (frame * columns).sum() / total == pytest.approx((alpha * own_columns).sum() / total + x, abs=0.1)
    assert (frame * rows).sum() / total == pytest.approx((alpha * own_rows).sum() / total + y, abs=0.1)


@given(anywhere, anywhere)
def test_changes_only_covered_pixels(x, y):
    frame, before = painted(x, y), street()
    assert frame.min() >= 40
    assert frame.max() <= 250
    changed = np.argwhere(frame != before)
    if len(changed):
        assert (changed.min(0) >= np.floor([y, x])).all()
        assert (changed.max(0) <= np.ceil([y + 10, x + 12])).all()


@pytest.mark.parametrize(("x", "y"), [(-13, 0), (0, -11), (WIDTH_PX, 0), (0, HEIGHT_PX), (-1e6, 1e6)])
def test_ignores_positions_outside(x, y):
    assert np.array_equal(painted(x, y), street())
    assert not covered(x, y).any()


@given(anywhere, anywhere)
def test_mask_matches_pasted_pixels(x, y):
    mask, changed = covered(x, y), painted(x, y) != street()
    assert mask.min() >= 0
    assert mask.max() <= 1
    assert changed[mask > 0.5].all()
    assert mask[~changed].max(initial=0.0) < 0.5


def test_later_mask_hides_earlier():
    mask = covered(10, 10)
    assert mask.max() == 1
    paint_mask(mask, PlacedCutout(disc(), 10, 10), 0.0)
    assert mask[15, 15] == 0
    assert mask.max() < 0.5


def test_alpha_has_soft_edges():
    mask = np.zeros((20, 20), np.uint8)
    mask[6:14, 6:14] = 1
    alpha = soft_alpha(mask)
    assert (alpha[mask > 0] == 1).mean() > 0.5
    assert alpha[mask > 0].min() > 0.5
    assert 0 < alpha[10, 15] < 1
    assert alpha[10, 18] == 0
