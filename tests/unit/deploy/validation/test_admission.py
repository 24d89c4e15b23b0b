"""Validation of engines, and which ones may serve."""

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.bundle import Bundle
from deploy.engine import EngineRequest
from deploy.engines.openvino import _processor_for
from deploy.errors import BundleCorrupt, ConfigError, EngineFailed, EngineRefused, EngineUnavailable
from deploy.records import AccuracyResult, EngineRecord, read_records, require_validated, write_record
from deploy.registry import load_engine
from deploy.sequences import GoldenSequences, score_sequences
from deploy.validation.admission import VerifyResult, all_passed, fingerprint, load_validated, validate_engine, verify_engine
from tests.harness.gpu_engines import make_up_gpu
from tests.harness.host_driver import HostDriver
from tests.unit.deploy.test_sequences import noise, with_sequences

HERE = {"backend": "openvino", "version": "1", "processor": "one", "precision": "bf16"}
PASSED = AccuracyResult(frames=90, max_error=0.01, median_error=0.001, spearman=0.999, auc_difference=0.0, failures=())


class Core:
    """OpenVINO's core on a processor without bfloat16."""

    def get_property(self, device: str, name: str) -> object:
        return {"FULL_DEVICE_NAME": "Old CPU", "OPTIMIZATION_CAPABILITIES": ["FP32", "INT8"]}[name]


def write(bundle: Bundle, **changes: object) -> EngineRecord:
    record = EngineRecord(
        engine="openvino",
        precision="bf16",
        model_sha256=bundle.manifest.files["model.onnx"],
        fingerprint=HERE,
        accuracy=PASSED,
    ).model_copy(update=changes)
    write_record(bundle, record)
    return record


def with_scores(bundle: Bundle) -> Bundle:
    """With golden sequences that hold an engine's own scores."""
    frames = noise(bundle, 40)
    score = score_sequences(load_engine(bundle, EngineRequest("openvino")), frames.frames)
    return with_sequences(bundle, GoldenSequences(frames.frames, frames.sped_up, score))


def test_record_round_trip(bundle: Bundle) -> None:
    record = write(bundle)
    assert read_records(bundle) == [record]
    assert require_validated(bundle, "openvino", "bf16", HERE) == PASSED


@pytest.mark.parametrize("scale", [math.nan, math.inf, 0.0, -1.0])
def test_refuses_a_scale_that_would_silence_every_camera(bundle: Bundle, scale: float) -> None:
    write(bundle, accuracy=PASSED.model_copy(update={"score_scale": scale}))
    with pytest.raises((EngineRefused, BundleCorrupt)):
        require_validated(bundle, "openvino", "bf16", HERE)


@pytest.mark.parametrize("link", [False, True], ids=["fifo", "link"])
def test_records_are_regular_files_of_the_bundle(bundle: Bundle, tmp_path: Path, link: bool) -> None:
    write(bundle)
    record = bundle.path / "engines" / "openvino-bf16" / "engine.json"
    record.rename(tmp_path / "engine.json")
    if link:
        record.symlink_to(tmp_path / "engine.json")
    else:
        os.mkfifo(record)
    with pytest.raises(BundleCorrupt, match=r"leads out of the folder|is no regular file"):
        read_records(bundle)


def test_refuses_unvalidated_engine(bundle: Bundle) -> None:
    with pytest.raises(
        EngineRefused, match=r"has not been validated.*oddsight-deploy verify .* --engine openvino --precision bf16"
    ):
        require_validated(bundle, "openvino", "bf16", HERE)


def test_refuses_failed_engine(bundle: Bundle) -> None:
    write(bundle, accuracy=PASSED.model_copy(update={"failures": ("the rank correlation is 0.9", "the AUC differs")}))
    with pytest.raises(EngineRefused, match=r"failed validation: the rank correlation is 0\.9; the AUC differs; use f32"):
        require_validated(bundle, "openvino", "bf16", HERE)


def test_names_every_difference(bundle: Bundle) -> None:
    write(bundle, model_sha256="abc", fingerprint={**HERE, "processor": "another", "device": "CPU"})
    with pytest.raises(EngineRefused) as refused:
        require_validated(bundle, "openvino", "bf16", HERE)
    message = str(refused.value)
    assert "processor was another, is one" in message
    assert "device was CPU, is None" in message
    assert f"model_sha256 was abc, is {bundle.manifest.files['model.onnx']}" in message


OLD_RECORD = b'{"engine": "openvino", "precision": "bf16", "model_sha256": "", "fingerprint": {}, "gate": null}'


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"engine": 1}', b"\xff\xfe", b"[" * 100_000, OLD_RECORD])
def test_unreadable_record_names_path(bundle: Bundle, content: bytes) -> None:
    write(bundle)
    (bundle.path / "engines" / "openvino-bf16" / "engine.json").write_bytes(content)
    with pytest.raises(BundleCorrupt, match=r"openvino-bf16/engine\.json: .*delete it and run oddsight-deploy verify again"):
        require_validated(bundle, "openvino", "bf16", HERE)


def test_refuses_inaccurate_float32(bundle_with_other_weights: Bundle) -> None:
    with pytest.raises(EngineFailed, match="torch: scores differ"):
        load_validated(bundle_with_other_weights, EngineRequest("torch", max_clips=4))
    load_validated(bundle_with_other_weights, EngineRequest("onnx", max_clips=4)).engine.close()


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_rejects_unknown_precision(bundle: Bundle, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"engine\.precision must be one of f32 with {name}, got 'bf16'"):
        load_engine(bundle, EngineRequest(name, precision="bf16"))


def test_names_processor_without_bf16() -> None:
    with pytest.raises(EngineUnavailable, match="Old CPU does not compute in bf16; use f32"):
        _processor_for(Core(), "bf16")
    assert _processor_for(Core(), "f32") == "Old CPU"


@pytest.mark.parametrize("kind", ["bundle", "recurrent_bundle"])
def test_bf16_serves_after_validation(request: pytest.FixtureRequest, kind: str) -> None:
    bundle = with_scores(request.getfixturevalue(kind))
    try:
        load_engine(bundle, EngineRequest("openvino", precision="bf16")).close()
    except EngineUnavailable as error:
        pytest.skip(str(error))
    with pytest.raises(EngineRefused, match="has not been validated"):
        load_validated(bundle, EngineRequest("openvino", precision="bf16", max_clips=4))
    result = verify_engine(bundle, "openvino", "bf16")
    assert result.accuracy is not None
    assert (result.status, result.accuracy.frames) == ("ok", 2 * (40 - bundle.spec.length + 1))
    engine = load_validated(bundle, EngineRequest("openvino", precision="bf16", max_clips=4)).engine
    assert engine.describe()["precision"] == "bf16"
    assert read_records(bundle)[0].fingerprint == fingerprint(engine)


def test_score_scale_from_record(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_up_gpu(monkeypatch, tmp_path)
    current = fingerprint(load_engine(bundle, EngineRequest("torch-cuda", precision="f16")))
    scaled = PASSED.model_copy(update={"score_scale": 0.8})
    write(bundle, engine="torch-cuda", precision="f16", fingerprint=current, accuracy=scaled)
    assert load_validated(bundle, EngineRequest("torch-cuda", "f16", max_clips=4)).score_scale == 0.8
    assert load_validated(bundle, EngineRequest("torch-cuda", max_clips=4)).score_scale == 1


@pytest.mark.parametrize("kind", ["bundle", "recurrent_bundle"])
def test_cached_frames_give_same_scores(
    request: pytest.FixtureRequest, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_up_gpu(monkeypatch, tmp_path)
    bundle, requested = request.getfixturevalue(kind), EngineRequest("torch-cuda", max_clips=4, gpu_cached_cameras=3)
    load_validated(bundle, requested).engine.close()

    monkeypatch.setattr(HostDriver, "gather", lambda _driver, table, rows, into: into.copy_(table[rows.flip(0)]))
    with pytest.raises(EngineFailed, match=r"torch-cuda: scores from frames that stay.*; set engine.gpu_cached_cameras to 0"):
        load_validated(bundle, requested)
    load_validated(bundle, replace(requested, gpu_cached_cameras=0)).engine.close()


def test_validates_float32(bundle: Bundle) -> None:
    accuracy = validate_engine(with_scores(bundle), "onnx", "f32").accuracy
    assert accuracy.passed
    assert accuracy.max_error < 1e-5
    wrong = noise(bundle, 40)
    assert not validate_engine(with_sequences(bundle, wrong), "onnx", "f32").accuracy.passed
    assert np.isfinite(accuracy.spearman)


def test_verify_scores_golden_sequences(bundle: Bundle) -> None:
    good = verify_engine(with_scores(bundle), "onnx", "f32")
    assert good.accuracy is not None
    assert (good.status, good.accuracy.spearman) == ("ok", pytest.approx(1.0))
    wrong = verify_engine(with_sequences(bundle, noise(bundle, 40)), "onnx", "f32")
    assert wrong.status == "failed"
    assert "the largest error is" in wrong.detail


def test_verifies_read_only_bundle(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("deploy.validation.admission.write_record", refuse)
    monkeypatch.setattr("deploy.validation.admission.validate_engine", lambda *_: write(bundle))
    assert verify_engine(bundle, "openvino", "bf16").status == "ok"


def test_bf16_needs_golden_sequences(bundle: Bundle) -> None:
    assert verify_engine(bundle, "openvino", "f32").status == "ok"
    assert verify_engine(bundle, "openvino", "bf16").status in {"refused", "unavailable"}


def test_all_passed() -> None:
    def results(*statuses: str) -> list[VerifyResult]:
        return [VerifyResult("openvino", "f32", status, "") for status in statuses]

    assert all_passed(results("ok", "refused", "unavailable"), requested=False)
    assert not all_passed(results("ok", "failed"), requested=False)
    assert not all_passed(results("unavailable"), requested=False)
    assert not all_passed(results("ok", "refused"), requested=True)
