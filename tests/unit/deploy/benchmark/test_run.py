"""What a benchmark reports."""

from itertools import count
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from deploy.benchmark.roofline import Roofline, gflop_per_clip, measure_cpu
from deploy.benchmark.run import BenchmarkPlan, _resident_bytes, benchmark
from deploy.bundle import Bundle
from deploy.engine import EngineRequest
from deploy.errors import EngineRefused, EngineUnavailable
from deploy.gpu.engine import Slot
from deploy.registry import ENGINES
from deploy.report import benchmark_table
from tests.harness.gpu_engines import make_up_gpu

FIGURES = {
    "engine",
    "precision",
    "batch",
    "clips_per_s",
    "clips_per_s_on_device",
    "cpu_s_per_clip",
    "latency_ms",
    "gflop_per_clip",
    "ratio_to_floor",
    "against_reference",
    "memory_bytes",
}


@pytest.fixture(autouse=True)
def _short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.benchmark.run._ROUND_S", 0.0)
    monkeypatch.setattr("deploy.benchmark.roofline._CPU_SIDE", 64)
    monkeypatch.setattr("deploy.benchmark.roofline._CPU_COPY_BYTES", 1024)


@pytest.mark.parametrize("kind", ["bundle", "recurrent_bundle"])
def test_measures_every_engine_and_batch(request: pytest.FixtureRequest, kind: str) -> None:
    progress = []
    plan = BenchmarkPlan((("onnx", "f32"), ("torch", "f32")), batches=(1, 3), rounds=2)
    report = benchmark(request.getfixturevalue(kind), plan, lambda done, total: progress.append((done, total)))
    assert report["performance_hint"] == "throughput"
    assert progress == [(number, 8) for number in range(1, 9)]
    assert [(row["engine"], row["batch"]) for row in report["results"]] == [
        (name, size) for name in ("onnx", "torch") for size in (1, 3)
    ]
    for row in report["results"]:
        assert row.keys() == FIGURES
        assert row["clips_per_s"] == pytest.approx(row["batch"] / row["latency_ms"]["p50"] * 1000)
        assert row["latency_ms"]["p50"] <= row["latency_ms"]["p95"] <= row["latency_ms"]["p99"]
        assert row["clips_per_s_on_device"] is None
    assert report["gpu_floor"] is None
    torch_rows = report["results"][2:]
    assert [row["against_reference"] for row in torch_rows] == [1.0, 1.0]


def test_engine_request_follows_plan(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def refuse(_: Bundle, options: EngineRequest) -> None:
        loaded.append(options)
        raise EngineUnavailable("seen enough")

    monkeypatch.setitem(ENGINES, "openvino", refuse)
    plan = BenchmarkPlan((("openvino", "bf16"),), batches=(1, 3), rounds=1, threads=2, performance_hint="latency")
    assert benchmark(bundle, plan, lambda *_: None)["performance_hint"] == "latency"
    assert loaded == [EngineRequest("openvino", "bf16", max_clips=3, threads=2, performance_hint="latency", gpu_cached_cameras=4)]


def test_no_roofline_for_unmeasured_precision() -> None:
    floor = Roofline({"f16": 4.0}, 2.0)
    assert (floor.s_per_clip("f16", 8.0, 2.0), floor.s_per_clip("f16", 4.0, 6.0)) == (2.0, 3.0)
    assert floor.s_per_clip("int8", 8.0, 2.0) is None


def test_gpu_engine_gets_newest_frames(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_up_gpu(monkeypatch, tmp_path)
    measured, modes, start = [], set(), Slot.start
    monkeypatch.setattr(Slot, "start", lambda slot, chunk, call: modes.add(call.mode) or start(slot, chunk, call))

    def measure(precisions: set[str]) -> Roofline:
        measured.append(precisions)
        return Roofline({"f16": 1e30}, 1e30)

    monkeypatch.setattr("deploy.benchmark.run.measure_gpu", measure)
    plan = BenchmarkPlan((("torch-cuda", "f16"), ("onnx", "f32")), batches=(1,), rounds=1)
    report = benchmark(bundle, plan, lambda *_: None)
    assert (measured, report["gpu_floor"]["bytes_per_s"]) == ([{"f16"}], 1e30)
    assert list(report["floor"]["flop_per_s"]) == ["f32"]
    on_gpu, on_cpu = (row["ratio_to_floor"] for row in report["results"])
    assert on_gpu < 1e-12 < on_cpu
    assert report["results"][0]["clips_per_s_on_device"] > 0
    assert modes == {"upload", "newest"}


@pytest.mark.parametrize("error", [EngineUnavailable("no such processor"), EngineRefused("it has no plan")])
def test_unavailable_engine_is_left_out(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setitem(ENGINES, "openvino", refuse)
    report = benchmark(bundle, BenchmarkPlan((("openvino", "bf16"), ("onnx", "f32")), batches=(1,), rounds=1), lambda *_: None)
    assert report["left_out"] == {"openvino bf16": str(error)}
    assert [row["against_reference"] for row in report["results"]] == [None]


def test_table_shows_each_engine(bundle: Bundle) -> None:
    text = table_text(benchmark(bundle, BenchmarkPlan((("onnx", "f32"),), batches=(1,), rounds=1), lambda *_: None))
    for figure in ("tiny, for throughput", "onnx", "GB/s"):
        assert figure in text


def table_text(report: dict[str, Any]) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(benchmark_table({"model_id": "tiny", **report}))
    return captured.get()


def test_cpu_time_per_clip(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks_s = count(step=6)
    monkeypatch.setattr("deploy.benchmark.run.time.process_time", lambda: next(ticks_s))
    report = benchmark(bundle, BenchmarkPlan((("onnx", "f32"),), batches=(1, 3), rounds=2), lambda *_: None)
    assert [row["cpu_s_per_clip"] for row in report["results"]] == [6.0, 2.0]


def test_memory_growth(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    at_bytes = iter([100, 130, 170, 200, 210, 280])
    monkeypatch.setattr("deploy.benchmark.run._resident_bytes", lambda: next(at_bytes))
    report = benchmark(bundle, BenchmarkPlan((("onnx", "f32"), ("torch", "f32")), batches=(3, 1), rounds=1), lambda *_: None)
    assert [(row["batch"], row["memory_bytes"]) for row in report["results"]] == [(3, 70), (1, 30), (3, 80), (1, 10)]


def test_resident_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "statm").write_text("900 7 3 1 0 5 0\n")
    monkeypatch.setattr("deploy.benchmark.run._STATM", tmp_path / "statm")
    assert _resident_bytes() == 7 * PAGESIZE
    monkeypatch.setattr("deploy.benchmark.run._STATM", tmp_path / "missing")
    assert _resident_bytes() is None


def test_roofline_is_slower_limit() -> None:
    floor = Roofline({"f32": 100.0, "bf16": 200.0}, 10.0)
    assert floor.s_per_clip("f32", 300.0, 10.0) == 3.0
    assert floor.s_per_clip("bf16", 300.0, 10.0) == 1.5
    assert floor.s_per_clip("bf16", 300.0, 40.0) == 4.0


def test_peak_is_fastest_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count()
    monkeypatch.setattr("deploy.benchmark.roofline.time.perf_counter", lambda: float(next(ticks)))
    assert measure_cpu({"f32"}) == Roofline({"f32": 2.0 * 64**3}, 2048.0)


def test_counts_operations(bundle: Bundle) -> None:
    at_half, at_quarter = 12 * 20, 6 * 10
    multiplications = at_half * 8 * (3 * 5 * 5) + at_quarter * 16 * (8 * 3 * 3) + at_quarter * 16
    assert gflop_per_clip(bundle) == pytest.approx(2 * multiplications / 1e9)


def test_no_operations_without_onnx(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    assert gflop_per_clip(bundle) is None
