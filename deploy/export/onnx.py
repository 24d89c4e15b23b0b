"""Export a trained network to the files of a bundle: serving graph and weights. Needs PyTorch (``oddsight[train]``)."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from deploy.spec import ClipSpec

if TYPE_CHECKING:
    from torch import nn

OPSET = 20
"""Supported by ONNX Runtime 1.20, OpenVINO 2025 and TensorRT 10; pinned, so that a newer PyTorch does not raise it."""

_FOLDED_BYTES = 1 << 20


def export_onnx(network: "nn.Module", spec: ClipSpec, *, half: bool = False) -> bytes:
    """Export a network on the CPU as ``model.onnx``; the same bytes for the same network and weights.

    ``network.forward`` takes uint8 (N, T, H, W, C) and returns score (N,) and heat map (N, h, w), both float32. The graph's
    input is ``clips``, its outputs are ``score`` and ``heatmap``; N is free, the other sizes are those of ``spec``. If the spec
    has a state, ``forward(clips, state)`` also takes float32 (N, *state_shape) and returns the next state as its third value:
    the input ``state`` and the output ``next_state``.

    ``half``: convolutions and matrix products in float16 (:mod:`deploy.network`), for engines that take precision from the
    graph. Inputs and outputs are the same.
    """
    import onnx

    was_training = network.training
    network.eval()
    try:
        with _quiet():
            graph = _export_half(network, spec) if half else _export(network, spec)
    finally:
        network.train(was_training)
    onnx.checker.check_model(graph, full_check=True)
    content: bytes = graph.SerializeToString(deterministic=True)
    return content


def save_weights(network: "nn.Module") -> bytes:
    """Content of ``weights.safetensors``: all parameters and buffers of a network."""
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()})


def _export(network: "nn.Module", spec: ClipSpec) -> Any:
    import onnx_ir.passes.common
    import onnxscript.optimizer
    import torch

    # Two clips, because torch.export treats a size of one as a constant.
    inputs = {"clips": torch.zeros((2, *spec.clip_shape), dtype=torch.uint8)}
    if spec.state_shape is not None:
        inputs["state"] = torch.zeros((2, *spec.state_shape))
    program: Any = torch.onnx.export(
        network,
        tuple(inputs.values()),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("clips_n", min=1)},) * len(inputs),
        input_names=list(inputs),
        output_names=["score", "heatmap", "next_state"][: len(inputs) + 1],
        opset_version=OPSET,
        verbose=False,
    )
    # The exporter leaves computations on weights in the graph, and not every engine treats their results as constants.
    onnxscript.optimizer.fold_constants(program.model, input_size_limit=_FOLDED_BYTES, output_size_limit=_FOLDED_BYTES)
    onnx_ir.passes.common.RemoveUnusedNodesPass()(program.model)
    # The exporter stores stack traces with paths of this machine.
    onnx_ir.passes.common.ClearMetadataAndDocStringPass()(program.model)
    return program.model_proto


def _export_half(network: "nn.Module", spec: ClipSpec) -> Any:
    from deploy.network import HalfPrecisionNetwork, half_precision

    copy = HalfPrecisionNetwork(network)
    with half_precision():
        return _export(copy, spec)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings of its own deprecated calls and of packages that no network here needs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
