import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.models.video_ede.networks import CELL_PX, FlowNet, init_he, normalise_frames, resize_to

FINE, COARSE = 16, 12
eighths = st.integers(8, 14)


def network(history: int = 2) -> FlowNet:
    torch.manual_seed(0)
    net = FlowNet(history, 4, FINE, COARSE).eval()
    init_he(net)
    return net


def frames(count: int, height_px: int, width_px: int) -> torch.Tensor:
    noise = torch.rand(count, 3, 1 + height_px // 4, 1 + width_px // 4, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(255 * noise, (height_px, width_px), mode="bilinear")


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 2), eighths, eighths)
def test_takes_any_multiple_of_8(count, rows, columns):
    with torch.inference_mode():
        seen = network()(frames(count, 8 * rows, 8 * columns))
    assert seen.flow.shape == (count, 2, 2 * rows, 2 * columns)
    assert seen.fine.shape == (count, FINE, 2 * rows, 2 * columns)
    assert seen.coarse.shape == (count, COARSE, rows, columns)
    assert torch.isfinite(seen.flow).all()


def test_crop_has_features_of_its_frame():
    net, whole = network(), frames(1, 352, 352)
    with torch.inference_mode():
        of_whole, of_crop = net(whole), net(whole[:, :, 32:320, 48:336])
    inner = slice(112 // CELL_PX, 176 // CELL_PX)
    rows, columns = slice(144 // CELL_PX, 208 // CELL_PX), slice(160 // CELL_PX, 224 // CELL_PX)
    assert torch.allclose(of_crop.flow[..., inner, inner], of_whole.flow[..., rows, columns], atol=1e-5)
    assert torch.allclose(of_crop.fine[..., inner, inner], of_whole.fine[..., rows, columns], atol=1e-5)
    assert float(of_whole.flow.std()) > 1e-3


def test_outputs_ignore_batch():
    net, several = network(), frames(3, 64, 72)
    with torch.inference_mode():
        together, alone = net(several).flow, torch.cat([net(one[None]).flow for one in several])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("history", [1, 3])
def test_takes_configured_history(history):
    assert network(history)(torch.zeros(1, 1 + history, 64, 64)).flow.shape == (1, 2, 16, 16)


def test_normalises_frames_to_differences():
    seen = normalise_frames(torch.tensor([192.0, 128.0, 192.0]).reshape(1, 3, 1, 1))
    assert seen.flatten().tolist() == [1.0, 1.0, 0.0]
    assert normalise_frames(torch.full((1, 1, 2, 2), 128.0)).tolist() == torch.zeros(1, 1, 2, 2).tolist()


def test_resize_keeps_level():
    assert torch.allclose(resize_to(torch.full((1, 1, 3, 5), 0.7), torch.empty(1, 1, 6, 9)), torch.full((1, 1, 6, 9), 0.7))
