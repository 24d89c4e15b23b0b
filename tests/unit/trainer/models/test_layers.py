import pytest
import torch

from deploy.export.onnx import export_onnx
from deploy.spec import ClipSpec
from trainer.models.layers import BatchNorm, FewChannelConv2d, init_dcgan


@pytest.mark.parametrize("size", [(66, 88), (60, 90), (2, 2), (2, 4), (5, 8), (6, 7)])
@pytest.mark.parametrize("maps", [1, 2])
def test_equals_plain_convolution(size: tuple[int, int], maps: int) -> None:
    torch.manual_seed(0)
    layer = FewChannelConv2d(5, maps).double()
    inputs = torch.randn(3, 5, *size, dtype=torch.float64)
    plain = torch.nn.functional.conv2d(inputs, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer.train()(inputs), plain)
    torch.testing.assert_close(layer.eval()(inputs), plain)


def test_gradients_equal_plain_convolution() -> None:
    layer, plain = FewChannelConv2d(4, 2), torch.nn.Conv2d(4, 2, 3, 1, 1)
    plain.load_state_dict(layer.state_dict())
    inputs = torch.randn(1, 4, 6, 8)
    layer.train()(inputs).sum().backward()
    plain(inputs).sum().backward()
    assert torch.equal(layer.weight.grad, plain.weight.grad)


def test_exported_weights_are_constants() -> None:
    """An engine need not compute them anew for every clip, and some take no others."""
    import onnx

    class Score(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = FewChannelConv2d(1, 1)

        def forward(self, clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            heatmap = self.layer(clips.float()[:, 0, :, :, 0][:, None])[:, 0]
            return heatmap.amax(dim=(1, 2)), heatmap

    graph = onnx.load_from_string(export_onnx(Score(), ClipSpec(length=1, height_px=16, width_px=16))).graph
    (convolution,) = (node for node in graph.node if node.op_type == "Conv")
    shapes = {part.name: tuple(part.dims) for part in graph.initializer}
    assert shapes[convolution.input[1]] == (8, 1, 4, 6)


def test_init_is_dcgans():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(64, 64, 4, bias=False), BatchNorm(4096)).apply(init_dcgan)
    convolution, normalisation, shift = (parameter.detach() for parameter in module.parameters())
    assert float(convolution.std()) == pytest.approx(0.02, rel=0.05)
    assert float(normalisation.mean()) == pytest.approx(1.0, abs=0.01)
    assert float(normalisation.std()) == pytest.approx(0.02, rel=0.1)
    assert torch.count_nonzero(shift) == 0
