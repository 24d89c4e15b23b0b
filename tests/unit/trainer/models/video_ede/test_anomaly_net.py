import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.models.video_ede.networks import AnomalyNet, AnomalyOutput, FlowNet, normalise_frames

FINE, COARSE = 16, 12
HEIGHT_PX, WIDTH_PX = 64, 72


def anomaly_net() -> AnomalyNet:
    torch.manual_seed(0)
    net = AnomalyNet(FINE, COARSE, 12, 4).eval()
    net.init_weights()
    return net


@torch.inference_mode()
def output_of(net: AnomalyNet, frames: Tensor) -> AnomalyOutput:
    torch.manual_seed(1)
    features = FlowNet(2, 4, FINE, COARSE)(frames)
    return net(normalise_frames(frames[:, :1]), features, torch.zeros(len(frames), 2, *features.flow.shape[2:]))


def noise(count: int, height_px: int = HEIGHT_PX, width_px: int = WIDTH_PX) -> Tensor:
    return 255 * torch.rand(count, 3, height_px, width_px, generator=torch.Generator().manual_seed(2))


@settings(deadline=None, max_examples=10)
@given(st.integers(1, 2), st.integers(8, 12), st.integers(8, 12))
def test_takes_any_multiple_of_8(count, rows, columns):
    output = output_of(anomaly_net(), noise(count, 8 * rows, 8 * columns))
    assert output.anomaly.shape == (count, 1, 2 * rows, 2 * columns)
    assert output.distance.shape == (count, 1, rows, columns)
    assert output.scene.shape == (count, 3, 2 * rows, 2 * columns)


def test_initial_predictions_are_normal():
    output = output_of(anomaly_net(), noise(2))
    assert float(torch.sigmoid(output.anomaly).mean()) < 0.2
    assert float(torch.sigmoid(output.distance).mean()) < 0.2


def test_outputs_ignore_batch():
    net, frames = anomaly_net(), noise(3)
    together = output_of(net, frames)
    for values, alone in zip(together, zip(*(output_of(net, one[None]) for one in frames), strict=True), strict=True):
        assert torch.allclose(values, torch.cat(alone), atol=1e-5)


def test_logit_grows_with_latent_distance():
    """The second encoder is anomaly_net to return 0, then constants further and further away."""
    net, frames, levels = anomaly_net(), noise(1), []
    last = net.encoder_again[-1]
    for away in (0.0, 1.0, 3.0):
        torch.nn.init.zeros_(last.weight)
        torch.nn.init.constant_(last.bias, 10.0 * away)
        levels.append(float(output_of(net, frames).distance.mean()))
    assert levels == sorted(levels)
    assert levels[-1] > levels[0] + 1.0


@pytest.mark.parametrize("which", ["frame", "position"])
def test_looks_and_position_matter(which):
    net, features = anomaly_net(), FlowNet(2, 4, FINE, COARSE)(noise(1))
    frame, position = normalise_frames(noise(1)[:, :1]), torch.zeros(1, 2, *features.flow.shape[2:])
    with torch.inference_mode():
        before = net(frame, features, position)
        after = net(-frame, features, position) if which == "frame" else net(frame, features, position + 0.5)
    assert not torch.allclose(before.anomaly, after.anomaly, atol=1e-5)
    assert not torch.allclose(before.scene, after.scene, atol=1e-6)
