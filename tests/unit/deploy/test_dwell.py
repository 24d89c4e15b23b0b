import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.dwell import (
    DWELL_S,
    Map,
    dwell_step,
    empty_background,
    foreground,
    learn_background,
    lights_of,
    reduce_frame,
    update_dwell,
)
from trainer.models.video_ede import dwell as graph

SHAPE = (15, 20)
HOUR_S = 3600.0
RNG = np.random.default_rng(5)
DAY = RNG.uniform(40, 200, SHAPE).astype(np.float32)
NIGHT = 255 - DAY  # infrared light turns much of a picture round


def pictures(of: Map = DAY, count: int = 60, noise: float = 2.0) -> Map:
    return np.asarray(of + RNG.normal(0, noise, (count, *SHAPE)), np.float32)


def with_thing(of: Map = DAY) -> Map:
    (seen,) = pictures(of, 1)
    seen[5:9, 8:11] = 255 - seen[5:9, 8:11]
    seen[6:8, 9] = 250 - 200 * (of[6:8, 9] > 125)
    return seen


def test_nothing_is_foreground_of_ordinary_pictures():
    assert foreground(pictures(), learn_background(pictures(), HOUR_S)).max() == 0.0


@settings(max_examples=50, deadline=None)
@given(gain=st.floats(0.7, 1.4), offset=st.floats(-30, 30))
def test_light_does_not_hide_or_make_a_thing(gain, offset):
    background = learn_background(pictures(), HOUR_S)
    shown = foreground(np.stack([gain * DAY + offset, gain * with_thing() + offset]), background)
    assert shown[0].max() == 0.0
    assert shown[1, 6:8, 9].min() == 1.0
    far = np.ones(SHAPE, bool)
    far[3:11, 6:13] = False
    assert shown[1][far].max() == 0.0


def test_a_change_of_the_whole_picture_is_no_thing():
    assert foreground(np.stack([NIGHT]), learn_background(pictures(), HOUR_S)).max() == 0.0


def test_day_and_night_are_both_usual():
    background = learn_background(np.concatenate([pictures(), pictures(NIGHT, 20)]), HOUR_S)
    assert foreground(np.concatenate([pictures(), pictures(NIGHT)]), background).max() == 0.0
    assert foreground(np.stack([with_thing(NIGHT)]), background)[0, 6:8, 9].min() > 0.5


def test_lights_that_last_equally_long_are_told_apart():
    """The median of all is the picture of neither."""
    background = learn_background(np.concatenate([pictures(), pictures(NIGHT)]), HOUR_S)
    assert background.differences.max() < 10
    assert foreground(np.stack([with_thing(), with_thing(NIGHT)]), background)[:, 6:8, 9].min() > 0.5


def test_each_frame_is_in_the_light_of_the_nearest_picture():
    """With a thing before it and in other exposure too, and in the graph as here."""
    background = learn_background(np.concatenate([pictures(), pictures(NIGHT)]), HOUR_S)
    shown = np.stack([DAY, 0.8 * DAY + 10, with_thing(), NIGHT, 1.2 * NIGHT - 10, with_thing(NIGHT)])
    lights = lights_of(shown, background)
    assert lights.tolist() in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])
    parts = (torch.from_numpy(part).expand(len(shown), -1, -1, -1) for part in background)
    _, in_graph = graph.foreground(torch.from_numpy(shown)[:, None], graph.Background(*parts, torch.zeros(1)))
    assert in_graph.flatten().tolist() == lights.tolist()
    assert not lights_of(shown, learn_background(pictures(), HOUR_S)).any()


@pytest.mark.parametrize("nights", [3, 150])
def test_a_few_pictures_make_no_second_background(nights):
    background = learn_background(np.concatenate([pictures(count=1000), pictures(NIGHT, nights)]), HOUR_S)
    assert np.array_equal(*background.pictures) == (nights == 3)


def test_people_who_pass_do_not_belong_to_the_background():
    passing = pictures()
    for number, picture in enumerate(passing):
        picture[4:10, number % 20] = 0
    background = learn_background(passing, HOUR_S)
    assert np.abs(background.pictures[0] - DAY).max() < 3


def test_without_a_background_nothing_is_foreground():
    assert foreground(np.stack([DAY, NIGHT]), empty_background(SHAPE)).max() == 0.0


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60), st.floats(0, 1, width=32), st.floats(0.02, 1))
def test_dwell_forgets_what_was_longer_ago_than_it_counts(shown, before, step):
    from_nothing, from_something = np.zeros((1, 1), np.float32), np.full((1, 1), before, np.float32)
    for value in [*shown, *[0.3] * (round(1 / step) + 1)]:
        now = np.full((1, 1), value, np.float32)
        from_nothing, from_something = update_dwell(from_nothing, now, step), update_dwell(from_something, now, step)
        assert 0 <= from_nothing <= value
    assert from_nothing == pytest.approx(from_something, abs=1e-5)


@pytest.mark.parametrize("fps", [0.5, 10, 25])
def test_dwell_counts_seconds_of_foreground(fps):
    dwell, found = np.zeros((1, 1), np.float32), []
    for _ in range(round(2 * DWELL_S * fps)):
        dwell = update_dwell(dwell, np.ones((1, 1), np.float32), dwell_step(fps))
        found.append(float(dwell[0, 0]) * DWELL_S)
    expected = [min(number / fps, DWELL_S) for number in range(1, len(found) + 1)]
    assert found == pytest.approx(expected, abs=0.01)


def test_frames_are_reduced_to_the_means_of_their_places():
    frame = np.zeros((20, 24, 1), np.uint8)  # the last four rows are no whole place
    frame[:8, 8:16] = 100
    frame[8:12, 16:] = 41
    assert reduce_frame(frame).tolist() == [[0, 100, 0], [0, 0, 20]]
