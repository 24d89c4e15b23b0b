"""The comparison with anomalib, with a stand-in for anomalib in a real process."""

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.errors import EngineFailed
from tests.bench.anomalib_comparison import anomalib_runners, comparison_table

PYTHON = Path(sys.executable)


@pytest.fixture(autouse=True)
def _environment_with_anomalib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).with_name("fake_anomalib")))


def test_measures_both_inferencers_at_each_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with anomalib_runners(PYTHON, [32, 16], threads=1) as runners:
        keys = [runner.key for runner in runners]
        assert keys == ["openvino 32x32", "torch 32x32", "openvino 16x16", "torch 16x16"]
        for runner in runners:
            runner.measure(0.0)
        precisions = ["bf16 {'INFERENCE_NUM_THREADS': 1}", "f32"]
        assert [runner.info["precision"] for runner in runners] == 2 * precisions
        assert [runner.info["parameters_millions"] for runner in runners] == [32.0, 32.0, 16.0, 16.0]
        assert {len(runner.times.calls_s) for runner in runners} == {3}
        assert comparison_table([], runners).row_count == 4
        assert list(tmp_path.rglob("16.xml")) != []
    assert runners[0].process.returncode is not None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "message"), [("raise 6", r"failed: RuntimeError: no such layer$"), ("die 6", r"ended with exit code 3")]
)
def test_reports_failure_in_one_line(fault: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ANOMALIB", fault)
    with anomalib_runners(PYTHON, [16], threads=0) as (_, runner), pytest.raises(EngineFailed, match=message):
        runner.measure(0.0)


def test_rejects_unusable_python(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match=f"--anomalib {tmp_path}: "), anomalib_runners(tmp_path, [16], threads=0):
        pass


def test_script_prints_its_options() -> None:
    script = Path(__file__).with_name("anomalib_comparison.py")
    assert "--anomalib PYTHON" in subprocess.run([PYTHON, script, "--help"], capture_output=True, text=True, check=True).stdout
