"""A recurrent network becomes a bundle like any other: scores by sequences, golden clips with their true states."""

import numpy as np
import pytest

from deploy.bundle import Bundle, ModelCard, read_golden
from deploy.engine import EngineRequest
from deploy.engines.registry import load_engine
from deploy.validation.parity import check_parity
from tests.harness.recurrent_toy import KIND, RecurrentToy, toy_spec
from trainer.calibrate import calibration_from
from trainer.data.clips import Split
from trainer.data.footage import Footage
from trainer.evaluation.runner import score_clips
from trainer.export import GOLDEN_STATES, Finished, make_bundle

SPEC = toy_spec(16, 24)


class Trained(RecurrentToy):
    def fit_scale(self, learned, held_out) -> None:
        """The toy's scores have their scale."""


def footage(name: str, frames: int, seed: int) -> Footage:
    noise = np.random.default_rng(seed).integers(0, 200, (frames, *SPEC.frame_shape), dtype=np.uint8)
    return Footage(name, noise, np.arange(frames), frames, ())


@pytest.fixture(scope="module")
def split() -> Split:
    return Split(train=(footage("learned", 20, 1),), validation=(footage("one", 40, 2), footage("two", 25, 3)))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, split: Split) -> Bundle:
    card = ModelCard(kind=KIND, config={})
    return make_bundle(tmp_path_factory.mktemp("bundle"), Finished(Trained(), card, SPEC, {}), split)


def test_the_calibration_is_that_of_the_sequences_scored_by_an_engine(bundle: Bundle, split: Split) -> None:
    rows = [row for _, row in score_clips(load_engine(bundle, EngineRequest("onnx")), split.validation)]
    expected = calibration_from(np.concatenate(rows))
    assert bundle.calibration.frames == 65
    assert (bundle.calibration.median, bundle.calibration.q99) == pytest.approx((expected.median, expected.q99), rel=1e-5)


def test_golden_clips_lie_in_the_middle_of_sequences_and_have_the_states_that_led_there(bundle: Bundle, split: Split) -> None:
    golden = read_golden(bundle)
    assert len(golden.clips) == GOLDEN_STATES
    first = split.validation[0].frames[: 65 // (2 * GOLDEN_STATES) + 1]
    assert np.array_equal(golden.clips[0, 0], first[-1])
    engine, state = load_engine(bundle, EngineRequest("onnx")), None
    for frame in first[:-1]:
        state = engine.score(frame[np.newaxis, np.newaxis], state).state
    np.testing.assert_allclose(golden.state[0], state[0], rtol=1e-5)


@pytest.mark.parametrize("name", ["openvino", "onnx"])
def test_engines_agree_with_the_network(bundle: Bundle, name: str) -> None:
    assert check_parity(load_engine(bundle, EngineRequest(name)), read_golden(bundle)).max_state_error < 1e-5


def test_every_video_begins_without_a_state(bundle: Bundle) -> None:
    weights = read_golden(bundle).state[:, 1, 0, 0]
    frames_before = [16, 48 - 40]
    assert weights == pytest.approx([2 - 0.5 ** (frames - 1) for frames in frames_before])
