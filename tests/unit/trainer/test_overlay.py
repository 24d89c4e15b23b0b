import numpy as np
import pytest

from deploy.bundle import Calibration
from trainer.evaluation.mistakes import overlay

CALIBRATION = Calibration(median=1.0, q99=2.0, q999=2.5, enter=3.0, exit=2.5, frames=100)
FRAME = np.full((180, 240, 1), 100, np.uint8)


def heatmap(value, lowest=0.0):
    cells = np.full((6, 8), lowest, np.float32)
    cells[1, 2] = value
    return cells


def colours(picture):
    return np.ptp(picture.astype(int), axis=2)


def test_up_to_the_median_of_normal_scores_a_frame_keeps_its_own_look():
    picture = overlay(FRAME, np.full((6, 8), 1.0, np.float32), CALIBRATION)
    assert picture.shape == (360, 480, 3)
    assert colours(picture).max() == 0
    assert set(np.unique(picture[4:-4, 4:-4])) <= {100, 255}


def test_a_place_far_above_the_threshold_is_coloured_and_the_rest_is_not():
    picture = overlay(FRAME, heatmap(9.0), CALIBRATION)
    assert colours(picture)[90, 150] > 50
    assert colours(picture)[300, 400] == 0


def test_the_same_value_has_the_same_colour_in_every_picture():
    alone, beside = (overlay(FRAME, heatmap(3.0, lowest), CALIBRATION) for lowest in (0.0, -50.0))
    assert np.abs(alone[88:92, 148:152].astype(int) - beside[88:92, 148:152]).max() <= 40
    assert colours(overlay(FRAME, heatmap(2.0), CALIBRATION))[90, 150] < colours(alone)[90, 150]


@pytest.mark.parametrize("value", [0.5, 9.0])
def test_the_strangest_place_is_outlined_even_where_nothing_is_coloured(value):
    picture = overlay(FRAME, heatmap(value), CALIBRATION)
    white = np.argwhere((picture == 255).all(axis=2))
    assert (white.min(axis=0).tolist(), white.max(axis=0).tolist()) == ([60, 120], [119, 179])


def test_large_and_coloured_frames_keep_their_size():
    assert overlay(np.zeros((720, 1280, 3), np.uint8), heatmap(2.0), CALIBRATION).shape == (720, 1280, 3)
