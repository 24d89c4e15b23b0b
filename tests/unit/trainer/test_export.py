"""Bundles of a recurrent network: calibration, golden clips with their states, golden sequences."""

import numpy as np
import pytest
import torch

from deploy.bundle import Bundle, ModelCard, read_golden
from deploy.engine import EngineRequest
from deploy.registry import load_engine
from deploy.sequences import read_sequences, score_sequences
from deploy.validation.accuracy import check_parity, compare_scores
from tests.harness.recurrent_toy import DEFAULT_PROFILE, KIND, RecurrentToy, toy_spec
from trainer.calibrate import calibration_from
from trainer.data.clips import Split, alternate_blocks
from trainer.data.footage import Footage
from trainer.evaluation.runner import score_clips
from trainer.export import GOLDEN_STATES, SEQUENCE_FRAMES, TrainedModel, golden_sequences, make_bundle

SPEC = toy_spec(16, 24)


class ToyNetwork(RecurrentToy):
    def fit_scale(self, learned, held_out, fps) -> torch.Tensor:
        """The scores of the toy have a fixed scale."""
        return torch.tensor(DEFAULT_PROFILE)


def footage(name: str, frames: int, seed: int) -> Footage:
    noise = np.random.default_rng(seed).integers(0, 200, (frames, *SPEC.frame_shape), dtype=np.uint8)
    return Footage(name, noise, np.arange(frames), frames, ())


@pytest.fixture(scope="module")
def split() -> Split:
    return Split(train=(footage("learned", 20, 1),), validation=(footage("one", 40, 2), footage("two", 25, 3)))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, split: Split) -> Bundle:
    card = ModelCard(kind=KIND, config={})
    return make_bundle(tmp_path_factory.mktemp("bundle"), TrainedModel(ToyNetwork(), card, SPEC, {}), split)


def test_calibrated_on_blocks_that_set_no_range(bundle: Bundle, split: Split) -> None:
    rows = [row for _, row in score_clips(load_engine(bundle, EngineRequest("onnx")), split.validation)]
    _, blocks = alternate_blocks(split.validation)
    calibrated = [np.full_like(row, np.nan) for row in rows]
    for video, row, kept in zip(split.validation, rows, calibrated, strict=True):
        for block in blocks:
            if block.name == video.name:
                kept[block.index] = row[block.index]
    expected = calibration_from(calibrated, SPEC.fps)
    assert bundle.calibration.observed_s == pytest.approx(2.5)
    assert bundle.calibration.peaks == pytest.approx(expected.peaks, rel=1e-5)


def test_golden_clips_have_their_states(bundle: Bundle, split: Split) -> None:
    golden = read_golden(bundle)
    assert len(golden.clips) == GOLDEN_STATES
    first = split.validation[0].frames[: 65 // (2 * GOLDEN_STATES) + 1]
    assert np.array_equal(golden.clips[0, 0], first[-1])
    engine, state = load_engine(bundle, EngineRequest("onnx")), None
    for frame in first[:-1]:
        state = engine.score(frame[np.newaxis, np.newaxis], state).state
    np.testing.assert_allclose(golden.state[0], state[0], rtol=1e-5)


@pytest.mark.parametrize("name", ["openvino", "onnx"])
def test_engines_agree_on_golden_clips(bundle: Bundle, name: str) -> None:
    assert check_parity(load_engine(bundle, EngineRequest(name)), read_golden(bundle)).max_state_error < 1e-5


def test_videos_start_with_empty_state(bundle: Bundle) -> None:
    weights = read_golden(bundle).state[:, 1, 0, 0]
    frames_before = [16, 48 - 40]
    assert weights == pytest.approx([2 - 0.5 ** (frames - 1) for frames in frames_before])


def sequences(*lengths):
    videos = [footage(f"video {number}", length, number) for number, length in enumerate(lengths)]
    return videos, golden_sequences(ToyNetwork(), SPEC, videos, torch.tensor(DEFAULT_PROFILE))


def test_second_half_of_sequences_is_hurried():
    (video,), found = sequences(200)
    assert found.frames.shape == (2, SEQUENCE_FRAMES, *SPEC.frame_shape)
    half = SEQUENCE_FRAMES // 2
    np.testing.assert_array_equal(found.frames[0, :half], video.frames[:half])
    np.testing.assert_array_equal(found.frames[0, half:], video.frames[half : half + 3 * half : 3])
    np.testing.assert_array_equal(found.frames[1, 0], video.frames[4 * half])
    assert found.sped_up.tolist() == [[False] * half + [True] * half] * 2


def test_sequences_are_spread_over_videos():
    videos, found = sequences(100, 100, 100)
    assert [row[0].tobytes() for row in found.frames] == [videos[0].frames[0].tobytes(), videos[2].frames[0].tobytes()]


@pytest.mark.parametrize("lengths", [(1,), (3, 2), (50,), (95, 40)])
def test_short_footage_gives_one_short_sequence(lengths):
    _, found = sequences(*lengths)
    assert found.frames.shape[:2] == found.score.shape == (1, 2 * max(1, max(lengths) // 4))
    assert np.isfinite(found.score).all()


def test_engines_agree_on_golden_sequences(bundle):
    stored = read_sequences(bundle)
    for name in ("openvino", "onnx"):
        scores = score_sequences(load_engine(bundle, EngineRequest(name)), stored.frames)
        assert compare_scores("f32", scores, stored).max_error < 1e-5
