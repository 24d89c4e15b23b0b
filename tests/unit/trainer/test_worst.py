import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from trainer.evaluation.mistakes import worst_false_alarms, worst_misses

FPS = 10.0
NAN = np.nan


def one(scores, labels):
    return {"a": np.asarray(scores, np.float32)}, {"a": np.asarray(labels, np.uint8)}


def test_a_stretch_of_missed_frames_is_one_mistake_and_its_lowest_frame_stands_for_it():
    scores, labels = one([9, 3, 1, 2, 9] + [9] * 15 + [2, 3], [1] * 22)
    misses = worst_misses(scores, labels, 5.0, FPS)
    assert [(miss.frame, miss.score, miss.first_frame, miss.last_frame, miss.wrong) for miss in misses] == [
        (2, 1.0, 1, 3, True),
        (20, 2.0, 20, 21, True),
    ]


def test_wrong_frames_less_than_a_second_apart_belong_together():
    scores, labels = one([1] + [9] * 9 + [1] + [9] * 10 + [1], [1] * 22)
    assert [(miss.first_frame, miss.last_frame) for miss in worst_misses(scores, labels, 5.0, FPS)] == [(0, 10), (21, 21)]


def test_false_alarms_are_normal_frames_that_reach_the_threshold_highest_first():
    scores, labels = one([5, 1, 9, 9] + [1] * 20 + [7], [0, 0, 0, 1] + [0] * 21)
    alarms = worst_false_alarms(scores, labels, 5.0, FPS)
    assert [(alarm.frame, alarm.score, alarm.first_frame) for alarm in alarms] == [(2, 9.0, 0), (24, 7.0, 24)]


def test_a_clip_without_mistakes_shows_its_nearest_frame_as_right():
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


def test_frames_without_a_score_and_clips_of_the_other_class_are_no_mistakes():
    scores, labels = one([NAN, NAN, 9], [1, 0, 1])
    assert worst_false_alarms(scores, labels, 5.0, FPS) == []
    assert [miss.frame for miss in worst_misses(scores, labels, 5.0, FPS)] == [2]


@given(
    arrays.arrays(np.float32, 60, elements=st.sampled_from([0.0, 1.0, 5.0, 8.0, NAN])),
    arrays.arrays(np.uint8, 60, elements=st.integers(0, 1)),
)
def test_every_missed_frame_lies_in_one_stretch_and_none_scores_lower_than_its_picture(row, truth):
    misses = [miss for miss in worst_misses({"a": row}, {"a": truth}, 5.0, FPS) if miss.wrong]
    for frame in np.flatnonzero((truth == 1) & (row < 5.0)):
        (around,) = [miss for miss in misses if miss.first_frame <= frame <= miss.last_frame]
        assert around.score <= row[frame]
    assert [miss.score for miss in misses] == sorted(miss.score for miss in misses)
