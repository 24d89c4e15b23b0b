"""Shake and flicker of a camera are taken out of its older frames, and nothing else is."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.models.video_ede.stabilisation import stabilise

HEIGHT_PX, WIDTH_PX, MARGIN_PX = 64, 96, 8
SHIFT = st.integers(-MARGIN_PX, MARGIN_PX)


def scene(seed: int) -> np.ndarray:
    """Textured ground that is larger than the picture by a margin on each side."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(40, 200, ((HEIGHT_PX + 2 * MARGIN_PX) // 8, (WIDTH_PX + 2 * MARGIN_PX) // 8))
    return np.kron(coarse, np.ones((8, 8))) + rng.normal(0, 2, (HEIGHT_PX + 2 * MARGIN_PX, WIDTH_PX + 2 * MARGIN_PX))


def seen(ground: np.ndarray, down: int = 0, across: int = 0) -> np.ndarray:
    """What a camera sees of it that has moved by so many pixels."""
    top, left = MARGIN_PX + down, MARGIN_PX + across
    return np.round(ground[top : top + HEIGHT_PX, left : left + WIDTH_PX])


def stabilised(*clips: list[np.ndarray]) -> np.ndarray:
    """Of clips of frames, the newest first."""
    return stabilise(torch.from_numpy(np.array(clips, np.float32))).numpy()


@given(st.integers(0, 99), SHIFT, SHIFT, SHIFT, SHIFT)
def test_older_frames_show_what_the_newest_one_does(seed: int, down: int, across: int, down_2: int, across_2: int) -> None:
    """Of each clip and each older frame by itself, and also at the edge that an older frame does not reach."""
    ground, other = scene(seed), scene(seed + 100)
    shaken = [seen(ground), seen(ground, down, across), seen(ground, down_2, across_2)]
    still = [seen(other), seen(other), seen(other)]
    found = stabilised(shaken, still)
    np.testing.assert_array_equal(found[0], np.repeat(found[0][:1], 3, axis=0))
    np.testing.assert_array_equal(found, np.array([[frames[0]] * 3 for frames in (shaken, still)], np.float32))


@given(st.integers(0, 99), SHIFT, SHIFT, st.integers(-6, 6))
def test_what_moves_before_a_shaken_camera_still_moves(seed: int, down: int, across: int, moved: int) -> None:
    before, now = scene(seed), scene(seed)
    before[36:52, 40 : 40 + 16] = now[36:52, 40 + moved : 40 + 16 + moved] = scene(seed + 100)[:16, :16]
    (_, found), *_ = stabilised([seen(now), seen(before, down, across)])
    inner = (slice(MARGIN_PX, -MARGIN_PX), slice(MARGIN_PX, -MARGIN_PX))
    np.testing.assert_array_equal(found[inner], seen(before)[inner])


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_lorry_before_a_camera_that_stands_still_is_left_alone(share: float) -> None:
    ground, lorry = scene(1), scene(2)
    rows = slice(round(HEIGHT_PX * (1 - share)), None)
    now, before = seen(ground), seen(ground)
    now[rows], before[rows] = seen(lorry)[rows], seen(lorry, 0, 4)[rows]
    frames = [now, before, before]
    np.testing.assert_array_equal(stabilised(frames), np.array([frames], np.float32))


@pytest.mark.parametrize("level", [0, 255])
def test_picture_without_anything_in_it_is_left_alone(level: int) -> None:
    frames = [np.full((HEIGHT_PX, WIDTH_PX), level)] * 3
    np.testing.assert_array_equal(stabilised(frames), np.array([frames], np.float32))


@given(st.integers(0, 99), SHIFT, SHIFT, st.floats(0.85, 1.15))
def test_flicker_is_taken_out_of_a_camera_that_may_shake_as_well(seed: int, down: int, across: int, gain: float) -> None:
    ground = scene(seed)
    (_, found), *_ = stabilised([seen(ground), gain * seen(ground, down, across)])
    assert np.abs(found - seen(ground)).mean() < 1.5  # grey levels; before it was up to 18


def test_even_light_is_left_alone() -> None:
    """Although a dark thing hides two fifths of the picture."""
    now, before = seen(scene(1)), seen(scene(1))
    now[:, :40] = 30.0
    frames = [now, before, before]
    np.testing.assert_array_equal(stabilised(frames), np.array([frames], np.float32))


def test_runs_where_the_frames_are() -> None:
    """On the meta device, which computes nothing and refuses tensors of another one."""
    frames = torch.empty(2, 3, HEIGHT_PX, WIDTH_PX, device="meta")
    assert stabilise(frames).shape == frames.shape
