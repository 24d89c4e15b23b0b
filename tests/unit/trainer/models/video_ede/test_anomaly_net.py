import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.models.video_ede.networks import AnomalyNet, AnomalyOutput, FlowNet, normalise_frames

FINE, COARSE = 16, 12
HEIGHT_PX, WIDTH_PX = 64, 72


def made() -> AnomalyNet:
    torch.manual_seed(0)
    judge = AnomalyNet(FINE, COARSE, 12, 4).eval()
    judge.init_weights()
    return judge


@torch.inference_mode()
def judged(judge: AnomalyNet, frames: Tensor) -> AnomalyOutput:
    torch.manual_seed(1)
    seen = FlowNet(2, 4, FINE, COARSE)(frames)
    return judge(normalise_frames(frames[:, :1]), seen, torch.zeros(len(frames), 2, *seen.flow.shape[2:]))


def noise(count: int, height_px: int = HEIGHT_PX, width_px: int = WIDTH_PX) -> Tensor:
    return 255 * torch.rand(count, 3, height_px, width_px, generator=torch.Generator().manual_seed(2))


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 2), st.integers(8, 12), st.integers(8, 12))
def test_every_size_of_multiples_of_8_is_judged_on_its_grids(count, rows, columns):
    found = judged(made(), noise(count, 8 * rows, 8 * columns))
    assert found.anomaly.shape == (count, 1, 2 * rows, 2 * columns)
    assert found.distance.shape == (count, 1, rows, columns)
    assert found.scene.shape == (count, 3, 2 * rows, 2 * columns)


def test_it_begins_with_the_opinion_that_hardly_anything_is_strange():
    found = judged(made(), noise(2))
    assert float(torch.sigmoid(found.anomaly).mean()) < 0.2
    assert float(torch.sigmoid(found.distance).mean()) < 0.2


def test_frames_of_a_batch_are_judged_each_by_itself():
    judge, frames = made(), noise(3)
    together = judged(judge, frames)
    for values, alone in zip(together, zip(*(judged(judge, one[None]) for one in frames), strict=True), strict=True):
        assert torch.allclose(values, torch.cat(alone), atol=1e-5)


def test_the_larger_the_distance_of_the_latents_the_stranger():
    """The second encoder is made to answer nothing but 0, then something further and further away."""
    judge, frames, levels = made(), noise(1), []
    last = judge.encoder_again[-1]
    for away in (0.0, 1.0, 3.0):
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.constant_(last.bias, 10.0 * away)
        levels.append(float(judged(judge, frames).distance.mean()))
    assert levels == sorted(levels)
    assert levels[-1] > levels[0] + 1.0


@pytest.mark.parametrize("which", ["frame", "place"])
def test_looks_and_place_both_matter(which):
    judge, seen = made(), FlowNet(2, 4, FINE, COARSE)(noise(1))
    frame, place = normalise_frames(noise(1)[:, :1]), torch.zeros(1, 2, *seen.flow.shape[2:])
    with torch.inference_mode():
        before = judge(frame, seen, place)
        after = judge(-frame, seen, place) if which == "frame" else judge(frame, seen, place + 0.5)
    assert not torch.allclose(before.anomaly, after.anomaly, atol=1e-5)
    assert not torch.allclose(before.scene, after.scene, atol=1e-6)
