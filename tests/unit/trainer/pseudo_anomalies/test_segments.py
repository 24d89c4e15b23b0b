from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.trainer.pseudo_anomalies.walk import HEIGHT_PX, SQUARE_PX, WIDTH_PX, footage, one_view, road, segmented, walk
from trainer.pseudo_anomalies.segments import DisFlow, SegmentedView, camera_views, segment_views

SPEED_PX = 1.5


@pytest.fixture(scope="module")
def view() -> SegmentedView:
    return segmented(walk(50, SPEED_PX), walk(50, SPEED_PX, top=40))


def brighter(frames: np.ndarray, levels: int) -> np.ndarray:
    return (frames.astype(np.int16) + levels).clip(0, 255).astype(np.uint8)


def test_separates_cameras():
    found = camera_views([footage(walk(40, 1.5)), footage(walk(40, 1.5, street=road(8))), footage(walk(30, 2.0))])
    assert [[len(video) for video in place.videos] for place in found] == [[40, 30], [40]]


def test_joins_videos_of_one_camera():
    frames = walk(40, 1.5)
    found = camera_views([footage(frames), footage(brighter(frames, 6)), footage(brighter(frames[::-1], -6))])
    assert [len(place.videos) for place in found] == [3]


def test_background_is_empty_street():
    place = one_view(walk(50, 1.5), walk(50, 1.5, top=40))
    assert np.abs(place.background - road()).max() <= 2
    assert place.background.shape == (HEIGHT_PX, WIDTH_PX)


def test_foreground_is_moving_square():
    place = one_view(walk(50, 1.5))
    frame = place.videos[0][20]
    mask = place.foreground(frame)
    assert set(np.unique(mask)) == {0, 1}
    _, _, (_, (left, top, width, height, _)), _ = cv2.connectedComponentsWithStats(mask)
    assert abs(left + width / 2 - (6 + 1.5 * 20 + SQUARE_PX / 2)) < 2.5
    assert abs(top + height / 2 - (24 + SQUARE_PX / 2)) < 2.5
    assert 0.8 < width * height / SQUARE_PX**2 < 2.2


def test_brightness_change_is_no_foreground():
    place = one_view(walk(50, 1.5))
    assert not place.foreground(brighter(road().round().astype(np.uint8), -30)).any()


def test_single_frame_makes_a_view():
    (place,) = camera_views([footage(walk(1, 1.0))])
    assert not place.foreground(place.videos[0][0]).any()


def test_finds_moving_square(view):
    assert 20 <= len(view.segments) <= 45
    for segment in view.segments:
        left, top, width, height = segment.box
        assert abs(left + width / 2 - (6 + SPEED_PX * segment.frame + SQUARE_PX / 2)) < 3
        assert abs(top + height / 2 - ((24, 40)[segment.video] + SQUARE_PX / 2)) < 3
        assert segment.mask.shape == (height, width)
        assert segment.feet_px == top + height
    velocities = np.array([segment.velocity for segment in view.segments])
    assert np.median(velocities, axis=0) == pytest.approx([SPEED_PX, 0], abs=0.5)  # the grid of the flow blurs so small a square


def test_samples_frames_evenly():
    calls = []
    (found,) = segment_views([one_view(walk(50, 1.0), walk(50, 1.0, top=40))], 20, DisFlow(), lambda: calls.append(1))
    assert 16 <= len(calls) <= 24
    assert {segment.video for segment in found.segments} == {0, 1}
    assert max(segment.frame for segment in found.segments) - min(segment.frame for segment in found.segments) > 30


def test_segments_each_view():
    first, second = one_view(walk(40, 1.5)), one_view(walk(40, 1.5, street=road(8)))
    views = segment_views([first, second], 40, DisFlow(), lambda: None)
    assert [view.view for view in views] == [first, second]
    assert all(view.segments for view in views)


def test_empty_street_has_usual_speed():
    empty = segmented(np.repeat(road()[None], 20, axis=0).astype(np.uint8))
    assert empty.segments == ()
    assert empty.usual_speed(30.0) > 0


def test_single_frame_has_no_segments():
    assert segmented(walk(1, 1.0)).segments == ()


def test_usual_speed_depends_on_row():
    near_and_far = [walk(60, speed, top=top) for speed, top in ((0.5, 6), (0.75, 18), (1.0, 30), (1.25, 44))]
    view = segmented(*near_and_far, frames=200)
    far, near = view.usual_speed(6 + SQUARE_PX), view.usual_speed(44 + SQUARE_PX)
    assert far == pytest.approx(0.5, abs=0.3)
    assert near == pytest.approx(1.25, abs=0.35)
    assert near > 1.5 * far


@given(st.floats(-1000, 2000))
def test_usual_speed_is_bounded(view, row_px):
    assert 0.2 * SPEED_PX < view.usual_speed(row_px) < 5 * SPEED_PX


def test_cutout_covers_segment(view):
    found = [(segment, view.cut(segment)) for segment in view.segments]
    wholly_inside = [(segment, placed) for segment, placed in found if placed is not None]
    assert len(wholly_inside) > 0.8 * len(found)
    for segment, placed in wholly_inside:
        x, y = int(placed.x), int(placed.y)
        height, width = placed.cutout.image.shape
        frame = view.view.videos[segment.video][segment.frame]
        assert np.array_equal(placed.cutout.image, frame[y : y + height, x : x + width])
        left, top, wide, high = segment.box
        assert placed.cutout.alpha[top - y : top - y + high, left - x : left - x + wide][segment.mask > 0].min() > 0.5


def test_cuts_along_the_track(view):
    segment = next(segment for segment in view.segments if 30 < segment.frame < 40)
    now, before = view.cut(segment), view.cut(segment, 4)
    assert now is not None
    assert before is not None
    assert now.x - before.x == pytest.approx(4 * segment.velocity[0], abs=1)
    assert before.cutout.alpha.max() == 1
    middles = [np.average(np.indices(part.cutout.alpha.shape)[1], weights=part.cutout.alpha) + part.x for part in (now, before)]
    assert middles[0] - middles[1] == pytest.approx(4 * SPEED_PX, abs=2.5)


def test_no_cutout_outside_video_or_image(view):
    first = min(view.segments, key=lambda segment: segment.frame)
    assert view.cut(first, first.frame + 1) is None
    last = max(view.segments, key=lambda segment: segment.frame)
    assert view.cut(replace(last, velocity=np.array([5.0, 0.0], np.float32)), 20) is None
    assert view.frame_px == (HEIGHT_PX, WIDTH_PX)
