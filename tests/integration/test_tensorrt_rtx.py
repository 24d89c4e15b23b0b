"""NVIDIA's own parser and builder (TensorRT for RTX, on the CPU) take the shipped model, typed as it was exported.

It proves that the parser and the rules of strong typing accept the graph and its profiles, and which precision the convolutions
are really given. It proves nothing about speed, numbers, or the other TensorRT, which has a compiler of its own.
"""

from collections import Counter
from typing import Any

import pytest
import torch

from deploy.export import export_onnx
from tests.integration.test_half_precision import shipped_graph
from trainer.clip_models import clip_model

trt = pytest.importorskip("tensorrt_rtx", reason="no TensorRT for RTX for this platform: pip install 'oddsight[dev]'")


class Log(trt.ILogger):  # type: ignore[misc]  # no type hints
    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.problems: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        if severity <= trt.ILogger.Severity.ERROR:
            self.problems.append(message)


class Parsed:
    """A graph as the parser understands it."""

    def __init__(self, graph: bytes) -> None:
        self.log = Log()
        self.builder = trt.Builder(self.log)
        self.network = self.builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(self.network, self.log)
        assert parser.parse(graph), self.log.problems

    def types(self, kind: str) -> Counter[str]:
        """How many layers of a kind give which type."""
        layers = [self.network.get_layer(number) for number in range(self.network.num_layers)]
        return Counter(layer.get_output(0).dtype.name for layer in layers if layer.type.name == kind)

    def built(self, clips: int) -> int:
        """Bytes of a plan for so many clips."""
        profile, config = self.builder.create_optimization_profile(), self.builder.create_builder_config()
        for number in range(self.network.num_inputs):
            given = self.network.get_input(number)
            shape = (clips, *tuple(given.shape)[1:])
            profile.set_shape(given.name, shape, shape, shape)
        assert config.add_optimization_profile(profile) >= 0, self.log.problems
        plan = self.builder.build_serialized_network(self.network, config)
        assert plan is not None, self.log.problems
        return int(plan.nbytes)


@pytest.mark.parametrize(("half", "expected"), [(False, "FLOAT"), (True, "HALF")], ids=["f32", "f16"])
def test_the_shipped_model_is_parsed_and_built_with_all_convolutions_in_its_precision(half: bool, expected: str) -> None:
    parsed = Parsed(shipped_graph(half=half))
    assert parsed.types("CONVOLUTION") == {expected: 29}
    assert set(parsed.types("REDUCE")) == set(parsed.types("GRID_SAMPLE")) == set(parsed.types("POOLING")) == {"FLOAT"}
    assert parsed.built(clips=8) > 0


@pytest.mark.parametrize("model", ["ganomaly", "ama", "esad", "video-ganomaly"])
def test_so_are_the_others_with_their_reductions_in_float32(model: str) -> None:
    torch.manual_seed(0)
    kind = clip_model(model)
    config = kind.configure({})
    parsed = Parsed(export_onnx(kind.serving(config).eval(), config.spec(10.0), half=True))
    for products in ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY"):
        assert set(parsed.types(products)) <= {"HALF"}, products
    assert set(parsed.types("REDUCE")) == {"FLOAT"}
    assert parsed.built(clips=8) > 0


def test_bytes_before_they_are_cast_are_refused_by_the_parser() -> None:
    """Why every network casts first: this is what it would be told elsewhere, on a GPU."""

    class GathersFirst(torch.nn.Module):
        def forward(self, clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            heatmap = clips[:, 0, :, :, 0].float()
            return heatmap.amax((1, 2)), heatmap

    spec = clip_model("ganomaly").configure({}).spec(10.0)
    with pytest.raises(AssertionError, match="unsupported input type of UINT8"):
        Parsed(export_onnx(GathersFirst(), spec))
