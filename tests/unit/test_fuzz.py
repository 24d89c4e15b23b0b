"""The short form of ``make fuzz``, and the fuzzer's own tests."""

import json
from pathlib import Path

import pytest

from tests.fuzz import fuzz
from tests.fuzz.catalogue import TARGETS
from tests.fuzz.mutation import MAX_INPUT_BYTES
from tests.fuzz.runner import Failure, Result, examine_chunk, run_target, save_failures
from tests.fuzz.toys import misbehaving


@pytest.mark.parametrize("name", TARGETS)
def test_no_damaged_input_crashes_a_parser(name: str) -> None:
    target = TARGETS[name]()
    assert target.name == name
    assert "accepted" in {target.examine(content).kind for content in target.valid}

    count = 10 + round(150 * min(1.0, target.share))
    result = examine_chunk(target, 2, range(count), set(), lambda _: None)

    assert [failure.reason for failure in result.failures] == []
    assert result.inputs == count
    assert result.is_whole
    assert result.rejected.total() or name == "record-batches"


@pytest.mark.parametrize("name", ["settings", "profiles", "record-batches"])
def test_same_seed_gives_the_same_inputs(name: str) -> None:
    one, other = TARGETS[name](), TARGETS[name]()
    inputs = [one.input(1, number) for number in range(60)]
    assert [other.input(1, number) for number in reversed(range(60))] == inputs[::-1]
    assert [one.input(2, number) for number in range(60)] != inputs
    assert len(set(inputs)) > 50
    assert max(map(len, inputs)) <= MAX_INPUT_BYTES + 100


def test_whatever_an_input_does_it_is_counted(tmp_path: Path) -> None:
    result = run_target(misbehaving, 1, 40, hang_s=3.0)

    assert (result.inputs, result.accepted, dict(result.rejected)) == (40, 35, {"ValueError": 1})
    assert result.is_whole
    assert sorted(result.failures) == [
        Failure(5, "KeyError: 'forgotten'"),
        Failure(11, "MemoryError: "),
        Failure(17, "the process ended with exit code 7"),
        Failure(23, "no end within 3 s"),
    ]
    files = [path for path, _ in save_failures(misbehaving(), 1, result.failures, tmp_path)]
    assert sorted(path.read_bytes() for path in files) == [b"c", b"e", b"h", b"m"]
    assert all(len(path.name) == 16 for path in files)


def test_an_input_that_is_not_accounted_for_is_found_out() -> None:
    assert not Result(inputs=2, accepted=1).is_whole


def test_command_prints_what_became_of_the_inputs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--inputs", "30", "--target", "label-scripts", "--failures", str(tmp_path)]
    assert fuzz.main([*options, "--json"]) == 0

    report = json.loads(capsys.readouterr().out)
    assert list(report["targets"]) == ["label-scripts"]
    assert report["all"]["inputs"] == 30
    assert list(tmp_path.iterdir()) == []


def test_command_replays_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "found").write_bytes(b"x = [[[")
    assert fuzz.main(["--target", "settings", "--replay", str(tmp_path / "found")]) == 0
    assert "rejected: ConfigError" in capsys.readouterr().out
