import cv2
import numpy as np

from tests.unit.trainer.pseudo_anomalies.walk import HEIGHT_PX, SQUARE_PX, WIDTH_PX, footage, one_place, road, walk
from trainer.pseudo_anomalies.segments import camera_views


def brighter(frames: np.ndarray, levels: int) -> np.ndarray:
    return (frames.astype(np.int16) + levels).clip(0, 255).astype(np.uint8)


def test_two_cameras_are_two_places():
    found = camera_views([footage(walk(40, 1.5)), footage(walk(40, 1.5, street=road(8))), footage(walk(30, 2.0))])
    assert [[len(video) for video in place.videos] for place in found] == [[40, 30], [40]]


def test_two_hours_of_one_camera_are_one_place():
    frames = walk(40, 1.5)
    found = camera_views([footage(frames), footage(brighter(frames, 6)), footage(brighter(frames[::-1], -6))])
    assert [len(place.videos) for place in found] == [3]


def test_the_background_is_the_place_without_what_walks_there():
    place = one_place(walk(50, 1.5), walk(50, 1.5, top=40))
    assert np.abs(place.background - road()).max() <= 2
    assert place.background.shape == (HEIGHT_PX, WIDTH_PX)


def test_the_foreground_is_what_walks_there():
    place = one_place(walk(50, 1.5))
    frame = place.videos[0][20]
    mask = place.foreground(frame)
    assert set(np.unique(mask)) == {0, 1}
    _, _, (_, (left, top, width, height, _)), _ = cv2.connectedComponentsWithStats(mask)
    assert abs(left + width / 2 - (6 + 1.5 * 20 + SQUARE_PX / 2)) < 2.5
    assert abs(top + height / 2 - (24 + SQUARE_PX / 2)) < 2.5
    assert 0.8 < width * height / SQUARE_PX**2 < 2.2


def test_a_cloud_before_the_sun_is_no_foreground():
    place = one_place(walk(50, 1.5))
    assert not place.foreground(brighter(road().round().astype(np.uint8), -30)).any()


def test_one_frame_alone_is_a_place_of_its_own():
    (place,) = camera_views([footage(walk(1, 1.0))])
    assert not place.foreground(place.videos[0][0]).any()
