"""TensorRT plans in a bundle: built when needed, and never loaded when stale or changed."""

from pathlib import Path
from typing import Any

import pytest

from deploy.bundle import ONNX_NAME, Bundle
from deploy.engines.tensorrt import plan_fingerprint
from deploy.errors import BundleCorrupt, BundleError, EngineRefused, EngineUnavailable, PlanStale
from deploy.export.onnx import serving_graph
from deploy.export.tensorrt import QUANTIZING, make_plan
from deploy.gpu.driver import Gpu
from deploy.records import BuildOptions, find_record, read_plan
from deploy.sequences import CalibrationFrames
from tests.harness.fake_tensorrt import FakeTensorRt
from tests.unit.deploy.export.test_int8 import calibration_frames

OPTIONS = BuildOptions(buckets=(1, 4))
HERE = {"backend": "tensorrt", "version": "11.4.0", "os": "Linux x86_64", "gpu": "H100", "compute_capability": "9.0"}


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTensorRt:
    """TensorRT as a script, on a machine with an H100 and a cache of its own."""
    fake = FakeTensorRt()
    monkeypatch.setattr("deploy.export.tensorrt.import_library", lambda _flavour: fake)
    monkeypatch.setattr("deploy.engines.tensorrt.find_gpu", lambda _engine: Gpu("H100", "9.0"))
    monkeypatch.setattr("deploy.engines.tensorrt.platform.system", lambda: "Linux")
    monkeypatch.setattr("deploy.engines.tensorrt.platform.machine", lambda: "x86_64")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return fake


def make(
    bundle: Bundle, options: BuildOptions = OPTIONS, precision: Any = "f32", calibration: CalibrationFrames | None = None
) -> Any:
    return make_plan(bundle, "tensorrt", precision, options, lambda *_: None, calibration)


def builds(library: FakeTensorRt) -> int:
    return [call for call, *_ in library.calls].count("build_serialized_network")


def test_plan_round_trip(bundle: Bundle) -> None:
    record = make(bundle)
    read, plan = read_plan(bundle, "tensorrt", "f32", HERE)
    assert read == record == find_record(bundle, "tensorrt", "f32")
    assert plan == bundle.file(ONNX_NAME).read_bytes()
    assert {name: record.fingerprint[name] for name in HERE} == HERE
    assert record.accuracy is None


def test_builds_only_if_out_of_date(bundle: Bundle, library: FakeTensorRt) -> None:
    make(bundle)
    make(bundle)
    assert builds(library) == 1
    make(bundle, OPTIONS.model_copy(update={"buckets": (2,)}))
    assert builds(library) == 2
    library.__version__ = "11.5.0"
    make(bundle, OPTIONS.model_copy(update={"buckets": (2,)}))
    assert builds(library) == 3


def test_timing_cache_is_kept(bundle: Bundle, library: FakeTensorRt, tmp_path: Path) -> None:
    make(bundle)
    assert (tmp_path / "cache" / "oddsight" / "tensorrt-11.4.0-H100.timings").read_bytes() == b"timed "
    make(bundle, OPTIONS.model_copy(update={"optimization_level": 5}))
    assert ("create_timing_cache", b"timed ") in library.calls


def test_unwritable_bundle_fails_first(bundle: Bundle, library: FakeTensorRt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.bundle.os.access", lambda *_: False)
    with pytest.raises(BundleError, match="cannot be written to, so no plan could be kept; build on a copy of it"):
        make(bundle)
    assert builds(library) == 0


@pytest.mark.parametrize("field", HERE)
def test_stale_plan_names_difference(bundle: Bundle, field: str) -> None:
    make(bundle)
    with pytest.raises(PlanStale, match=rf"{field} was {HERE[field]}, is another; build it again: oddsight-deploy build"):
        read_plan(bundle, "tensorrt", "f32", {**HERE, field: "another"})


def test_plan_of_other_model_is_stale(bundle: Bundle) -> None:
    make(bundle)
    record = bundle.path / "engines" / "tensorrt-f32" / "engine.json"
    record.write_text(record.read_text().replace(bundle.manifest.files[ONNX_NAME], "0" * 64))
    with pytest.raises(PlanStale, match=f"model_sha256 was {'0' * 64}, is {bundle.manifest.files[ONNX_NAME]}"):
        read_plan(bundle, "tensorrt", "f32", HERE)


@pytest.mark.parametrize("tamper", [lambda plan: plan[:-1], lambda plan: plan[:100] + b"\0" + plan[101:], lambda _: b""])
def test_never_loads_tampered_plan(bundle: Bundle, tamper: Any) -> None:
    make(bundle)
    path = bundle.path / "engines" / "tensorrt-f32" / "plan"
    whole = path.read_bytes()
    path.write_bytes(tamper(whole))
    with pytest.raises(BundleCorrupt, match=r"tensorrt-f32/plan: sha256 is .*build it again"):
        read_plan(bundle, "tensorrt", "f32", HERE)
    make(bundle)
    assert read_plan(bundle, "tensorrt", "f32", HERE)[1] == whole


def test_missing_plan(bundle: Bundle) -> None:
    with pytest.raises(EngineRefused, match="has no plan in this bundle; build it: oddsight-deploy build"):
        read_plan(bundle, "tensorrt", "f32", HERE)
    make(bundle)
    (bundle.path / "engines" / "tensorrt-f32" / "plan").unlink()
    with pytest.raises(BundleCorrupt, match="No such file"):
        read_plan(bundle, "tensorrt", "f32", HERE)


def test_rtx_plan_is_for_all_gpus(library: FakeTensorRt, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(engine: str) -> Gpu:
        raise EngineUnavailable("no GPU")

    monkeypatch.setattr("deploy.engines.tensorrt.find_gpu", none)
    assert plan_fingerprint("tensorrt-rtx", library).keys() == {"backend", "version", "os"}
    with pytest.raises(EngineUnavailable, match="no GPU"):
        plan_fingerprint("tensorrt", library)


def test_f16_graph_is_cached(bundle: Bundle) -> None:
    graph = serving_graph(bundle, "f16").content
    cached = bundle.path / "engines" / "graph-f16" / ONNX_NAME
    assert cached.read_bytes() == graph
    assert set(make(bundle, precision="f16").plan.products) == {"HALF"}
    cached.write_bytes(b"touched")
    assert serving_graph(bundle, "f16").content == graph
    assert cached.read_bytes() == graph


def test_int8_plan_follows_calibration(bundle: Bundle, library: FakeTensorRt) -> None:
    first = make(bundle, precision="int8", calibration=calibration_frames(bundle))
    assert first.plan.calibration == calibration_frames(bundle).info
    assert make(bundle, precision="int8") == first == make(bundle, precision="int8", calibration=calibration_frames(bundle))
    assert builds(library) == 1
    second = make(bundle, precision="int8", calibration=calibration_frames(bundle, seed=2))
    assert second.plan.calibration == calibration_frames(bundle, seed=2).info
    assert second.plan.graph_sha256 != first.plan.graph_sha256
    assert builds(library) == 2
    library.__version__ = "11.5.0"
    assert make(bundle, precision="int8").plan.calibration == second.plan.calibration
    assert builds(library) == 3


def test_missing_int8_plan_asks_for_calibration_data(bundle: Bundle) -> None:
    with pytest.raises(EngineRefused, match=r"build it: oddsight-deploy build .* --precision int8 --calibration-data FOLDER$"):
        read_plan(bundle, "tensorrt", "int8", HERE)
    serving_graph(bundle, "int8", calibration_frames(bundle))
    with pytest.raises(EngineRefused, match=r"build it: oddsight-deploy build .* --precision int8$"):
        read_plan(bundle, "tensorrt", "int8", HERE)


def test_quantizing_precedes_building(bundle: Bundle) -> None:
    steps: list[str] = []
    make_plan(bundle, "tensorrt", "int8", OPTIONS, lambda phase, *_: steps.append(phase), calibration_frames(bundle))
    assert steps[0] == QUANTIZING
    assert steps == sorted(steps, key=lambda phase: phase != QUANTIZING)
