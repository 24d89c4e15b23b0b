"""Selection of the serving engine, and recovery if it is not available."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.bundle import Bundle, read_bundle, read_golden
from deploy.engine import EngineRequest
from deploy.errors import BundleCorrupt, BundleError, ConfigError, EngineFailed, EngineRefused, EngineUnavailable, PlanStale
from deploy.export.onnx import serving_graph
from deploy.export.tensorrt import make_plan
from deploy.records import BuildOptions, DefaultEngine, LoadTestResult, find_record, read_default, write_default
from deploy.records import read_plan as really_read_plan
from deploy.registry import ENGINES, load_engine
from deploy.selection import FALLBACKS, load_serving_engine
from deploy.sequences import GoldenSequences, score_sequences
from deploy.validation.admission import LoadedEngine, fingerprint
from tests.harness.fake_tensorrt import FakeTensorRt
from tests.harness.gpu_engines import make_up_gpu
from tests.unit.deploy.export.test_int8 import calibration_frames, with_golden
from tests.unit.deploy.test_sequences import noise, with_sequences

MEASURED = LoadTestResult(
    due=9, scored=9, clips_per_s=1, cpu_s_per_clip=1, latency_ms={"p50": 1, "p95": 2, "p99": 3}, busy_share=1
)
SHIPPED = ("openvino", "f32", "throughput")
REQUEST = EngineRequest(max_clips=4)
TENSORRT: dict[str, Any] = {"engine": "tensorrt", "precision": "f16", "performance_hint": "throughput"}


@pytest.fixture(scope="module")
def current(bundle_folder: Path) -> dict[str, str]:
    """ONNX Runtime's fingerprint on this machine."""
    pytest.importorskip("onnxruntime")
    return fingerprint(load_engine(read_bundle(bundle_folder), EngineRequest("onnx")))


def write(bundle: Bundle, chosen_with: dict[str, str], **changes: object) -> DefaultEngine:
    default = DefaultEngine(
        engine="onnx",
        precision="f32",
        performance_hint="latency",
        model_sha256=bundle.manifest.files["model.onnx"],
        fingerprint=chosen_with,
        cameras=4,
        frame_rate=12.5,
        keeps_up=True,
        measured=MEASURED,
        chosen_at=datetime(2026, 1, 2, tzinfo=UTC),
    ).model_copy(update=changes)
    write_default(bundle, default)
    return default


def load(bundle: Bundle, **settings: Any) -> LoadedEngine:
    """The loaded engine, closed; checks that it is the one requested."""
    loaded = load_serving_engine(bundle, REQUEST, **settings)
    assert (loaded.engine.name, loaded.engine.max_clips) == (loaded.request.engine, 4)
    assert loaded.engine.describe()["performance_hint"] == loaded.request.performance_hint
    loaded.engine.close()
    return loaded


def parts(loaded: LoadedEngine) -> tuple[str, str, str]:
    return loaded.request.engine, loaded.request.precision, loaded.request.performance_hint


def test_default_round_trip(bundle: Bundle) -> None:
    assert read_default(bundle) is None
    assert write(bundle, {"a": "b"}) == read_default(bundle)
    assert write(bundle, {"a": "c"}) == read_default(bundle)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"engine": 1}', b"\xff\xfe", b"[" * 100_000])
def test_unreadable_default_names_command(bundle: Bundle, content: bytes) -> None:
    write(bundle, {})
    (bundle.path / "engines" / "default.json").write_bytes(content)
    with pytest.raises(BundleCorrupt, match=r"engines/default\.json: .*delete it and run oddsight-deploy optimize again"):
        load(bundle, engine="openvino")
    complete = load(bundle, engine="onnx", precision="f32", performance_hint="throughput")
    assert parts(complete) == ("onnx", "f32", "throughput")


def test_unwritable_bundle_is_an_error(bundle: Bundle) -> None:
    (bundle.path / "engines").write_text("in the way")
    with pytest.raises(BundleError, match=r"default\.json: .*; choose on a copy"):
        write(bundle, {})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("onnx", "f32", "latency")),
        ({"performance_hint": "throughput"}, ("onnx", "f32", "throughput")),
        ({"engine": "onnx"}, ("onnx", "f32", "latency")),
        ({"engine": "onnx", "performance_hint": "throughput"}, ("onnx", "f32", "throughput")),
        ({"engine": "openvino"}, SHIPPED),
        ({"engine": "openvino", "performance_hint": "latency"}, ("openvino", "f32", "latency")),
    ],
)
def test_default_fills_open_settings(
    bundle: Bundle, current: dict[str, str], settings: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    write(bundle, current)
    loaded = load(bundle, **settings)
    assert (parts(loaded), loaded.default_rejected) == (expected, None)


def test_shipped_default_without_bundle_default(bundle: Bundle) -> None:
    loaded = load(bundle)
    assert (parts(loaded), loaded.default_rejected) == (SHIPPED, None)
    assert set(loaded.sources.values()) == {"shipped default"}


def test_log_fields_name_sources(bundle: Bundle, current: dict[str, str]) -> None:
    write(bundle, current)
    assert load(bundle, performance_hint="throughput").log_fields() == {
        "engine": "onnx",
        "precision": "f32",
        "performance_hint": "throughput",
        "engine_from": "bundle default",
        "precision_from": "bundle default",
        "performance_hint_from": "settings",
    }


def test_rejects_default_of_other_machine(bundle: Bundle, current: dict[str, str]) -> None:
    write(bundle, {**current, "version": "0", "processor": "another"})
    loaded = load(bundle)
    assert parts(loaded) == SHIPPED
    reason = str(loaded.default_rejected)
    assert f"version was 0, is {current['version']}" in reason
    assert "processor was another, is None" in reason
    assert f"oddsight-deploy optimize {bundle.path} --cameras 4 --frame-rate 12.5" in reason
    named = load(bundle, engine="onnx")
    assert (parts(named), named.default_rejected is None) == (("onnx", "f32", "throughput"), False)


def test_rejects_default_of_other_model_unloaded(
    bundle: Bundle, current: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(bundle, current, model_sha256="abc")
    monkeypatch.setitem(ENGINES, "onnx", lambda *_: pytest.fail("loaded in vain"))
    loaded = load(bundle)
    assert parts(loaded) == SHIPPED
    assert f"model_sha256 was abc, is {bundle.manifest.files['model.onnx']}" in str(loaded.default_rejected)


def test_rejects_default_without_library(bundle: Bundle, current: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    write(bundle, current)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    loaded = load(bundle)
    assert parts(loaded) == SHIPPED
    assert "pip install 'oddsight[onnx]'" in str(loaded.default_rejected)
    with pytest.raises(EngineUnavailable, match="onnx"):
        load(bundle, engine="onnx")


def test_rejects_unknown_default(bundle: Bundle) -> None:
    write(bundle, {}, engine="abacus")
    loaded = load(bundle)
    assert parts(loaded) == SHIPPED
    assert "abacus, which does not compute in f32 here" in str(loaded.default_rejected)


def test_precision_the_default_lacks(bundle: Bundle, current: dict[str, str]) -> None:
    write(bundle, current)
    with pytest.raises((EngineRefused, EngineUnavailable), match="openvino"):
        load(bundle, precision="bf16")


def test_rejects_unvalidated_bf16_default(bundle: Bundle) -> None:
    write(bundle, {}, engine="openvino", precision="bf16", performance_hint="latency")
    loaded = load(bundle)
    assert parts(loaded) == SHIPPED
    assert loaded.default_rejected


def test_settings_may_change_default_precision(bundle: Bundle) -> None:
    in_f32 = fingerprint(load_engine(bundle, EngineRequest("openvino")))
    write(bundle, {**in_f32, "precision": "bf16"}, engine="openvino", precision="bf16", performance_hint="latency")
    loaded = load(bundle, precision="f32")
    assert (parts(loaded), loaded.default_rejected) == (("openvino", "f32", "latency"), None)


def test_inaccurate_default_is_an_error(bundle_with_other_weights: Bundle) -> None:
    write(bundle_with_other_weights, {}, engine="torch", performance_hint="throughput")
    with pytest.raises(EngineFailed, match="torch: scores differ"):
        load(bundle_with_other_weights)


def test_rejects_wrong_precision(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match=r"engine\.precision must be one of f32 with onnx, got 'bf16'"):
        load(bundle, engine="onnx", precision="bf16")


class TestOnUnavailable:
    @pytest.fixture
    def library(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTensorRt:
        """A fake GPU, and plans that exist only after they were built."""
        script = FakeTensorRt()
        make_up_gpu(monkeypatch, tmp_path, script)
        monkeypatch.setattr("deploy.engines.tensorrt.read_plan", really_read_plan)
        return script

    @pytest.fixture
    def with_golden(self, bundle: Bundle) -> Bundle:
        """With golden sequences that hold the reference's scores."""
        frames = noise(bundle, 40)
        score = score_sequences(load_engine(bundle, EngineRequest("torch")), frames.frames)
        return with_sequences(bundle, GoldenSequences(frames.frames, frames.sped_up, score))

    def test_available_engine_is_loaded(self, bundle: Bundle) -> None:
        loaded = load(bundle, engine="onnx", on_unavailable="fallback")
        assert (loaded.recovery, loaded.recovery_reason) == (None, "")

    @pytest.mark.parametrize("engine", ["tensorrt", "torch-cuda"])
    def test_fail(self, with_golden: Bundle, library: FakeTensorRt, engine: str) -> None:
        with pytest.raises(EngineRefused, match=r"has (no plan|not been validated)"):
            load_serving_engine(with_golden, REQUEST, **{**TENSORRT, "engine": engine})

    def test_rebuild_builds_and_validates(self, with_golden: Bundle, library: FakeTensorRt) -> None:
        loaded = load_serving_engine(with_golden, REQUEST, **TENSORRT, on_unavailable="rebuild")
        assert (loaded.engine.name, loaded.recovery) == ("tensorrt", "rebuild")
        assert "has no plan in this bundle" in loaded.recovery_reason
        record: Any = find_record(with_golden, "tensorrt", "f16")
        assert (record.accuracy.passed, record.accuracy.buckets) == (True, (1, 8, 32, 128))
        golden = read_golden(with_golden)
        np.testing.assert_allclose(loaded.engine.score(golden.clips[:4]).score, golden.score[:4], rtol=1e-2)
        assert load_serving_engine(with_golden, REQUEST, **TENSORRT).recovery is None

    def test_rebuild_keeps_build_options(self, with_golden: Bundle, library: FakeTensorRt) -> None:
        options = BuildOptions(buckets=(2, 4), optimization_level=1)
        make_plan(with_golden, "tensorrt", "f16", options, lambda *_: None)
        library.__version__ = "11.5.0"
        with pytest.raises(PlanStale, match=r"version was 11\.4\.0, is 11\.5\.0"):
            load_serving_engine(with_golden, REQUEST, **TENSORRT)
        loaded = load_serving_engine(with_golden, REQUEST, **TENSORRT, on_unavailable="rebuild")
        assert "version was 11.4.0, is 11.5.0" in loaded.recovery_reason
        record: Any = find_record(with_golden, "tensorrt", "f16")
        assert record.plan.options == options

    def test_rebuild_int8_needs_graph(self, bundle: Bundle, library: FakeTensorRt) -> None:
        copy, settings = with_golden(bundle), {**TENSORRT, "precision": "int8", "on_unavailable": "rebuild"}
        with pytest.raises(EngineRefused, match=r"no int8 graph of this model was made yet.*--calibration-data FOLDER"):
            load_serving_engine(copy, REQUEST, **settings)
        graph = serving_graph(copy, "int8", calibration_frames(copy))
        loaded = load_serving_engine(copy, REQUEST, **settings)
        assert (loaded.engine.describe()["precision"], loaded.recovery) == ("int8", "rebuild")
        record: Any = find_record(copy, "tensorrt", "int8")
        assert record.plan.calibration == graph.calibration

    def test_rebuild_refuses_inaccurate_plan(self, bundle: Bundle, library: FakeTensorRt) -> None:
        wrong = with_sequences(bundle, noise(bundle, 40))
        with pytest.raises(EngineRefused, match="failed validation"):
            load_serving_engine(wrong, REQUEST, **TENSORRT, on_unavailable="rebuild")

    def test_rebuild_is_for_tensorrt_only(self, bundle: Bundle) -> None:
        with pytest.raises((EngineRefused, EngineUnavailable), match=r"not been validated|does not compute in bf16"):
            load(bundle, engine="openvino", precision="bf16", on_unavailable="rebuild")

    def test_fallback_to_first_available(self, with_golden: Bundle, library: FakeTensorRt) -> None:
        loaded = load_serving_engine(with_golden, REQUEST, **TENSORRT, on_unavailable="fallback")
        # f16 has not been validated; f32 is validated by the golden clips.
        assert (loaded.engine.name, loaded.engine.describe()["precision"]) == ("torch-cuda", "f32")
        assert (loaded.recovery, "has no plan in this bundle" in loaded.recovery_reason) == ("fallback", True)

    def test_fallback_to_cpu_without_gpu(self, bundle: Bundle) -> None:
        loaded = load_serving_engine(bundle, REQUEST, engine="torch-cuda", on_unavailable="fallback")
        assert (loaded.engine.name, loaded.recovery) == ("openvino", "fallback")
        assert "needs" in loaded.recovery_reason

    def test_reports_named_engine_if_all_fail(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("deploy.selection.FALLBACKS", FALLBACKS[:2])
        with pytest.raises(EngineUnavailable, match="the torch-cuda engine needs"):
            load_serving_engine(bundle, REQUEST, engine="torch-cuda", on_unavailable="fallback")
