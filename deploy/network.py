"""A network in half precision: what an engine that takes each operation's type from the graph is given. Needs PyTorch.

Autocast decides what is computed in float16, and it is cautious: convolutions and matrix products. What follows them keeps their
type until a network asks for float32, as ours do before anything is subtracted, squared or summed up to a score.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from deploy.bundle import WEIGHTS_NAME, Bundle
from deploy.errors import BundleIncompatible, backend_errors


class InHalf(nn.Module):
    """A copy of a network to be exported under :func:`half_precision`; it takes and gives what the network does, float32.

    Batch norms that follow a convolution or a matrix product become part of it: the exporter would put them in later, with
    float32 weights on float16 maps.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = deepcopy(network).eval()
        for module in self.network.modules():
            if isinstance(module, nn.Sequential):
                _fuse(module)

    def forward(self, clips: Tensor, state: Tensor | None = None) -> tuple[Tensor, ...]:
        """See the class."""
        results = self.network(clips) if state is None else self.network(clips, state)
        return tuple(result.float() for result in results)


@contextmanager
def half_precision() -> Iterator[None]:
    """Within it, convolutions and matrix products on the CPU are computed in float16."""
    with torch.autocast("cpu", dtype=torch.float16):
        yield


def half_share(graph: bytes) -> float:
    """Of a graph's convolutions and matrix products, the part that gives float16.

    Look before building: a typed engine given float32 by accident is right, and slow without a word.
    """
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(graph)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.value_info, *model.output)}
    products = [node for node in model.node if node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"}]
    in_half = [node for node in products if types.get(node.output[0]) == onnx.TensorProto.FLOAT16]
    return len(in_half) / max(1, len(products))


def _fuse(layers: nn.Sequential) -> None:
    """Replace what is followed by a batch norm by both in one, in place."""
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


def in_half_weights(network: nn.Module) -> nn.Module:
    """Convolutions and matrix products with float16 weights, in place: autocast finds nothing left to cast."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            module.half()
    return network


NETWORKS_GROUP = "oddsight.networks"


def _network_factory(bundle: Bundle) -> Any:
    kind = bundle.manifest.model.kind
    installed = entry_points(group=NETWORKS_GROUP)
    if kind not in installed.names:
        known = ", ".join(sorted(installed.names)) or "none"
        raise BundleIncompatible(f"{bundle.path}: no network of kind {kind!r} is installed; installed kinds: {known}")
    with backend_errors(f"torch: the network {kind!r} cannot be imported"):
        return installed[kind].load()


def load_network(bundle: Bundle) -> Any:
    """The bundle's network with its weights, on the CPU, for serving.

    Raises:
        BundleIncompatible: no network of its kind is installed.
        EngineFailed: it cannot be imported, or takes no such weights.
    """
    from safetensors.torch import load_file

    factory = _network_factory(bundle)
    with backend_errors(f"torch: {bundle.path} cannot be loaded"):
        network = factory(bundle.manifest.model.config)
        network.load_state_dict(load_file(bundle.file(WEIGHTS_NAME)), strict=True)
        return network.eval()
