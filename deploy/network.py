"""PyTorch networks of bundles: loading, and conversion to half precision for engines that read types from the graph.

Autocast decides which operations run in float16: convolutions and matrix products. Networks cast their maps back to float32
before they subtract, square or sum them up to a score.
"""

from copy import deepcopy
from importlib.metadata import entry_points
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from deploy.bundle import WEIGHTS_NAME, Bundle
from deploy.errors import BundleIncompatible, backend_errors

NETWORKS_GROUP = "oddsight.networks"
"""Entry point group of network factories, by model kind. A factory takes the model card's ``config`` and returns a module.

Its ``forward`` maps clips uint8 (N, T, H, W, C) to scores float32 (N,) and heat maps float32 (N, h, w). If the spec has a state,
``forward(clips, state)`` also takes float32 (N, *state_shape) and returns the next state as a third value.
"""


def load_network(bundle: Bundle) -> Any:
    """The bundle's network with its weights, on the CPU, in evaluation mode.

    Raises:
        BundleIncompatible: no network of its kind is installed.
        EngineFailed: it cannot be imported, or its weights do not fit.
    """
    kind, installed = bundle.manifest.model.kind, entry_points(group=NETWORKS_GROUP)
    if kind not in installed.names:
        kinds = ", ".join(sorted(installed.names)) or "none"
        raise BundleIncompatible(f"{bundle.path}: no network of kind {kind!r} is installed; installed kinds: {kinds}")
    with backend_errors(f"torch: the network {kind!r} cannot be imported"):
        factory = installed[kind].load()
    with backend_errors(f"torch: {bundle.path} cannot be loaded"):
        network = factory(bundle.manifest.model.config)
        network.load_state_dict(load_file(bundle.file(WEIGHTS_NAME)), strict=True)
        return network.eval()


class HalfPrecisionNetwork(nn.Module):
    """A copy of a network, to be exported or run under float16 autocast. Inputs and outputs stay float32.

    Batch norms are fused into the convolution or matrix product before them: the exporter would otherwise insert them with
    float32 weights on float16 maps.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = deepcopy(network).eval()
        for module in self.network.modules():
            if isinstance(module, nn.Sequential):
                _fuse_batch_norms(module)

    def forward(self, clips: Tensor, state: Tensor | None = None) -> tuple[Tensor, ...]:
        results = self.network(clips) if state is None else self.network(clips, state)
        return tuple(result.float() for result in results)


def cast_weights_to_half(network: nn.Module) -> nn.Module:
    """Cast the weights of convolutions and matrix products to float16, in place, so that autocast has nothing left to cast."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            module.half()
    return network


def half_share(graph: bytes) -> float:
    """Share, 0 to 1, of an ONNX graph's convolutions and matrix products whose output is float16.

    A strongly typed engine built from a graph that is float32 by mistake gives right scores, only slowly; so check first.
    """
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(graph)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.value_info, *model.output)}
    products = [node for node in model.node if node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"}]
    in_half = [node for node in products if types.get(node.output[0]) == onnx.TensorProto.FLOAT16]
    return len(in_half) / max(1, len(products))


def _fuse_batch_norms(layers: nn.Sequential) -> None:
    for first in range(len(layers) - 1):
        layer, norm = layers[first], layers[first + 1]
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
            continue
        if isinstance(layer, nn.Linear):
            layers[first] = fuse_linear_bn_eval(layer, norm)
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layers[first] = fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, nn.ConvTranspose2d))
        else:
            continue
        layers[first + 1] = nn.Identity()
