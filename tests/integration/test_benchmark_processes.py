"""The benchmark in processes of its own: what ends with what, and that a benchmark cut short keeps what it has."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from tests.harness import side_jobs
from trainer.benchmark.results import run_in_processes
from trainer.cli import main
from trainer.errors import RunsUnfinished, TrainingDiverged

ROOT = Path(__file__).parents[2]
DEADLINE_S = 90.0


def test_processes_with_one_thread_and_errors():
    threads, outcomes = [], {}
    run_in_processes(side_jobs.number_of_threads, [1], 1, lambda _, found: threads.append(found))
    run_in_processes(side_jobs.fail_at_two, [1, 2, 3], 1, outcomes.__setitem__)
    assert threads == [1]
    assert (outcomes[1], str(outcomes[2]), outcomes[3]) == (1, "the second one", 3)
    assert isinstance(outcomes[2], TrainingDiverged)


def test_killed_process():
    with pytest.raises(RunsUnfinished, match="fewer --jobs"):
        run_in_processes(side_jobs.be_killed, [1], 1, lambda *_: None)


STARTS_TWO = """
import sys
from pathlib import Path
from tests.harness.side_jobs import leave_mark_and_sleep
from trainer.benchmark.results import run_in_processes
if __name__ == "__main__":
    run_in_processes(leave_mark_and_sleep, [Path(sys.argv[1])] * 2, 2, print)
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda end: end.name)
def test_no_process_outlives_its_parent(tmp_path, end):
    (tmp_path / "starts_two.py").write_text(STARTS_TWO)
    (tmp_path / "marks").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "starts_two.py"), str(tmp_path / "marks")]
    parent = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(list((tmp_path / "marks").iterdir())) == 2)
    children = [int(mark.name) for mark in (tmp_path / "marks").iterdir()]
    parent.send_signal(end)
    parent.wait(DEADLINE_S)
    wait_until(lambda: not any(map(is_alive, children)))


def wait_until(come: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not come():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def arguments(folder: Path, *more: str) -> list[str]:
    return [
        *("benchmark", "odds", "--model", "ama", "--data", str(folder)),
        *("--sets", "one", "--jobs", "1", "--out", str(folder / "runs.jsonl"), *more),
    ]


def test_ctrl_c_keeps_results(tmp_path, monkeypatch, capsys):
    folder, rng = tmp_path, np.random.default_rng(0)
    savemat(folder / "one.mat", {"X": rng.normal(size=(120, 4)), "y": np.repeat([0, 1], [100, 20])[:, None]})
    command = [sys.executable, "-m", "trainer.cli", *arguments(folder, "--seeds", "200")]
    interrupted = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert interrupted.stdout is not None
    first = interrupted.stdout.readline()
    os.killpg(interrupted.pid, signal.SIGINT)  # as a terminal does it: the processes at work get it, too
    _, errors = interrupted.communicate(timeout=DEADLINE_S)
    kept = len((folder / "runs.jsonl").read_text().splitlines())
    monkeypatch.setattr(sys, "argv", ["oddsight-train", *arguments(folder, "--seeds", str(kept), "--json")])
    with pytest.raises(SystemExit, match="0"):
        main()
    resumed = capsys.readouterr()

    assert first.startswith("odds ama one, ratio 0, seed 0: AUC ")
    assert interrupted.returncode == 130
    assert "Traceback" not in errors
    assert 1 <= kept < 200
    assert f"{kept} of {kept} runs were finished before" in resumed.err
    told = json.loads(resumed.out)
    assert [run["run"]["seed"] for run in told["runs"]] == list(range(kept))
    assert told["summary"][0]["seeds"] == kept
