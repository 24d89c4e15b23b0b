from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.trainer.pseudo_anomalies.walk import HEIGHT_PX, WIDTH_PX, one_crowd, road, walk
from trainer.pseudo_anomalies.objects import PastedObject, anomalous_object, normal_object, textured_shape
from trainer.pseudo_anomalies.segments import SegmentedView

OFFSETS = (0, 1, 2, 4)
SPEED_PX = 1.5


@pytest.fixture(scope="module")
def crowd() -> SegmentedView:
    return one_crowd(walk(50, SPEED_PX), walk(50, SPEED_PX, top=40))


@pytest.fixture(scope="module")
def empty() -> SegmentedView:
    return one_crowd(np.repeat(road()[None], 20, axis=0).astype(np.uint8))


def cast(make: Callable[..., PastedObject | None], crowd: SegmentedView, count: int = 200) -> list[PastedObject]:
    found = [make(crowd, OFFSETS, np.random.default_rng(seed)) for seed in range(count)]
    return [actor for actor in found if actor is not None]


def speeds_px(actor: PastedObject) -> list[float]:
    """How far it goes in a frame, between the frames that are shown."""
    camera_views = np.array([(placed.x, placed.y) for placed in actor.frames])
    return (np.hypot(*np.diff(camera_views, axis=0).T) / np.diff(OFFSETS)).tolist()


def test_normal_actors_are_unmarked_and_walk_as_people_do_in_their_own_row(crowd):
    actors = cast(normal_object, crowd)
    assert len(actors) > 100
    for actor in actors:
        assert not actor.anomalous
        assert not actor.abnormal_looks
        assert len(actor.frames) == len(OFFSETS)
        assert min(abs(actor.frames[0].y + 4 - top) for top in (24, 40)) < 8
    assert np.median([speeds_px(actor) for actor in actors]) == pytest.approx(SPEED_PX, abs=0.6)


def test_strange_actors_are_marked_and_come_in_both_kinds(crowd):
    actors = cast(anomalous_object, crowd)
    assert len(actors) > 100
    assert all(actor.anomalous for actor in actors)
    strange_looks = np.mean([actor.abnormal_looks for actor in actors])
    assert 0.2 < strange_looks < 0.8


def test_those_whose_looks_are_normal_are_too_fast(crowd):
    usual = crowd.usual_speed(30)
    too_fast = [np.mean(speeds_px(actor)) for actor in cast(anomalous_object, crowd) if not actor.abnormal_looks]
    assert min(too_fast) > 1.2 * usual
    assert max(too_fast) < 10 * usual


def test_those_whose_looks_are_strange_go_evenly_and_unchanged(crowd):
    for actor in cast(anomalous_object, crowd):
        if actor.abnormal_looks:
            assert len({id(placed.cutout) for placed in actor.frames}) == 1
            assert speeds_px(actor) == pytest.approx([speeds_px(actor)[0]] * 3, rel=1e-3, abs=1e-3)


def test_every_actor_is_a_picture_with_a_cover_of_its_size(crowd):
    for placed in (
        placed for make in (normal_object, anomalous_object) for actor in cast(make, crowd, 60) for placed in actor.frames
    ):
        picture, alpha = placed.cutout
        assert picture.shape == alpha.shape
        assert (picture.dtype, alpha.dtype) == (np.float32, np.float32)
        assert 0 <= picture.min() <= picture.max() <= 255
        assert 0 <= alpha.min() <= alpha.max() <= 1


def test_where_nothing_ever_moved_there_is_nobody_normal_and_strange_things_still_come(empty):
    assert cast(normal_object, empty, 20) == []
    actors = cast(anomalous_object, empty, 20)
    assert len(actors) == 20
    assert all(actor.anomalous and actor.abnormal_looks for actor in actors)
    assert all(max(placed.cutout.image.shape) < HEIGHT_PX for actor in actors for placed in actor.frames)


def test_the_same_chance_gives_the_same_actor(crowd):
    one, other = (anomalous_object(crowd, OFFSETS, np.random.default_rng(5)) for _ in range(2))
    assert one is not None
    assert other is not None
    for placed, again in zip(one.frames, other.frames, strict=True):
        assert (placed.x, placed.y) == (again.x, again.y)
        assert np.array_equal(placed.cutout.image, again.cutout.image)


def test_people_are_found_again_in_other_places_of_the_picture(crowd):
    camera_views = {round(actor.frames[0].x) for actor in cast(normal_object, crowd)}
    assert min(camera_views) < WIDTH_PX / 4
    assert max(camera_views) > WIDTH_PX / 2


@settings(max_examples=60)
@given(st.floats(4, 60), st.integers(0, 2**32))
def test_a_shape_is_of_about_the_size_that_was_asked_for_and_covers_some_of_it(size_px, seed):
    picture, alpha = textured_shape(size_px, np.random.default_rng(seed))
    assert picture.shape == alpha.shape
    assert all(8 <= side <= max(8, 1.8 * size_px) for side in picture.shape)
    assert (picture.dtype, alpha.dtype) == (np.float32, np.float32)
    assert 0 <= picture.min() <= picture.max() <= 255
    assert alpha.max() > 0.5
    assert alpha.mean() > 0.01
