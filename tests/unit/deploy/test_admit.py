"""Which engines may serve: float32 by its golden clips, others by a record that belongs to this machine and this model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.bundle import Bundle
from deploy.engine import EngineRequest
from deploy.engines.openvino import _require
from deploy.engines.registry import load_engine
from deploy.errors import BundleCorrupt, ConfigError, EngineFailed, EngineRefused, EngineUnavailable
from deploy.golden import Sequences, score_sequences
from deploy.records import AccuracyResult, EngineRecord, read_records, require_validated, write_record
from deploy.validation.admission import VerifyResult, fingerprint, load_admitted, passed, validate_engine, verify_engine
from tests.harness.gpu_engines import make_up_gpu
from tests.harness.host_driver import HostDriver
from tests.unit.deploy.test_sequences import noise, with_sequences

HERE = {"backend": "openvino", "version": "1", "processor": "one", "precision": "bf16"}
PASSED = AccuracyResult(frames=90, max_error=0.01, median_error=0.001, spearman=0.999, auc_difference=0.0, failures=())


class Core:
    """OpenVINO's core on a processor without bfloat16."""

    def get_property(self, device: str, name: str) -> object:
        return {"FULL_DEVICE_NAME": "Old CPU", "OPTIMIZATION_CAPABILITIES": ["FP32", "INT8"]}[name]


def kept(bundle: Bundle, **changes: object) -> EngineRecord:
    variant = EngineRecord(
        engine="openvino",
        precision="bf16",
        model_sha256=bundle.manifest.files["model.onnx"],
        fingerprint=HERE,
        accuracy=PASSED,
    ).model_copy(update=changes)
    write_record(bundle, variant)
    return variant


def scored(bundle: Bundle) -> Bundle:
    """With golden sequences that hold an engine's own scores."""
    frames = noise(bundle, 40)
    score = score_sequences(load_engine(bundle, EngineRequest("openvino")), frames.frames)
    return with_sequences(bundle, Sequences(frames.frames, frames.hurried, score))


def test_what_was_kept_is_found_and_admitted(bundle: Bundle) -> None:
    variant = kept(bundle)
    assert read_records(bundle) == [variant]
    assert require_validated(bundle, "openvino", "bf16", HERE) == PASSED


def test_what_was_never_tried_is_refused_with_the_command_that_tries_it(bundle: Bundle) -> None:
    with pytest.raises(
        EngineRefused, match=r"has not been validated.*oddsight-deploy verify .* --engine openvino --precision bf16"
    ):
        require_validated(bundle, "openvino", "bf16", HERE)


def test_what_failed_is_refused_with_its_reasons(bundle: Bundle) -> None:
    kept(bundle, accuracy=PASSED.model_copy(update={"failures": ("the rank correlation is 0.9", "the AUC differs")}))
    with pytest.raises(EngineRefused, match=r"failed validation: the rank correlation is 0\.9; the AUC differs; use f32"):
        require_validated(bundle, "openvino", "bf16", HERE)


def test_every_difference_to_where_it_was_tried_is_named(bundle: Bundle) -> None:
    kept(bundle, model_sha256="abc", fingerprint={**HERE, "processor": "another", "device": "CPU"})
    with pytest.raises(EngineRefused) as refused:
        require_validated(bundle, "openvino", "bf16", HERE)
    told = str(refused.value)
    assert "processor was another, is one" in told
    assert "device was CPU, is None" in told
    assert f"model_sha256 was abc, is {bundle.manifest.files['model.onnx']}" in told


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"engine": 1}', b"\xff\xfe", b"[" * 100_000])
def test_a_record_that_cannot_be_read_is_told_with_its_path(bundle: Bundle, content: bytes) -> None:
    kept(bundle)
    (bundle.path / "engines" / "openvino-bf16" / "engine.json").write_bytes(content)
    with pytest.raises(BundleCorrupt, match=r"openvino-bf16/engine\.json: .*delete it"):
        require_validated(bundle, "openvino", "bf16", HERE)


def test_a_float32_engine_that_computes_something_else_is_not_loaded_to_serve(bundle_with_other_weights: Bundle) -> None:
    with pytest.raises(EngineFailed, match="torch: scores differ"):
        load_admitted(bundle_with_other_weights, EngineRequest("torch", max_clips=4))
    load_admitted(bundle_with_other_weights, EngineRequest("onnx", max_clips=4)).engine.close()


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_an_engine_without_the_precision_says_which_it_has(bundle: Bundle, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"engine\.precision must be one of f32 with {name}, got 'bf16'"):
        load_engine(bundle, EngineRequest(name, precision="bf16"))


def test_a_processor_without_the_precision_is_named() -> None:
    with pytest.raises(EngineUnavailable, match="Old CPU does not compute in bf16; use f32"):
        _require(Core(), "bf16")
    assert _require(Core(), "f32") == "Old CPU"


@pytest.mark.parametrize("kind", ["bundle", "recurrent_bundle"])
def test_bf16_serves_after_the_gate_and_not_before(request: pytest.FixtureRequest, kind: str) -> None:
    bundle = scored(request.getfixturevalue(kind))
    try:
        load_engine(bundle, EngineRequest("openvino", precision="bf16")).close()
    except EngineUnavailable as error:
        pytest.skip(str(error))
    with pytest.raises(EngineRefused, match="has not been validated"):
        load_admitted(bundle, EngineRequest("openvino", precision="bf16", max_clips=4))
    verdict = verify_engine(bundle, "openvino", "bf16")
    assert verdict.accuracy is not None
    assert (verdict.status, verdict.accuracy.frames) == ("ok", 2 * (40 - bundle.spec.length + 1))
    engine = load_admitted(bundle, EngineRequest("openvino", precision="bf16", max_clips=4)).engine
    assert engine.describe()["precision"] == "bf16"
    assert read_records(bundle)[0].fingerprint == fingerprint(engine)


def test_another_precision_comes_with_the_scale_that_the_gate_measured(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_up_gpu(monkeypatch, tmp_path)
    known = fingerprint(load_engine(bundle, EngineRequest("torch-cuda", precision="f16")))
    scaled = PASSED.model_copy(update={"score_scale": 0.8})
    kept(bundle, engine="torch-cuda", precision="f16", fingerprint=known, accuracy=scaled)
    assert load_admitted(bundle, EngineRequest("torch-cuda", "f16", max_clips=4)).score_scale == 0.8
    assert load_admitted(bundle, EngineRequest("torch-cuda", max_clips=4)).score_scale == 1


@pytest.mark.parametrize("kind", ["bundle", "recurrent_bundle"])
def test_an_engine_that_keeps_frames_must_give_the_same_scores_from_them(
    request: pytest.FixtureRequest, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_up_gpu(monkeypatch, tmp_path)
    bundle, options = request.getfixturevalue(kind), EngineRequest("torch-cuda", max_clips=4, gpu_cached_cameras=3)
    load_admitted(bundle, options).engine.close()

    monkeypatch.setattr(HostDriver, "gather", lambda _driver, table, rows, into: into.copy_(table[rows.flip(0)]))
    with pytest.raises(EngineFailed, match=r"torch-cuda: scores from frames that stay.*; set engine.gpu_cached_cameras to 0"):
        load_admitted(bundle, options)
    load_admitted(bundle, replace(options, gpu_cached_cameras=0)).engine.close()


def test_float32_goes_through_the_gate_as_well(bundle: Bundle) -> None:
    gate = validate_engine(scored(bundle), "onnx", "f32").accuracy
    assert gate.passed
    assert gate.max_error < 1e-5
    wrong = noise(bundle, 40)
    assert not validate_engine(with_sequences(bundle, wrong), "onnx", "f32").accuracy.passed
    assert np.isfinite(gate.spearman)


def test_a_float32_engine_must_hold_the_sequences_too(bundle: Bundle) -> None:
    good = verify_engine(scored(bundle), "onnx", "f32")
    assert good.accuracy is not None
    assert (good.status, good.accuracy.spearman) == ("ok", pytest.approx(1.0))
    wrong = verify_engine(with_sequences(bundle, noise(bundle, 40)), "onnx", "f32")
    assert wrong.status == "failed"
    assert "the largest error is" in wrong.detail


def test_a_bundle_that_cannot_be_written_to_is_tried_all_the_same(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("deploy.validation.admission.write_record", refuse)
    monkeypatch.setattr("deploy.validation.admission.validate_engine", lambda *_: kept(bundle))
    assert verify_engine(bundle, "openvino", "bf16").status == "ok"


def test_a_bundle_without_sequences_refuses_bf16_and_nothing_else(bundle: Bundle) -> None:
    assert verify_engine(bundle, "openvino", "f32").status == "ok"
    assert verify_engine(bundle, "openvino", "bf16").status in {"refused", "unavailable"}


def test_all_is_well_if_something_works_and_nothing_that_was_asked_for_does_not() -> None:
    def verdicts(*statuses: str) -> list[VerifyResult]:
        return [VerifyResult("openvino", "f32", status, "") for status in statuses]

    assert passed(verdicts("ok", "refused", "unavailable"), asked_for=False)
    assert not passed(verdicts("ok", "failed"), asked_for=False)
    assert not passed(verdicts("unavailable"), asked_for=False)
    assert not passed(verdicts("ok", "refused"), asked_for=True)
    assert json.dumps(PASSED.model_dump())
