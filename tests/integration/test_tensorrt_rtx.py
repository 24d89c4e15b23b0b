"""NVIDIA's parser and builder (TensorRT for RTX, on the CPU) accept the exported graphs.

Checks strong typing, profiles and the precision of convolutions; not speed, numbers, or the other TensorRT's compiler.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch

from deploy.bundle import DEFAULT_BUNDLE, ONNX_NAME, read_bundle
from deploy.engine import EngineRequest
from deploy.engines.tensorrt import Log, plan_fingerprint
from deploy.errors import EngineUnavailable
from deploy.export.int8 import quantize_graph
from deploy.export.onnx import export_onnx
from deploy.export.tensorrt import build_plan
from deploy.records import BuildOptions, read_plan
from deploy.sequences import CalibrationFrames
from deploy.validation.admission import load_validated
from trainer.models.registry import clip_model

trt = pytest.importorskip("tensorrt_rtx", reason="no TensorRT for RTX for this platform: pip install 'oddsight[dev]'")


@pytest.fixture(scope="module")
def shipped() -> bytes:
    """The shipped model's serving graph."""
    return read_bundle(DEFAULT_BUNDLE).file(ONNX_NAME).read_bytes()


class Parsed:
    """A graph as the parser understands it."""

    def __init__(self, graph: bytes) -> None:
        self.log = Log(trt)
        self.builder = trt.Builder(self.log.logger)
        self.network = self.builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(self.network, self.log.logger)
        assert parser.parse(graph), self.log.lines

    def types(self, kind: str) -> Counter[str]:
        """How many layers of a kind give which type."""
        layers = [self.network.get_layer(number) for number in range(self.network.num_layers)]
        return Counter(layer.get_output(0).dtype.name for layer in layers if layer.type.name == kind)


def built_products(graph: bytes) -> set[str]:
    """Types of a plan's convolutions and matrix products, the plan built in float16 for eight clips."""
    plan = build_plan(trt, graph, "f16", BuildOptions(buckets=(8,)), name="tried")
    assert len(plan.plan) > 0
    return set(plan.products)


def test_builds_shipped_model_in_f16(shipped: bytes, shipped_in_half: bytes) -> None:
    """In f32 the command builds it below."""
    for graph, expected in ((shipped, "FLOAT"), (shipped_in_half, "HALF")):
        parsed = Parsed(graph)
        assert parsed.types("CONVOLUTION") == {expected: 29}
        assert set(parsed.types("REDUCE")) == set(parsed.types("GRID_SAMPLE")) == set(parsed.types("POOLING")) == {"FLOAT"}
    assert built_products(shipped_in_half) == {"HALF"}


def test_builds_quantized_convolutions(shipped: bytes, demo_footage: CalibrationFrames) -> None:
    chosen = ["node_conv2d_19", "node_conv2d_21", "node_conv2d_27"]  # the first two read the same maps
    graph = quantize_graph(read_bundle(DEFAULT_BUNDLE), demo_footage, lambda *_: None, chosen)
    before, after = (
        {node.name: list(node.input) for node in onnx.load_from_string(content).graph.node} for content in (shipped, graph)
    )
    assert {name for name in before if after[name] != before[name]} == set(chosen)
    plan = build_plan(trt, graph, "int8", BuildOptions(buckets=(8,)), name="tried")
    assert len(plan.plan) > 0
    assert plan.products == {"INT8": 3, "FLOAT": 26}


@pytest.mark.parametrize("model", ["ama", "video-ganomaly"])
def test_builds_other_models_in_f16(model: str) -> None:
    """Not ganomaly and esad: these two and the shipped model have all their operations."""
    torch.manual_seed(0)
    kind = clip_model(model)
    config = kind.configure({})
    graph = export_onnx(kind.build(config).eval(), config.spec(10.0), half=True)
    assert set(Parsed(graph).types("REDUCE")) == {"FLOAT"}
    assert built_products(graph) == {"HALF"}


def test_parser_refuses_uint8_operations() -> None:
    """Why every network casts first: this is what it would be told elsewhere, on a GPU."""

    class GathersFirst(torch.nn.Module):
        def forward(self, clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            heatmap = clips[:, 0, :, :, 0].float()
            return heatmap.amax((1, 2)), heatmap

    spec = clip_model("ganomaly").configure({}).spec(10.0)
    with pytest.raises(AssertionError, match="unsupported input type of UINT8"):
        Parsed(export_onnx(GathersFirst(), spec))


def test_command_builds_without_gpu(
    tmp_path: Path,
) -> None:
    bundle = read_bundle(shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundle"))
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    program = Path(sys.executable).with_name("oddsight-deploy")
    options = ["--engine", "tensorrt-rtx", "--precision", "f32", "--bucket", "4", "--json"]
    command = [program, "build", bundle.path, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, check=False)
    report = json.loads(done.stdout)
    assert (done.returncode, report["verdict"]["status"], report["built"]["accuracy"]) == (0, "unavailable", None)
    assert report["built"]["plan"]["products"] == {"FLOAT": 29}
    record, plan = read_plan(bundle, "tensorrt-rtx", "f32", plan_fingerprint("tensorrt-rtx", trt))
    assert record.plan is not None
    assert (len(plan) > 1 << 20, record.plan.options.buckets) == (True, (4,))
    with pytest.raises(EngineUnavailable, match=r"needs (PyTorch with CUDA|an NVIDIA GPU)"):
        load_validated(bundle, EngineRequest("tensorrt-rtx", max_clips=4))
