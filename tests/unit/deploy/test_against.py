"""anomalib in a process of its own. What runs there is real, anomalib is not: fake_anomalib stands in for it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.errors import ConfigError, EngineFailed, EngineUnavailable
from tests.bench.anomalib_comparison import Inferencer, anomalib_inferencers
from tests.bench.anomalib_process import measure

PYTHON = Path(sys.executable)
SIDE = Path(__file__).parents[3] / "tests/bench/anomalib_process.py"


@pytest.fixture(autouse=True)
def _environment_with_anomalib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "fake_anomalib"))


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where temporary files of this process go."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_both_inferencers_are_measured_at_each_size() -> None:
    with anomalib_inferencers(PYTHON, [32, 16], threads=0) as inferencers:
        assert [inferencer.key for inferencer in inferencers] == [
            f"{name} {size}" for size in ("32x32", "16x16") for name in ("openvino", "torch")
        ]
        for inferencer in inferencers:
            inferencer.measure(0.0)
            inferencer.measure(0.0)
        results = [inferencer.result() for inferencer in inferencers]
    assert {len(inferencer.calls.calls_s) for inferencer in inferencers} == {6}
    assert [(result.size_px, result.inferencer, result.precision, result.parameters_millions) for result in results] == [
        ([32, 32], "openvino", "bf16", 32.0),
        ([32, 32], "torch", "f32", 32.0),
        ([16, 16], "openvino", "bf16", 16.0),
        ([16, 16], "torch", "f32", 16.0),
    ]
    assert {(result.name, result.version, result.weights) for result in results} == {("anomalib ganomaly", "9.9", "untrained")}
    for result in results:
        assert result.images_per_s == pytest.approx(1000 / result.latency_ms["p50"])


@pytest.mark.parametrize(("round_s", "calls"), [(0.0, 3), (2.5, 3), (4.5, 5)])
def test_a_round_is_as_long_as_it_was_asked_for_and_has_three_calls(
    round_s: float, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: sum(seconds))
    monkeypatch.setattr("time.process_time", lambda: 2 * sum(seconds))
    assert measure(lambda: seconds.append(1.0), round_s) == {"calls_s": [1.0] * calls, "cpu_s": 2.0 * calls}


def test_as_many_threads_as_the_engines_have() -> None:
    with anomalib_inferencers(PYTHON, [16], threads=1) as (inferencer, _):
        assert inferencer.about["precision"] == "bf16 {'INFERENCE_NUM_THREADS': 1}"
        assert "torch: 1 threads" in inferencer.child._said.read_text()


def test_nothing_is_left_behind(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("working"))
    with anomalib_inferencers(PYTHON, [16], threads=0) as (inferencer, _):
        assert list(temporary.rglob("16.xml")) != []
        process = inferencer.child._process
    assert process.returncode is not None
    assert [*temporary.iterdir(), *Path.cwd().iterdir()] == []


def test_nor_if_the_benchmark_is_interrupted_in_the_middle_of_a_call(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ANOMALIB", "hang 5")

    def interrupt(inferencer: Inferencer) -> None:
        inferencer.child._requests.write("measure openvino 16x16 0\n")
        inferencer.child._requests.flush()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), anomalib_inferencers(PYTHON, [16], threads=0) as (inferencer, _):
        interrupt(inferencer)
    assert inferencer.child._process.returncode is not None
    assert list(temporary.iterdir()) == []


@pytest.fixture
def side(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """What runs over there, without the benchmark."""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "FAKE_ANOMALIB": "hang 5"}
    command, pipe = [PYTHON, SIDE, "0", "16"], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment) as process:
        yield process
        process.kill()


def test_it_ends_in_the_middle_of_a_call_when_the_benchmark_was_killed(side: "subprocess.Popen[str]", tmp_path: Path) -> None:
    assert side.stdin is not None
    assert side.stdout is not None
    assert "openvino 16x16" in side.stdout.readline()
    side.stdin.write("measure openvino 16x16 0\n")
    side.stdin.close()  # the kernel does it for the dead
    assert side.wait(60) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_request_that_it_does_not_know_is_an_error_that_names_what_there_is() -> None:
    told = r"one of openvino 16x16, torch 16x16, got 'sing a song'"
    with pytest.raises(EngineFailed, match=told), anomalib_inferencers(PYTHON, [16], threads=0) as (inferencer, _):
        inferencer.child.ask("sing a song")


def test_what_does_not_end_by_itself_is_ended(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("""#!/bin/sh\necho '{"inferencers": {}}'\nexec sleep 600\n""")
    script.chmod(0o755)
    with anomalib_inferencers(script, [16], threads=0) as inferencers:
        assert inferencers == []


@pytest.mark.parametrize("given", ["missing/bin/python", "."])
def test_a_python_that_cannot_be_started_is_a_wrong_call(given: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--anomalib must be the Python of an environment with anomalib") as raised:
        start(tmp_path / given)
    assert str(tmp_path / given) in str(raised.value)


def test_a_program_that_is_no_python_is_told_as_such(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 42\n")
    script.chmod(0o755)
    with pytest.raises(EngineFailed, match="answered '42'; is it a Python"):
        start(script)


def test_a_python_without_anomalib_says_what_to_install_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "anomalib.py").write_text("raise ModuleNotFoundError('No module named anomalib')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(EngineUnavailable, match=r"No module named anomalib; install it there: .* -m pip install 'anomalib\["):
        start(PYTHON)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("raise 1", r"^anomalib failed at 'loading': RuntimeError: no such layer$"),
        ("raise 6", r"^anomalib failed at 'measure torch 16x16 0.0': RuntimeError: no such layer$"),
        ("die 1", r"'loading': .* ended with exit code 3; the last that it said: out of memory$"),
        ("die 6", r"'measure torch 16x16 0.0': .* ended with exit code 3; the last that it said: out of memory$"),
    ],
)
def test_what_goes_wrong_there_is_one_line_here(wrong: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ANOMALIB", wrong)
    with pytest.raises(EngineFailed, match=told):
        start(PYTHON)


def test_and_so_is_being_asked_again_after_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ANOMALIB", "die 5")
    with anomalib_inferencers(PYTHON, [16], threads=0) as (inferencer, _):
        for _ in range(2):
            with pytest.raises(EngineFailed, match="ended with exit code 3"):
                inferencer.measure(0.0)


def start(python: Path) -> None:
    """Load, and measure one round of the second inferencer."""
    with anomalib_inferencers(python, [16], threads=0) as (_, inferencer):
        inferencer.measure(0.0)
