import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.video import VideoInfo
from trainer.baselines.flow import (
    AREA_PX,
    FlowMagnitude,
    FrameDifference,
    baseline_spec,
    first_averages,
    median_background,
    motions,
    next_averages,
    over_frame,
    window_means,
)
from trainer.baselines.run import learn, watch
from trainer.data.footage import Source, find_sources
from trainer.errors import NoFootage
from trainer.statistics import SpeedHistogram, SpeedLine

SPEC = baseline_spec(VideoInfo(96, 64, 10.0))
NAMES = ["frame_difference", "flow_magnitude", "steady_speed"]


@pytest.fixture(scope="module")
def normal(tmp_path_factory, street, pictures):
    """Four clips in which a blob walks."""
    root = tmp_path_factory.mktemp("normal")
    for number in range(4):
        pictures(root / f"{number}", street(40, 1.0, number))
    return find_sources(root)


@pytest.fixture(scope="module")
def field(normal):
    return learn(normal, SPEC, lambda _: None)


@pytest.fixture(scope="module")
def clips(tmp_path_factory, street, pictures):
    """Two clips that begin alike; the second one's blob jumps at the end."""
    root = tmp_path_factory.mktemp("clips")
    calm = street(30, 1.0, 9)
    pictures(root / "calm", calm)
    pictures(root / "rush", np.concatenate([calm[:24], street(30, 4.0, 9)[5:11]]))
    return find_sources(root)


def scores(baselines, source):
    return np.array([[np.nan if heatmap is None else heatmap.max() for heatmap in row] for row in watch(baselines, source, SPEC)])


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_windows_are_all_those_wholly_inside(height, width, side):
    values = np.random.default_rng(0).normal(size=(height, width)).astype(np.float32)
    side_used = min(side, height, width)
    expected = np.lib.stride_tricks.sliding_window_view(values, (side_used, side_used)).mean((2, 3))
    means = window_means(values, side)
    assert np.allclose(means, expected, atol=1e-5)
    laid = over_frame(means, values.shape)
    assert laid.shape == values.shape
    assert laid.max() == means.max()
    assert laid[side_used // 2, side_used // 2] == means[0, 0] or side_used == 1


@pytest.mark.parametrize(
    ("width_px", "height_px", "expected"), [(360, 240, (360, 240)), (1920, 1080, (392, 220)), (20, 20, (32, 32))]
)
def test_large_footage_is_scaled_down_and_none_enlarged_but_to_the_least_a_spec_takes(width_px, height_px, expected):
    spec = baseline_spec(VideoInfo(width_px, height_px, 25.0))
    assert (spec.width_px, spec.height_px) == expected
    assert spec.width_px * spec.height_px < AREA_PX * 1.01
    assert spec.fps == 25.0


def test_motion_is_missing_at_the_first_frame_and_at_unreadable_ones(tmp_path, street, pictures):
    frames = street(5, 1.0)
    folder = pictures(tmp_path / "clip", frames)
    (folder / "2.jpg").write_bytes(b"no picture")
    seen = list(motions(Source("clip", folder), SPEC))
    assert [motion is None for motion in seen] == [True, False, True, False, False]
    assert np.array_equal(seen[3].before, seen[1].now)  # over the gap


def test_the_background_is_what_most_frames_show(normal):
    background = median_background(normal, SPEC, 160)
    assert background.shape == (32, 48)
    assert abs(background.mean() - 110) < 5


def test_a_background_needs_a_readable_frame(tmp_path):
    (tmp_path / "0.jpg").write_bytes(b"no picture")
    with pytest.raises(NoFootage, match="no frame of the training footage is readable"):
        median_background([Source("x", tmp_path)], SPEC, 1)


def test_averages_of_an_even_motion_are_that_motion_and_lose_their_spread():
    backward = np.zeros((6, 40, 2), np.float32)
    backward[..., 0] = -1
    averages = first_averages(backward)
    for _ in range(12):
        averages = next_averages(averages, backward)
    assert averages.velocity[3, 30].tolist() == [1, 0]
    assert averages.spread[3, 30] < 0.1
    assert averages.speed[3, 30] == 1


def test_averages_move_along_and_begin_anew_at_the_border():
    backward = np.zeros((4, 10, 2), np.float32)
    backward[..., 0] = -2
    averages = next_averages(next_averages(first_averages(backward), backward), backward)
    assert averages.age[0].tolist() == [1, 1, 2, 2, 3, 3, 3, 3, 3, 3]


def test_one_step_of_the_averages_by_hand():
    first, second = np.zeros((3, 3, 2), np.float32), np.zeros((3, 3, 2), np.float32)
    first[..., 1], second[..., 0] = -0.3, -0.0
    averages = next_averages(first_averages(first), second)
    # age 2, share 1/3, deviation (0, -0.3): mean 0.3 - 0.1, variance 2/3 (0.09 + 0.09 / 3)
    assert averages.velocity[1, 1] == pytest.approx([0, 0.2])
    assert averages.variance[1, 1] == pytest.approx(2 / 3 * (0.09 + 0.03))


def test_the_line_of_usual_speeds_grows_towards_the_camera():
    counts, rows = SpeedHistogram(20), np.arange(20, dtype=np.float32)[:, None]
    counts.add(np.repeat(0.5 + 0.1 * rows, 50, axis=1), np.ones((20, 50), bool))
    usual = counts.fit_line().row_speeds((16, 7))  # windows of 5 rows: their middles lie 2 rows further
    assert usual.shape == (16, 1)
    assert usual[:, 0] == pytest.approx(0.7 + 0.1 * np.arange(16), abs=0.02)


def test_the_line_is_level_where_one_row_or_none_had_anything_on_it():
    counts = SpeedHistogram(4)
    assert counts.fit_line() == SpeedLine(1.0, 0.0, 4)
    foreground = np.zeros((4, 3), bool)
    foreground[2] = True
    counts.add(np.full((4, 3), 1.5, np.float32), foreground)
    assert counts.fit_line() == SpeedLine(1.5, 0.0, 4)


def test_a_steep_line_never_reaches_zero():
    assert SpeedLine(1.0, -0.5, 10).row_speeds((10, 3)).min() == 0.25


def test_training_frames_are_scored_and_counted(normal):
    steps = []
    field = learn(normal, SPEC, steps.append)
    assert [learned.baseline.name for learned in field.learned] == NAMES
    assert [learned.normal.shape for learned in field.learned] == [(4 * 39,)] * 3
    assert sum(steps) == 160
    assert field.left_out == ()


def test_without_two_training_clips_steady_speed_is_left_out_with_the_reason(normal):
    field = learn([], SPEC, lambda _: None)
    assert [(learned.baseline.name, len(learned.normal)) for learned in field.learned] == [(name, 0) for name in NAMES[:2]]
    assert field.left_out == ("steady_speed is left out: it needs 2 or more training clips, there are 0",)
    assert len(learn(normal[:1], SPEC, lambda _: None).learned) == 2


def test_every_baseline_scores_the_rush_higher_than_what_is_normal(field, clips):
    rush = scores([learned.baseline for learned in field.learned], clips[1])
    assert rush.shape == (30, 3)
    assert np.isnan(rush[0]).all()
    for number, learned in enumerate(field.learned):
        # The blob jumps back to the left once in a while, in training footage, too.
        assert rush[26:, number].max() > np.quantile(learned.normal, 0.95), learned.baseline.name


def test_what_comes_later_changes_no_score(field, clips):
    calm, rush = (scores([learned.baseline for learned in field.learned], clip) for clip in clips)
    assert np.array_equal(calm[1:24], rush[1:24])
    assert not np.allclose(calm[25:], rush[25:])


def test_heat_maps_are_highest_where_the_blob_is(clips):
    motion = list(motions(clips[1], SPEC))[10]
    there = np.abs(motion.now.astype(int) - 110).max(axis=1) > 40  # rows of the blob
    for baseline in (FrameDifference(), FlowMagnitude()):
        heatmap = baseline.watch()(motion)
        row = int(heatmap.max(axis=1).argmax())
        assert there[max(0, row - 14) : row + 14].any(), baseline.name


def test_limits_of_a_training_clip_come_from_the_others(normal, tmp_path, street, pictures):
    """A clip that is unlike the others passes their limits; its own it could not."""
    pictures(tmp_path / "odd", street(40, 4.0, 8))
    jerky = learn([*normal, Source("odd", tmp_path / "odd")], SPEC, lambda _: None).learned[2].baseline.knowledge.jerky
    assert jerky.median + jerky.spread > 0.2  # one frame in a hundred, of five clips


def test_a_training_clip_that_is_unlike_the_others_scores_higher(normal, tmp_path, street, pictures):
    pictures(tmp_path / "odd", street(40, 4.0, 8))
    learned = learn([*normal, Source("odd", tmp_path / "odd")], SPEC, lambda _: None).learned[2]
    assert np.median(learned.normal[-39:]) > np.quantile(learned.normal[:-39], 0.95)
