import pytest
import torch

from deploy.export.onnx import export_onnx
from deploy.spec import ClipSpec
from trainer.models.layers import FewChannelConv2d


@pytest.mark.parametrize("size", [(66, 88), (60, 90), (2, 2), (2, 4), (5, 8), (6, 7)])
@pytest.mark.parametrize("maps", [1, 2])
def test_it_computes_what_a_plain_convolution_computes(size: tuple[int, int], maps: int) -> None:
    torch.manual_seed(0)
    layer = FewChannelConv2d(5, maps).double()
    given = torch.randn(3, 5, *size, dtype=torch.float64)
    plain = torch.nn.functional.conv2d(given, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer.train()(given), plain)
    torch.testing.assert_close(layer.eval()(given), plain)


def test_training_goes_through_the_plain_one_and_weights_have_its_names_and_shapes() -> None:
    layer, plain = FewChannelConv2d(4, 2), torch.nn.Conv2d(4, 2, 3, 1, 1)
    plain.load_state_dict(layer.state_dict())
    given = torch.randn(1, 4, 6, 8)
    layer.train()(given).sum().backward()
    plain(given).sum().backward()
    assert torch.equal(layer.weight.grad, plain.weight.grad)


def test_the_exported_weights_are_constants() -> None:
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
