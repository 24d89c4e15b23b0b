"""Golden sequences: what is played, at what pace, and that any engine can repeat the scores."""

import numpy as np
import pytest

from deploy.bundle import ModelCard
from deploy.engine import EngineRequest
from deploy.engines.registry import load_engine
from deploy.golden import read_sequences, score_sequences
from deploy.validation.accuracy import compare_scores
from tests.harness.recurrent_toy import KIND
from tests.unit.trainer.test_finish import SPEC, Trained, footage
from trainer.data.clips import Split
from trainer.export import FRAMES, Finished, golden_sequences, make_bundle


def sequences(*lengths):
    videos = [footage(f"video {number}", length, number) for number, length in enumerate(lengths)]
    return videos, golden_sequences(Trained(), SPEC, videos)


def test_the_second_half_is_played_at_three_times_the_pace():
    (video,), found = sequences(200)
    assert found.frames.shape == (2, FRAMES, *SPEC.frame_shape)
    half = FRAMES // 2
    np.testing.assert_array_equal(found.frames[0, :half], video.frames[:half])
    np.testing.assert_array_equal(found.frames[0, half:], video.frames[half : half + 3 * half : 3])
    np.testing.assert_array_equal(found.frames[1, 0], video.frames[4 * half])
    assert found.hurried.tolist() == [[False] * half + [True] * half] * 2


def test_they_come_from_footage_that_lies_far_apart():
    videos, found = sequences(100, 100, 100)
    assert [row[0].tobytes() for row in found.frames] == [videos[0].frames[0].tobytes(), videos[2].frames[0].tobytes()]


@pytest.mark.parametrize("lengths", [(1,), (3, 2), (50,), (95, 40)])
def test_short_footage_gives_one_short_sequence(lengths):
    _, found = sequences(*lengths)
    assert found.frames.shape[:2] == found.score.shape == (1, 2 * max(1, max(lengths) // 4))
    assert np.isfinite(found.score).all()


def test_engines_give_the_same_scores_from_what_the_bundle_holds(tmp_path):
    split = Split(train=(footage("learned", 20, 1),), validation=(footage("one", 120, 2),))
    bundle = make_bundle(tmp_path / "bundle", Finished(Trained(), ModelCard(kind=KIND, config={}), SPEC, {}), split)
    kept = read_sequences(bundle)
    for name in ("openvino", "onnx"):
        assert (
            compare_scores("f32", score_sequences(load_engine(bundle, EngineRequest(name)), kept.frames), kept).max_error < 1e-5
        )
