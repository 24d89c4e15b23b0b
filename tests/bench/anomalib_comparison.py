"""Measure anomalib's GANomaly, untrained, beside our engines, in interleaved rounds.

    python tests/bench/anomalib_comparison.py --anomalib PYTHON --bundle BUNDLE [--size N ...] [--threads N] [--rounds N]

PYTHON belongs to an environment with ``anomalib[openvino]``: it needs other versions of our libraries, so it is never imported
here. :mod:`tests.bench.anomalib_process` runs there. Its files, gigabytes at 256 x 256, are deleted afterwards.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# The file's own folder is the path when it is run as a script.
sys.path.insert(0, str(Path(__file__).parents[2]))

from rich.console import Console
from rich.table import Table

from deploy.benchmark.load_test import latency_percentiles_ms
from deploy.benchmark.run import BenchmarkPlan, CallTimes, EngineRunner, load_runners, run_rounds
from deploy.bundle import read_bundle
from deploy.errors import EngineFailed, OddsightError
from deploy.registry import PRECISIONS

_PROCESS = Path(__file__).with_name("anomalib_process.py")


@dataclass(slots=True)
class AnomalibRunner:
    """One of anomalib's inferencers at one image size, in the other process, one image a call."""

    process: "subprocess.Popen[str]"
    key: str
    """Inferencer and size, such as ``openvino 64x64``."""
    info: dict[str, Any]
    """version, precision, parameters_millions."""
    times: CallTimes = field(default_factory=CallTimes)

    def measure(self, round_s: float) -> None:
        """Measure one round.

        Raises:
            EngineFailed: anomalib failed, or its process ended.
        """
        assert self.process.stdin is not None
        self.process.stdin.write(f"{self.key} {round_s}\n")
        self.process.stdin.flush()
        answer = _answer(self.process)
        self.times.calls_s += answer["calls_s"]
        self.times.cpu_s += answer["cpu_s"]


def main() -> None:
    """Print a table of the figures."""
    arguments = parse_arguments()
    console = Console()
    try:
        with ExitStack() as stack:
            others = stack.enter_context(anomalib_runners(arguments.anomalib, arguments.size or [256, 64], arguments.threads))
            engines = tuple((name, precision) for name, precisions in PRECISIONS.items() for precision in precisions)
            plan = BenchmarkPlan(engines, rounds=arguments.rounds, threads=arguments.threads)
            ours, left_out = load_runners(read_bundle(arguments.bundle), plan, stack)
            run_rounds([part.measure for part in (*ours, *others)], plan.rounds, lambda _done, _total: None)
    except OddsightError as error:
        sys.exit(f"error: {error}")
    console.print(comparison_table(ours, others))
    for name, reason in left_out.items():
        console.print(f"left out: {name}: {reason}", markup=False)


def parse_arguments() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description="Measure anomalib's GANomaly, untrained, beside our engines.")
    parser.add_argument("--anomalib", type=Path, required=True, metavar="PYTHON", help="Python with anomalib[openvino]")
    parser.add_argument("--bundle", type=Path, required=True, help="folder that oddsight-train made")
    parser.add_argument("--size", type=int, action="append", metavar="N", help="anomalib's images are N x N; default 256 and 64")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of a call; 0: each library's default")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of 0.6 s each")
    return parser.parse_args()


@contextmanager
def anomalib_runners(python: Path, sizes_px: Sequence[int], threads: int) -> Iterator[list[AnomalibRunner]]:
    """Both of anomalib's inferencers at each image size, loaded and warm.

    Raises:
        EngineFailed: ``python`` cannot be started, has no anomalib, or anomalib failed.
    """
    with TemporaryDirectory(prefix="oddsight-anomalib-") as folder, ExitStack() as stack:
        # Python puts a script's folder first on its path; ours holds names that libraries have, too.
        command = [str(python), "-c", _PROCESS.read_text(), str(threads), *map(str, sizes_px)]
        environment = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), folder)}
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment, cwd=folder)
        except OSError as error:
            raise EngineFailed(f"--anomalib {python}: {error.strerror}; give the Python of an anomalib environment") from error
        stack.enter_context(process)
        stack.callback(process.kill)
        yield [AnomalibRunner(process, key, info) for key, info in _answer(process).items()]


def _answer(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise EngineFailed(f"anomalib's process ended with exit code {process.wait(10)}; see its messages above")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise EngineFailed(f"anomalib failed: {answer['error']}")
    return answer


def comparison_table(ours: Sequence[EngineRunner], others: Sequence[AnomalibRunner]) -> Table:
    """Figures of both; the last columns divide anomalib's CPU time of an image by ours of a clip."""
    table = Table("", "precision", "batch", "images/s", "CPU ms", "p50 ms", "p95 ms", *(f"CPU, {other.key}" for other in others))
    for other in others:
        table.add_row(f"anomalib {other.info['version']} {other.key}", other.info["precision"], "1", *_figures(other.times, 1))
    for runner in ours:
        figures = _figures(runner.times, len(runner.clips))
        ratios = (f"x {other.times.cpu_s_per_call / runner.cpu_s_per_clip:.1f}" for other in others)
        table.add_row(runner.engine.name, runner.precision, str(len(runner.clips)), *figures, *ratios)
    return table


def _figures(times: CallTimes, batch: int) -> list[str]:
    latency_ms = latency_percentiles_ms(times.calls_s)
    speed = f"{batch / times.median_s:.1f}", f"{times.cpu_s_per_call / batch * 1000:.2f}"
    return [*speed, f"{latency_ms['p50']:.1f}", f"{latency_ms['p95']:.1f}"]


if __name__ == "__main__":
    main()
