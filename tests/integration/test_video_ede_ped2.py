"""The default model on frames of UCSD Ped2: scores depend on neither engine, batch, restart nor later frames."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deploy.bundle import WEIGHTS_NAME, Bundle
from deploy.engine import Engine, EngineRequest
from deploy.registry import load_engine
from tests.harness.replay import PED2
from trainer.data.datasets import labelled_clips
from trainer.data.footage import load_footage
from trainer.models.registry import build_video_ede
from trainer.models.video_ede.model import WARMUP_FRAMES

pytestmark = pytest.mark.data

Frames = np.ndarray


@pytest.fixture(scope="module")
def cameras(video_ede_bundle: Bundle) -> list[Frames]:
    """The first frames of four test clips, uint8 (100, H, W, 1)."""
    clips = labelled_clips(PED2)[:4]
    return [load_footage(clip.source, video_ede_bundle.spec).frames[:100] for clip in clips]


@pytest.fixture(scope="module")
def engine(video_ede_bundle: Bundle) -> Engine:
    return load_engine(video_ede_bundle, EngineRequest("openvino"))


@pytest.fixture(scope="module")
def whole(engine: Engine, cameras: list[Frames]) -> np.ndarray:
    """The scores of the first camera's frames."""
    return scored(engine, cameras[0])


def scored(engine: Engine, frames: Frames) -> np.ndarray:
    """One score a frame of one camera."""
    state, scores = None, []
    for frame in frames:
        found = engine.score(frame[None, None], state)
        state = found.state
        scores.append(found.score[0])
    return np.array(scores)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["openvino", "onnx"])
def test_engines_match_network_frame_by_frame(video_ede_bundle, cameras, name):
    network = build_video_ede(video_ede_bundle.manifest.model.config).eval()
    network.load_state_dict(load_file(video_ede_bundle.file(WEIGHTS_NAME)))
    state, expected = torch.zeros(1, *video_ede_bundle.spec.state_shape), []
    profile = torch.from_numpy(video_ede_bundle.default_profile[None])
    for frame in cameras[0]:
        score, _, state = network(torch.from_numpy(frame[None, None]), state, profile)
        expected.append(score.item())
    found = scored(load_engine(video_ede_bundle, EngineRequest(name)), cameras[0])
    assert np.std(expected) > 0
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.std(expected))


def test_scores_ignore_batch_and_order(engine, cameras, whole):
    rng = np.random.default_rng(0)
    states = np.zeros((len(cameras), *engine.spec.state_shape), np.float32)
    of_first = []
    for frames in zip(*(camera[:30] for camera in cameras), strict=True):
        order = rng.permutation(len(cameras))[: rng.integers(1, len(cameras) + 1)]
        order = order if 0 in order else np.append(order, 0)
        found = engine.score(np.stack([frames[camera][None] for camera in order]), states[order])
        states[order] = found.state
        of_first.append(found.score[list(order).index(0)])
    np.testing.assert_allclose(of_first, whole[:30], rtol=1e-4, atol=1e-4 * np.std(whole))


def test_scores_are_causal(engine, cameras, whole):
    other = scored(engine, np.concatenate([cameras[0][:40], 255 - cameras[1][40:]]))
    assert np.array_equal(other[:40], whole[:40])
    assert not np.allclose(other[40:], whole[40:], rtol=0.01)


def test_warm_up_makes_up_for_restart(engine, cameras, whole):
    restarted = scored(engine, cameras[0][20:])
    found, expected = restarted[WARMUP_FRAMES:], whole[20 + WARMUP_FRAMES :]
    assert len(found) > 10
    # Of the averages 0.8^64 is left, which the logarithm of a slow speed makes a little larger.
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5 * np.std(whole))
    assert abs(restarted[0] - whole[20]) > 1e-3 * np.std(whole)
