import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deploy.calibration import Thresholds
from trainer.evaluation.mistakes import colour_scale, outlined, overlay, tinted, worst_false_alarms, worst_misses

FPS = 10.0
NAN = np.nan
LIMITS = Thresholds(median=1.0, enter=3.0, exit=2.5, bound=1.0)
FRAME = np.full((180, 240, 1), 100, np.uint8)


def one(scores, labels):
    return {"a": np.asarray(scores, np.float32)}, {"a": np.asarray(labels, np.uint8)}


def heatmap(value, lowest=0.0):
    cells = np.full((6, 8), lowest, np.float32)
    cells[1, 2] = value
    return cells


def colourfulness(image):
    return np.ptp(image.astype(int), axis=2)


def test_one_miss_per_stretch():
    scores, labels = one([9, 3, 1, 2, 9] + [9] * 15 + [2, 3], [1] * 22)
    misses = worst_misses(scores, labels, 5.0, FPS)
    assert [(miss.frame, miss.score, miss.first_frame, miss.last_frame, miss.wrong) for miss in misses] == [
        (2, 1.0, 1, 3, True),
        (20, 2.0, 20, 21, True),
    ]


def test_gaps_up_to_a_second_join_stretches():
    scores, labels = one([1] + [9] * 9 + [1] + [9] * 10 + [1], [1] * 22)
    assert [(miss.first_frame, miss.last_frame) for miss in worst_misses(scores, labels, 5.0, FPS)] == [(0, 10), (21, 21)]


def test_false_alarms_come_highest_first():
    scores, labels = one([5, 1, 9, 9] + [1] * 20 + [7], [0, 0, 0, 1] + [0] * 21)
    alarms = worst_false_alarms(scores, labels, 5.0, FPS)
    assert [(alarm.frame, alarm.score, alarm.first_frame) for alarm in alarms] == [(2, 9.0, 0), (24, 7.0, 24)]


def test_clip_without_mistakes_shows_its_closest_frame():
    scores = {"good": np.array([1, 2, 8, 7], np.float32), "bad": np.array([6, 3], np.float32)}
    labels = {"good": np.array([0, 0, 1, 1], np.uint8), "bad": np.array([0, 1], np.uint8)}
    assert [(miss.clip, miss.frame, miss.wrong) for miss in worst_misses(scores, labels, 5.0, FPS)] == [
        ("bad", 1, True),
        ("good", 3, False),
    ]
    assert [(alarm.clip, alarm.frame, alarm.wrong) for alarm in worst_false_alarms(scores, labels, 5.0, FPS)] == [
        ("bad", 0, True),
        ("good", 1, False),
    ]


def test_unscored_frames_are_no_mistakes():
    scores, labels = one([NAN, NAN, 9], [1, 0, 1])
    assert worst_false_alarms(scores, labels, 5.0, FPS) == []
    assert [miss.frame for miss in worst_misses(scores, labels, 5.0, FPS)] == [2]


@given(
    arrays.arrays(np.float32, 60, elements=st.sampled_from([0.0, 1.0, 5.0, 8.0, NAN])),
    arrays.arrays(np.uint8, 60, elements=st.integers(0, 1)),
)
def test_every_missed_frame_is_in_one_stretch(row, truth):
    misses = [miss for miss in worst_misses({"a": row}, {"a": truth}, 5.0, FPS) if miss.wrong]
    for frame in np.flatnonzero((truth == 1) & (row < 5.0)):
        (stretch,) = [miss for miss in misses if miss.first_frame <= frame <= miss.last_frame]
        assert stretch.score <= row[frame]
    assert [miss.score for miss in misses] == sorted(miss.score for miss in misses)


def test_no_colour_up_to_the_median():
    image = overlay(FRAME, np.full((6, 8), 1.0, np.float32), LIMITS)
    assert image.shape == (360, 480, 3)
    assert colourfulness(image).max() == 0
    assert set(np.unique(image[4:-4, 4:-4])) <= {100, 255}


def test_colour_only_where_the_map_is_high():
    image = overlay(FRAME, heatmap(9.0), LIMITS)
    assert colourfulness(image)[90, 150] > 50
    assert colourfulness(image)[300, 400] == 0


def test_equal_values_have_equal_colours():
    plain, contrasted = (overlay(FRAME, heatmap(3.0, lowest), LIMITS) for lowest in (0.0, -50.0))
    assert np.abs(plain[88:92, 148:152].astype(int) - contrasted[88:92, 148:152]).max() <= 40
    assert colourfulness(overlay(FRAME, heatmap(2.0), LIMITS))[90, 150] < colourfulness(plain)[90, 150]


@pytest.mark.parametrize("value", [0.5, 9.0])
def test_peak_is_outlined(value):
    white = np.argwhere((overlay(FRAME, heatmap(value), LIMITS) == 255).all(axis=2))
    assert (white.min(axis=0).tolist(), white.max(axis=0).tolist()) == ([60, 120], [119, 179])


def test_large_frames_keep_their_size():
    assert overlay(np.zeros((720, 1280, 3), np.uint8), heatmap(2.0), LIMITS).shape == (720, 1280, 3)
    assert tinted(FRAME, heatmap(2.0), LIMITS).shape == (180, 240, 3)


def test_outline_keeps_the_inside():
    mask = np.zeros((8, 8), bool)
    mask[2:6, 2:6] = True
    image = outlined(np.zeros((16, 16, 3), np.uint8), mask)
    assert (image[4, 4:12] == (255, 255, 0)).all()
    assert image[5:11, 5:11].max() == image[:4].max() == 0


def test_colour_scale_goes_from_grey_to_the_strongest_colour():
    colour = colourfulness(colour_scale(LIMITS))
    assert colour[:, 0].max() == 0
    assert colour[:, -1].min() > 60
