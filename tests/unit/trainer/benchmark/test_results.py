import os

import pytest

from deploy.errors import ConfigError
from trainer.benchmark.results import ResultsFile, RunResult, process_count
from trainer.errors import BadRunFile


def result(auc: dict[str, float], **changes: object) -> RunResult:
    counts = {"normals": 90, "anomalies": 10, "test_normals": 5, "test_anomalies": 5, "wall_s": 3.0, "cpu_s": 2.0}
    return RunResult(**{"run": {"seed": 0}, "auc": auc, **counts, **changes})


def test_truncated_last_line_is_skipped(tmp_path):
    path, results = tmp_path / "runs.jsonl", [result({"a": number / 4}) for number in range(3)]
    with ResultsFile(path) as file:
        file.append(results[0])
        file.append(results[1])
    path.write_bytes(path.read_bytes()[:-20])
    with ResultsFile(path) as file:
        assert file.read() == results[:1]
        file.append(results[2])
    with ResultsFile(path) as file:
        assert file.read() == [results[0], results[2]]


def test_result_is_written_immediately(tmp_path):
    with ResultsFile(tmp_path / "runs.jsonl") as file:
        file.append(result({"a": 0.5}))
        assert (tmp_path / "runs.jsonl").read_text().endswith("}\n")


@pytest.mark.parametrize(
    "content", ["notes\nof mine", '{"other": 1}\n', "[1]\n", "[" * 10**5 + "\n", '{"run": {}, "auc": {}}\n', b"\xff\xfe\n"]
)
def test_rejects_other_file_and_keeps_it(tmp_path, content):
    path = tmp_path / "mine.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = path.read_bytes()
    with ResultsFile(path) as file, pytest.raises(BadRunFile, match=r"mine\.txt.*--out"):
        file.read()
    assert path.read_bytes() == before


@pytest.mark.parametrize("value", [r'"\ud800"', "9" * 5000])
def test_rejects_what_could_not_be_written_again(tmp_path, value):
    line = result({"a": 0.5}).model_dump_json().replace('{"seed":0}', f'{{"seed":{value}}}')
    (tmp_path / "runs.jsonl").write_text(line + "\n")
    with ResultsFile(tmp_path / "runs.jsonl") as file, pytest.raises(BadRunFile, match="--out"):
        file.read()


def test_rejects_path_that_cannot_be_written(tmp_path):
    with pytest.raises(BadRunFile, match="--out must be a file"):
        ResultsFile(tmp_path)
    with pytest.raises(BadRunFile, match="--out must be a file"):
        ResultsFile(tmp_path / "none" / "runs.jsonl")


def test_process_count():
    assert process_count(None) == len(os.sched_getaffinity(0))
    assert process_count(3) == 3
    with pytest.raises(ConfigError, match="--jobs must be 1 or more, got 0"):
        process_count(0)
