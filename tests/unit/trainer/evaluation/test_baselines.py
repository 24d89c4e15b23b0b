import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.usual_maps import SpeedHistogram, SpeedLine
from deploy.video import VideoInfo
from trainer.data.footage import Source, find_sources
from trainer.errors import NoFootage
from trainer.evaluate import fit_baselines, score_frames
from trainer.evaluation.baselines import (
    FLOW_MAGNITUDE,
    FRAME_DIFFERENCE,
    MAX_AREA_PX,
    baseline_spec,
    frame_pairs,
    pad_windows,
    window_means,
)
from trainer.evaluation.steady_speed import first_averages, median_background, next_averages

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
def fitted(normal):
    return fit_baselines(normal, SPEC, id)[0]


@pytest.fixture(scope="module")
def clips(tmp_path_factory, street, pictures):
    """Two clips that begin alike; the second one's blob jumps at the end."""
    root = tmp_path_factory.mktemp("clips")
    calm = street(30, 1.0, 9)
    pictures(root / "calm", calm)
    pictures(root / "rush", np.concatenate([calm[:24], street(30, 4.0, 9)[5:11]]))
    return find_sources(root)


def scores(fitted, source):
    rows = score_frames([one.baseline for one in fitted], source, SPEC)
    return np.array([[np.nan if result is None else result[0] for result in row] for row in rows])


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_window_means(height, width, side):
    values = np.random.default_rng(0).normal(size=(height, width)).astype(np.float32)
    side_used = min(side, height, width)
    expected = np.lib.stride_tricks.sliding_window_view(values, (side_used, side_used)).mean((2, 3))
    means = window_means(values, side)
    assert np.allclose(means, expected, atol=1e-5)
    padded = pad_windows(means, values.shape)
    assert padded.shape == values.shape
    assert padded.max() == means.max()
    assert padded[side_used // 2, side_used // 2] == means[0, 0] or side_used == 1


@pytest.mark.parametrize(
    ("width_px", "height_px", "expected"), [(360, 240, (360, 240)), (1920, 1080, (392, 220)), (20, 20, (32, 32))]
)
def test_large_footage_is_scaled_down(width_px, height_px, expected):
    spec = baseline_spec(VideoInfo(width_px, height_px, 25.0))
    assert (spec.width_px, spec.height_px) == expected
    assert spec.width_px * spec.height_px < MAX_AREA_PX * 1.01
    assert spec.fps == 25.0


def test_first_and_unreadable_frames_have_no_pair(tmp_path, street, pictures):
    frames = street(5, 1.0)
    folder = pictures(tmp_path / "clip", frames)
    (folder / "2.jpg").write_bytes(b"no picture")
    pairs = list(frame_pairs(Source("clip", folder), SPEC))
    assert [pair is None for pair in pairs] == [True, False, True, False, False]
    assert np.array_equal(pairs[3].previous, pairs[1].current)  # across the gap


def test_median_background(normal):
    background = median_background(normal, SPEC, 160)
    assert background.shape == (32, 48)
    assert abs(background.mean() - 110) < 5


def test_background_needs_a_readable_frame(tmp_path):
    (tmp_path / "0.jpg").write_bytes(b"no picture")
    with pytest.raises(NoFootage, match="no frame of the training footage is readable"):
        median_background([Source("x", tmp_path)], SPEC, 1)


def test_even_motion_has_no_spread():
    backward = np.zeros((6, 40, 2), np.float32)
    backward[..., 0] = -1
    averages = first_averages(backward)
    for _ in range(12):
        averages = next_averages(averages, backward)
    assert averages.velocity[3, 30].tolist() == [1, 0]
    assert averages.variance[3, 30] < 0.01


def test_averages_move_along_and_restart_at_the_border():
    backward = np.zeros((4, 10, 2), np.float32)
    backward[..., 0] = -2
    averages = next_averages(next_averages(first_averages(backward), backward), backward)
    assert averages.age[0].tolist() == [1, 1, 2, 2, 3, 3, 3, 3, 3, 3]


def test_one_step_of_the_averages():
    first, second = np.zeros((3, 3, 2), np.float32), np.zeros((3, 3, 2), np.float32)
    first[..., 1], second[..., 0] = -0.3, -0.0
    averages = next_averages(first_averages(first), second)
    # age 2, share 1/3, deviation (0, -0.3): mean 0.3 - 0.1, variance 2/3 (0.09 + 0.09 / 3)
    assert averages.velocity[1, 1] == pytest.approx([0, 0.2])
    assert averages.variance[1, 1] == pytest.approx(2 / 3 * (0.09 + 0.03))


def test_usual_speed_grows_towards_the_camera():
    counts, rows = SpeedHistogram(20), np.arange(20, dtype=np.float32)[:, None]
    counts.add(np.repeat(0.5 + 0.1 * rows, 50, axis=1), np.ones((20, 50), bool))
    usual = counts.fit_line().row_speeds((16, 7))  # windows of 5 rows: their middles lie 2 rows further
    assert usual.shape == (16, 1)
    assert usual[:, 0] == pytest.approx(0.7 + 0.1 * np.arange(16), abs=0.02)


def test_speed_line_of_one_row_or_none_is_level():
    counts = SpeedHistogram(4)
    assert counts.fit_line() == SpeedLine(1.0, 0.0, 4)
    foreground = np.zeros((4, 3), bool)
    foreground[2] = True
    counts.add(np.full((4, 3), 1.5, np.float32), foreground)
    assert counts.fit_line() == SpeedLine(1.5, 0.0, 4)


def test_steep_speed_line_stays_positive():
    assert SpeedLine(1.0, -0.5, 10).row_speeds((10, 3)).min() == 0.25


def test_training_frames_are_scored(normal):
    steps = []
    baselines, left_out = fit_baselines(normal, SPEC, steps.append)
    assert [fitted.baseline.name for fitted in baselines] == NAMES
    assert [fitted.normal_scores.shape for fitted in baselines] == [(4 * 39,)] * 3
    assert sum(steps) == 160
    assert left_out == ()


def test_steady_speed_needs_two_clips(normal):
    baselines, left_out = fit_baselines([], SPEC, id)
    assert [(one.baseline.name, len(one.normal_scores), one.median) for one in baselines] == [
        (name, 0, 0.0) for name in NAMES[:2]
    ]
    assert left_out == ("steady_speed is left out: it needs 2 or more training clips, there are 0",)
    assert len(fit_baselines(normal[:1], SPEC, id)[0]) == 2


def test_a_rush_scores_higher_than_normal(fitted, clips):
    rush = scores(fitted, clips[1])
    assert rush.shape == (30, 3)
    assert np.isnan(rush[0]).all()
    for number, one in enumerate(fitted):
        # The blob jumps back to the left once in a while, in training footage, too.
        assert rush[26:, number].max() > np.quantile(one.normal_scores, 0.95), one.baseline.name


def test_scores_are_causal(fitted, clips):
    calm, rush = (scores(fitted, clip) for clip in clips)
    assert np.array_equal(calm[1:24], rush[1:24])
    assert not np.allclose(calm[25:], rush[25:])


@pytest.mark.parametrize("baseline", [FRAME_DIFFERENCE, FLOW_MAGNITUDE], ids=lambda baseline: baseline.name)
def test_heat_map_peaks_at_the_blob(clips, baseline):
    pair = list(frame_pairs(clips[1], SPEC))[10]
    in_blob = np.abs(pair.current.astype(int) - 110).max(axis=1) > 40  # rows
    row = int(baseline.start_clip()(pair).max(axis=1).argmax())
    assert in_blob[max(0, row - 14) : row + 14].any()


def test_limits_come_from_the_other_clips(normal, tmp_path, street, pictures):
    pictures(tmp_path / "odd", street(40, 4.0, 8))
    fitted = fit_baselines([*normal, Source("odd", tmp_path / "odd")], SPEC, id)[0][2]
    jerky = fitted.baseline.jerky
    assert jerky.median + jerky.spread > 0.2  # the odd clip passes the limits of the others; its own it could not
    assert np.median(fitted.normal_scores[-39:]) > np.quantile(fitted.normal_scores[:-39], 0.95)
