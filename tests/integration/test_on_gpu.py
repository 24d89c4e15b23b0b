"""The shipped model on an NVIDIA GPU: plans, every bucket, graphs, copies beside computing, the benchmark. Skipped without one.

What engines promise on every device is in the contract of engines and in the tests of what stays on a device, which run here too.
"""

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from deploy.benchmark.run import BenchmarkPlan, benchmark
from deploy.bundle import DEFAULT_BUNDLE, Bundle, read_bundle
from deploy.engine import Clips, Engine, EngineRequest, Precision, Scores
from deploy.engines.tensorrt import MODULES
from deploy.engines.torch import BUCKETS
from deploy.export.tensorrt import make_plan
from deploy.gpu.driver import CudaDriver
from deploy.records import BuildOptions
from deploy.registry import load_engine
from deploy.sequences import CalibrationFrames
from deploy.validation.admission import validate_engine
from tests.harness.gpu_engines import GPU_ENGINES, build_when_asked_for

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

ROUNDING = 1e-5


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return read_bundle(shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundle"))


@pytest.fixture(params=GPU_ENGINES)
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    engine: str = request.param
    pytest.importorskip(MODULES.get(engine, "torch"))
    build_when_asked_for(monkeypatch)
    return engine


@pytest.mark.parametrize("engine", list(MODULES))
@pytest.mark.parametrize("precision", ["f32", "f16", "int8"])
def test_plan_passes_in_every_bucket(bundle: Bundle, engine: str, precision: Precision, demo_footage: CalibrationFrames) -> None:
    pytest.importorskip(MODULES[engine])
    options = BuildOptions(buckets=(1, 8, 32))
    make_plan(bundle, engine, precision, options, lambda *_: None, demo_footage if precision == "int8" else None)
    accuracy = validate_engine(bundle, engine, precision).accuracy
    assert accuracy is not None
    assert (accuracy.failures, accuracy.buckets) == ((), options.buckets)


@pytest.mark.parametrize("precision", ["f32", "f16"])
def test_torch_cuda_passes_in_every_bucket(bundle: Bundle, precision: Precision) -> None:
    accuracy = validate_engine(bundle, "torch-cuda", precision).accuracy
    assert accuracy is not None
    assert (accuracy.failures, accuracy.buckets) == ((), BUCKETS)


def test_cuda_graph_equals_single_launches(bundle: Bundle, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = noise(bundle, 11)
    with capture_logs() as lines:
        replayed = scores(load_engine(bundle, EngineRequest(name, max_clips=11)), clips)
    assert [line for line in lines if "no CUDA graph" in line["event"]] == []
    monkeypatch.setattr(CudaDriver, "capture", lambda _driver, launch, _stream: launch)
    launched = scores(load_engine(bundle, EngineRequest(name, max_clips=11)), clips)
    np.testing.assert_allclose(replayed.score, launched.score, rtol=ROUNDING)
    np.testing.assert_allclose(replayed.state, launched.state, rtol=ROUNDING, atol=ROUNDING)


def test_copies_overlap_kernels(bundle: Bundle, name: str) -> None:
    clips = noise(bundle, 96)
    with closing(load_engine(bundle, EngineRequest(name, max_clips=96))) as engine:
        engine.buckets = (32,)
        engine.score(clips)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiled:
            engine.score(clips)
    copies, kernels = spans(profiled, copies=True), spans(profiled, copies=False)
    assert copies
    assert any(begin < other_end and other_begin < end for begin, end in copies for other_begin, other_end in kernels)


def spans(profiled: Any, *, copies: bool) -> list[tuple[float, float]]:
    """When copies up, or all that is no copy, began and ended on the device."""

    def wanted(name: str) -> bool:
        return "Memcpy HtoD" in name if copies else not name.startswith(("Memcpy", "Memset"))

    on_device = [event for event in profiled.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return [(event.time_range.start, event.time_range.end) for event in on_device if wanted(event.name)]


def test_benchmark_uses_gpu_roofline(bundle: Bundle, name: str) -> None:
    report = benchmark(bundle, BenchmarkPlan(((name, "f32"), (name, "f16")), batches=(1, 32), rounds=1), lambda *_: None)
    assert report["gpu_floor"]["flop_per_s"].keys() == {"f32", "f16"}
    assert len(report["results"]) == 4
    for row in report["results"]:
        assert row["ratio_to_floor"] > 0
        assert row["clips_per_s_on_device"] > 0


def noise(bundle: Bundle, count: int) -> Clips:
    return np.random.default_rng(0).integers(0, 256, (count, *bundle.spec.clip_shape), dtype=np.uint8)


def scores(engine: Engine, clips: Clips) -> Scores:
    """Of the second of two equal clips of each camera: a state has been there and back."""
    with closing(engine):
        return engine.score(clips, engine.score(clips).state)
