"""``oddsight-deploy`` as a user calls it: output, errors and exit codes."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from deploy.bundle import ONNX_NAME, Bundle, read_golden
from deploy.cli import main
from deploy.registry import ENGINES
from deploy.sequences import STRETCH_PICTURES
from tests.harness.gpu_engines import make_up_gpu
from tests.unit.deploy.export.test_int8 import calibration_frames, with_golden
from tests.unit.deploy.test_sequences import written

CPU_ENGINES = ("openvino", "onnx", "torch")


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(plugin_paths: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``oddsight-deploy`` in this process; ``missing`` libraries cannot be imported."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str | Path, missing: tuple[str, ...] = ()) -> Done:
        with monkeypatch.context() as patch:
            if "torch" in missing:
                patch.delitem(sys.modules, "deploy.engines.torch", raising=False)  # it holds on to PyTorch
            for module in missing:
                patch.setitem(sys.modules, module, None)
            patch.setattr(sys, "argv", ["oddsight-deploy", *map(str, arguments)])
            with pytest.raises(SystemExit) as exited:
                main()
        return Done(int(exited.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.benchmark.optimize._ROUND_S", 0.1)


def test_help_loads_no_heavy_library() -> None:
    program = """
import atexit, sys
atexit.register(lambda: print([name for name in ("cv2", "numpy", "pydantic", "torch", "openvino") if name in sys.modules]))
from deploy.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program, "--help"], check=True, capture_output=True, text=True, timeout=100)
    assert "inspect" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_inspect_shows_content(run: Run, bundle: Bundle) -> None:
    done = run("inspect", bundle.path)
    assert (done.returncode, done.stderr) == (0, "")
    for expected in (bundle.model_id, "height_px", bundle.calibration.calibration_id, "auc", "golden.safetensors"):
        assert expected in done.stdout


def test_inspect_json(run: Run, bundle: Bundle) -> None:
    content = json.loads(run("inspect", bundle.path, "--json").stdout)
    assert content["model"]["model_id"] == bundle.model_id
    assert content["spec"] == bundle.spec.model_dump()
    assert content["calibration"]["peaks"] == list(bundle.calibration.peaks)
    assert content["metrics"] == {"auc": 0.9}
    size = bundle.file(ONNX_NAME).stat().st_size
    assert content["files"][ONNX_NAME] == {"bytes": size, "sha256": bundle.manifest.files[ONNX_NAME]}


def test_verify_validates_every_engine(run: Run, bundle: Bundle) -> None:
    done = run("verify", bundle.path, "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["passed"]) == (0, True)
    assert {result["engine"] for result in report["engines"]} == set(ENGINES)
    in_f32 = [result for result in report["engines"] if result["precision"] == "f32" and result["engine"] in CPU_ENGINES]
    assert {result["engine"]: result["status"] for result in in_f32} == dict.fromkeys(CPU_ENGINES, "ok")
    assert all(result["parity"]["clips"] == len(read_golden(bundle).clips) for result in in_f32)


def test_verify_reports_missing_library(run: Run, bundle: Bundle) -> None:
    done = run("verify", bundle.path, missing=("torch",))
    assert done.returncode == 0
    assert "torch f32: not available here" in done.stdout
    assert "oddsight[train]" in done.stdout


def test_verify_fails_if_requested_is_missing(run: Run, bundle: Bundle) -> None:
    done = run("verify", bundle.path, "--engine", "onnx", "--json", missing=("onnxruntime",))
    report = json.loads(done.stdout)
    assert (done.returncode, report["passed"]) == (1, False)
    assert [result["status"] for result in report["engines"]] == ["unavailable"]


def test_verify_fails_without_engines(run: Run, bundle: Bundle) -> None:
    assert run("verify", bundle.path, missing=("torch", "openvino", "onnxruntime")).returncode == 1


def test_verify_fails_on_wrong_scores(run: Run, bundle_with_other_weights: Bundle) -> None:
    done = run("verify", bundle_with_other_weights.path, "--json")
    results = json.loads(done.stdout)["engines"]
    statuses = {result["engine"]: result["status"] for result in results if result["precision"] == "f32"}
    assert done.returncode == 1
    assert {name: statuses[name] for name in CPU_ENGINES} == {"openvino": "ok", "onnx": "ok", "torch": "failed"}


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_no_bundle_is_one_line(run: Run, tmp_path: Path, command: str) -> None:
    done = run(command, tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {tmp_path}: not a bundle")
    assert done.stderr.count("\n") == 1


def test_unknown_engine_exits_2(run: Run, bundle: Bundle) -> None:
    done = run("verify", bundle.path, "--engine", "cuda")
    assert (done.returncode, done.stdout) == (2, "")
    assert "openvino, onnx, torch" in done.stderr


def test_bench_json(run: Run, bundle: Bundle) -> None:
    done = run("bench", bundle.path, "--engine", "onnx", "--batch", "2", "--rounds", "1", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert [(row["engine"], row["precision"], row["batch"]) for row in report["results"]] == [("onnx", "f32", 2)]
    assert report["floor"]["flop_per_s"]["f32"] > 0


def test_build_names_missing_library(run: Run, bundle: Bundle) -> None:
    done = run("build", bundle.path, missing=("tensorrt",))
    assert (done.returncode, done.stdout) == (1, "")
    assert "the tensorrt engine cannot be used" in done.stderr
    assert "pip install 'oddsight[tensorrt]'" in done.stderr


def test_build_rejects_bucket_0(run: Run, bundle: Bundle) -> None:
    done = run("build", bundle.path, "--bucket", "0")
    assert done.returncode == 2


def test_build_int8_records_calibration(run: Run, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_up_gpu(monkeypatch, tmp_path)
    bundle = with_golden(bundle)
    for number, frames in enumerate(calibration_frames(bundle, frames=2 * STRETCH_PICTURES).frames):
        written(tmp_path / "cameras" / str(number), frames)
    command = "build", bundle.path, "--precision", "int8", "--bucket", "2", "--json"
    without = run(*command)
    assert (without.returncode, without.stdout) == (1, "")
    assert "no int8 graph of this model was made yet" in without.stderr
    done = run(*command, "--calibration-data", tmp_path / "cameras")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)["built"]["plan"]
    assert (done.returncode, plan["calibration"]["stretches"], plan["calibration"]["frames"]) == (0, 4, 192)
    assert plan["products"]["INT8"] >= 1
    recorded = json.loads(run("inspect", bundle.path, "--json").stdout)["engines"]["tensorrt int8"]
    assert recorded["plan"]["calibration"] == plan["calibration"]


@pytest.mark.parametrize("precision", [(), ("--precision", "f32")])
def test_calibration_data_needs_int8(run: Run, bundle: Bundle, precision: tuple[str, ...]) -> None:
    done = run("build", bundle.path, "--calibration-data", bundle.path, *precision)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --calibration-data is for --precision int8, got --precision f")


def test_build_rejects_empty_folder(run: Run, bundle: Bundle, tmp_path: Path) -> None:
    done = run("build", with_golden(bundle).path, "--precision", "int8", "--calibration-data", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: --calibration-data {tmp_path}: no .jpg, .jpeg or .png file")
    assert done.stderr.count("\n") == 1


def test_bench_performance_hint(run: Run, bundle: Bundle) -> None:
    done = run(
        "bench", bundle.path, "--engine", "onnx", "--batch", "1", "--rounds", "1", "--performance-hint", "latency", "--json"
    )
    assert json.loads(done.stdout)["performance_hint"] == "latency"


def test_optimize_writes_default(run: Run, bundle: Bundle, short_rounds: None) -> None:
    done = run("optimize", bundle.path, "--cameras", "2", "--frame-rate", "10", "--json", missing=("torch", "onnxruntime"))
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert report["load"] == {"cameras": 2, "frame_rate": 10.0}
    statuses = {(trial["engine"], trial["precision"]): trial["status"] for trial in report["trials"]}
    assert statuses["openvino", "f32"] == "ok"
    assert statuses["onnx", "f32"] == statuses["torch", "f32"] == "unavailable"
    (best,) = (trial for trial in report["trials"] if trial["best"])
    assert (best["engine"], best["precision"]) == ("openvino", "f32")
    assert best["figures"]["scored"] > 0
    recorded = json.loads(run("inspect", bundle.path, "--json").stdout)["default engine"]
    assert {name: recorded[name] for name in ("engine", "precision", "performance_hint")} == {
        name: best[name] for name in ("engine", "precision", "performance_hint")
    }


def test_optimize_warns_if_none_keeps_up(run: Run, bundle: Bundle, short_rounds: None) -> None:
    done = run("optimize", bundle.path, "--cameras", "1000000", "--frame-rate", "100", missing=("torch", "onnxruntime"))
    assert done.returncode == 0
    assert re.search(r"\nopenvino f32 (throughput|latency   ) best ", done.stdout)
    assert "torch f32: not available here" in done.stdout
    assert "warning: no engine keeps up with 1000000 cameras of 100 frames/s here; the fastest scores " in done.stderr


def test_optimize_fails_without_engines(run: Run, bundle: Bundle) -> None:
    missing = "torch", "openvino", "onnxruntime"
    done = run("optimize", bundle.path, "--cameras", "1", "--frame-rate", "10", missing=missing)
    assert done.returncode == 1
    assert "openvino f32: not available here: the openvino engine cannot be used" in done.stdout
    assert "no engine passed validation" in done.stderr
    assert not (bundle.path / "engines" / "default.json").exists()


def test_optimize_rejects_bad_load(run: Run, bundle: Bundle) -> None:
    done = run("optimize", bundle.path, "--cameras", "1", "--frame-rate", "nan")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: frame rate must be above 0 and at most 1000 frames/s, got nan\n"
