"""What a benchmark reports, not how fast anything is: that depends on the machine, and lies in no test."""

from itertools import count

import pytest

from deploy.bench import Plan, benchmark
from deploy.bundle import Bundle
from deploy.engine import ENGINES, Options
from deploy.errors import EngineUnavailable
from deploy.floor import Floor, measure_floor
from deploy.operations import gflop_per_clip

FIGURES = {
    "engine",
    "precision",
    "batch",
    "clips_per_s",
    "cpu_s_per_clip",
    "latency_ms",
    "gflop_per_clip",
    "ratio_to_floor",
    "against_reference",
}


@pytest.fixture(autouse=True)
def _short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.bench._ROUND_S", 0.0)
    monkeypatch.setattr("deploy.floor._SIDE", 64)
    monkeypatch.setattr("deploy.floor._COPY_BYTES", 1024)


@pytest.mark.parametrize("kind", ["bundle", "recurrent_bundle"])
def test_every_engine_and_batch_has_its_figures_and_one_call_a_round(request: pytest.FixtureRequest, kind: str) -> None:
    told = []
    plan = Plan((("onnx", "f32"), ("torch", "f32")), batches=(1, 3), rounds=2)
    report = benchmark(request.getfixturevalue(kind), plan, lambda done, total: told.append((done, total)))
    assert report["tune"] == "throughput"
    assert told == [(number, 8) for number in range(1, 9)]
    assert [(row["engine"], row["batch"]) for row in report["results"]] == [
        (name, size) for name in ("onnx", "torch") for size in (1, 3)
    ]
    for row in report["results"]:
        assert row.keys() == FIGURES
        assert row["clips_per_s"] == pytest.approx(row["batch"] / row["latency_ms"]["p50"] * 1000)
        assert row["latency_ms"]["p50"] <= row["latency_ms"]["p95"] <= row["latency_ms"]["p99"]
    torch_rows = report["results"][2:]
    assert [row["against_reference"] for row in torch_rows] == [1.0, 1.0]


def test_engines_are_loaded_for_what_is_to_be_measured(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def refuse(_: Bundle, options: Options) -> None:
        loaded.append(options)
        raise EngineUnavailable("seen enough")

    monkeypatch.setitem(ENGINES, "openvino", refuse)
    plan = Plan((("openvino", "bf16"),), batches=(1, 3), rounds=1, threads=2, tune="latency")
    assert benchmark(bundle, plan, lambda *_: None)["tune"] == "latency"
    assert loaded == [Options("bf16", max_clips=3, threads=2, tune="latency")]


def test_an_engine_that_does_not_run_here_is_left_out_with_its_reason(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise EngineUnavailable("no such processor")

    monkeypatch.setitem(__import__("deploy.engine").engine.ENGINES, "openvino", refuse)
    report = benchmark(bundle, Plan((("openvino", "bf16"), ("onnx", "f32")), batches=(1,), rounds=1), lambda *_: None)
    assert report["left_out"] == {"openvino bf16": "no such processor"}
    assert [row["against_reference"] for row in report["results"]] == [None]


def test_the_time_of_the_slower_of_computing_and_moving_is_the_floor() -> None:
    floor = Floor({"f32": 100.0, "bf16": 200.0}, 10.0)
    assert floor.s_per_clip("f32", 300.0, 10.0) == 3.0
    assert floor.s_per_clip("bf16", 300.0, 10.0) == 1.5
    assert floor.s_per_clip("bf16", 300.0, 40.0) == 4.0


def test_peaks_are_of_the_fastest_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count()
    monkeypatch.setattr("deploy.floor.time.perf_counter", lambda: float(next(ticks)))
    assert measure_floor({"f32"}) == Floor({"f32": 2.0 * 64**3}, 2048.0)


def test_operations_are_those_of_the_convolutions(bundle: Bundle) -> None:
    at_half, at_quarter = 12 * 20, 6 * 10
    multiplications = at_half * 8 * (3 * 5 * 5) + at_quarter * 16 * (8 * 3 * 3) + at_quarter * 16
    assert gflop_per_clip(bundle) == pytest.approx(2 * multiplications / 1e9)


def test_without_onnx_operations_are_not_known(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    assert gflop_per_clip(bundle) is None
