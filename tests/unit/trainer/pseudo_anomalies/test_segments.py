from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.trainer.pseudo_anomalies.walk import HEIGHT_PX, SQUARE_PX, WIDTH_PX, one_crowd, one_place, road, walk
from trainer.data.dis_flow import DisFlow
from trainer.pseudo_anomalies.segments import SegmentedView, segment_views

SPEED_PX = 1.5


@pytest.fixture(scope="module")
def crowd() -> SegmentedView:
    return one_crowd(walk(50, SPEED_PX), walk(50, SPEED_PX, top=40))


def test_a_moving_square_is_found_where_it_is_with_its_velocity(crowd):
    assert 20 <= len(crowd.segments) <= 45
    for blob in crowd.segments:
        left, top, width, height = blob.box
        assert abs(left + width / 2 - (6 + SPEED_PX * blob.frame + SQUARE_PX / 2)) < 3
        assert abs(top + height / 2 - ((24, 40)[blob.video] + SQUARE_PX / 2)) < 3
        assert blob.mask.shape == (height, width)
        assert blob.feet_px == top + height
    velocities = np.array([blob.velocity for blob in crowd.segments])
    assert np.median(velocities, axis=0) == pytest.approx([SPEED_PX, 0], abs=0.5)  # the grid of the flow blurs so small a square


def test_frames_are_looked_at_all_over_the_footage_and_each_is_told():
    told = []
    (found,) = segment_views([one_place(walk(50, 1.0), walk(50, 1.0, top=40))], 20, DisFlow(), lambda: told.append(1))
    assert 16 <= len(told) <= 24
    assert {blob.video for blob in found.segments} == {0, 1}
    assert max(blob.frame for blob in found.segments) - min(blob.frame for blob in found.segments) > 30


def test_each_place_has_its_own_crowd():
    first, second = one_place(walk(40, 1.5)), one_place(walk(40, 1.5, street=road(8)))
    crowds = segment_views([first, second], 40, DisFlow(), lambda: None)
    assert [crowd.view for crowd in crowds] == [first, second]
    assert all(crowd.segments for crowd in crowds)


def test_a_street_on_which_nothing_moves_has_no_blobs_and_still_a_usual_speed():
    empty = one_crowd(np.repeat(road()[None], 20, axis=0).astype(np.uint8))
    assert empty.segments == ()
    assert empty.usual_speed(30.0) > 0


def test_one_frame_alone_shows_no_motion():
    assert one_crowd(walk(1, 1.0)).segments == ()


def test_the_usual_speed_of_a_row_is_that_of_those_who_walk_there():
    near_and_far = [walk(60, speed, top=top) for speed, top in ((0.5, 6), (0.75, 18), (1.0, 30), (1.25, 44))]
    crowd = one_crowd(*near_and_far, frames=200)
    far, near = crowd.usual_speed(6 + SQUARE_PX), crowd.usual_speed(44 + SQUARE_PX)
    assert far == pytest.approx(0.5, abs=0.3)
    assert near == pytest.approx(1.25, abs=0.35)
    assert near > 1.5 * far


@given(st.floats(-1000, 2000))
def test_even_far_outside_the_picture_a_usual_speed_is_positive_and_of_the_order_of_the_others(crowd, row_px):
    assert 0.2 * SPEED_PX < crowd.usual_speed(row_px) < 5 * SPEED_PX


def test_a_cut_out_laid_back_where_it_was_changes_nothing_and_covers_the_blob(crowd):
    found = [(blob, crowd.cut(blob)) for blob in crowd.segments]
    wholly_inside = [(blob, placed) for blob, placed in found if placed is not None]
    assert len(wholly_inside) > 0.8 * len(found)
    for blob, placed in wholly_inside:
        x, y = int(placed.x), int(placed.y)
        height, width = placed.cutout.image.shape
        frame = crowd.view.videos[blob.video][blob.frame]
        assert np.array_equal(placed.cutout.image, frame[y : y + height, x : x + width])
        left, top, wide, high = blob.box
        assert placed.cutout.alpha[top - y : top - y + high, left - x : left - x + wide][blob.mask > 0].min() > 0.5


def test_earlier_on_its_way_it_is_cut_out_further_back(crowd):
    blob = next(blob for blob in crowd.segments if 30 < blob.frame < 40)
    now, before = crowd.cut(blob), crowd.cut(blob, 4)
    assert now is not None
    assert before is not None
    assert now.x - before.x == pytest.approx(4 * blob.velocity[0], abs=1)
    assert before.cutout.alpha.max() == 1
    middles = [np.average(np.indices(part.cutout.alpha.shape)[1], weights=part.cutout.alpha) + part.x for part in (now, before)]
    assert middles[0] - middles[1] == pytest.approx(4 * SPEED_PX, abs=2.5)


def test_before_the_video_began_or_outside_the_picture_nothing_can_be_cut(crowd):
    first = min(crowd.segments, key=lambda blob: blob.frame)
    assert crowd.cut(first, first.frame + 1) is None
    last = max(crowd.segments, key=lambda blob: blob.frame)
    assert crowd.cut(replace(last, velocity=np.array([5.0, 0.0], np.float32)), 20) is None
    assert crowd.frame_px == (HEIGHT_PX, WIDTH_PX)
