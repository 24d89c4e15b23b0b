from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.trainer.pseudo_anomalies.walk import HEIGHT_PX, WIDTH_PX, road, segmented, walk
from trainer.pseudo_anomalies.objects import PastedObject, anomalous_object, normal_object, textured_shape
from trainer.pseudo_anomalies.segments import SegmentedView

OFFSETS = (0, 1, 2, 4)
SPEED_PX = 1.5


@pytest.fixture(scope="module")
def view() -> SegmentedView:
    return segmented(walk(50, SPEED_PX), walk(50, SPEED_PX, top=40))


@pytest.fixture(scope="module")
def empty() -> SegmentedView:
    return segmented(np.repeat(road()[None], 20, axis=0).astype(np.uint8))


def cast(make: Callable[..., PastedObject | None], view: SegmentedView, count: int = 200) -> list[PastedObject]:
    found = [make(view, OFFSETS, np.random.default_rng(seed)) for seed in range(count)]
    return [pasted for pasted in found if pasted is not None]


def speeds_px(pasted: PastedObject) -> list[float]:
    """Pixels per frame between consecutive offsets."""
    positions = np.array([(placed.x, placed.y) for placed in pasted.frames])
    return (np.hypot(*np.diff(positions, axis=0).T) / np.diff(OFFSETS)).tolist()


def test_normal_objects_keep_speed_and_row(view):
    objects = cast(normal_object, view)
    assert len(objects) > 100
    for pasted in objects:
        assert not pasted.anomalous
        assert not pasted.abnormal_looks
        assert len(pasted.frames) == len(OFFSETS)
        assert min(abs(pasted.frames[0].y + 4 - top) for top in (24, 40)) < 8
    assert np.median([speeds_px(pasted) for pasted in objects]) == pytest.approx(SPEED_PX, abs=0.6)


def test_anomalous_objects_vary(view):
    objects = cast(anomalous_object, view)
    assert len(objects) > 100
    assert all(pasted.anomalous for pasted in objects)
    abnormal_share = np.mean([pasted.abnormal_looks for pasted in objects])
    assert 0.2 < abnormal_share < 0.8


def test_normal_looks_mean_too_fast(view):
    usual = view.usual_speed(30)
    too_fast = [np.mean(speeds_px(pasted)) for pasted in cast(anomalous_object, view) if not pasted.abnormal_looks]
    assert min(too_fast) > 1.2 * usual
    assert max(too_fast) < 10 * usual


def test_abnormal_looks_glide_evenly(view):
    for pasted in cast(anomalous_object, view):
        if pasted.abnormal_looks:
            assert len({id(placed.cutout) for placed in pasted.frames}) == 1
            assert speeds_px(pasted) == pytest.approx([speeds_px(pasted)[0]] * 3, rel=1e-3, abs=1e-3)


def test_objects_have_valid_cutouts(view):
    for placed in (
        placed for make in (normal_object, anomalous_object) for pasted in cast(make, view, 60) for placed in pasted.frames
    ):
        image, alpha = placed.cutout
        assert image.shape == alpha.shape
        assert (image.dtype, alpha.dtype) == (np.float32, np.float32)
        assert 0 <= image.min() <= image.max() <= 255
        assert 0 <= alpha.min() <= alpha.max() <= 1


def test_empty_view_gives_shapes(empty):
    assert cast(normal_object, empty, 20) == []
    objects = cast(anomalous_object, empty, 20)
    assert len(objects) == 20
    assert all(pasted.anomalous and pasted.abnormal_looks for pasted in objects)
    assert all(max(placed.cutout.image.shape) < HEIGHT_PX for pasted in objects for placed in pasted.frames)


def test_objects_are_reproducible(view):
    one, other = (anomalous_object(view, OFFSETS, np.random.default_rng(5)) for _ in range(2))
    assert one is not None
    assert other is not None
    for placed, again in zip(one.frames, other.frames, strict=True):
        assert (placed.x, placed.y) == (again.x, again.y)
        assert np.array_equal(placed.cutout.image, again.cutout.image)


def test_objects_spread_across_image(view):
    positions = {round(pasted.frames[0].x) for pasted in cast(normal_object, view)}
    assert min(positions) < WIDTH_PX / 4
    assert max(positions) > WIDTH_PX / 2


@settings(max_examples=60)
@given(st.floats(4, 60), st.integers(0, 2**32))
def test_shape_has_requested_size(size_px, seed):
    image, alpha = textured_shape(size_px, np.random.default_rng(seed))
    assert image.shape == alpha.shape
    assert all(8 <= side <= max(8, 1.8 * size_px) for side in image.shape)
    assert (image.dtype, alpha.dtype) == (np.float32, np.float32)
    assert 0 <= image.min() <= image.max() <= 255
    assert alpha.max() > 0.5
    assert alpha.mean() > 0.01
