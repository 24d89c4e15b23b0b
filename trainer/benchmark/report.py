"""Reports of a benchmark: a line for each run, a progress bar, and a table of results beside published figures.

Figures from memory are marked in reports until they are checked against the paper.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from types import TracebackType
from typing import Any, Self

import typer
from rich import box
from rich.console import Console
from rich.progress import MofNCompleteColumn
from rich.table import Table

from deploy.errors import OddsightError
from trainer.benchmark.protocols import CLASSES, IMAGE_DATASETS, BenchmarkRun
from trainer.benchmark.results import RunResult
from trainer.benchmark.run import BenchmarkResult
from trainer.training.progress import make_bar

_MIRROR = "a mirror of benchmark tables on the web; the paper's own tables were not at hand"
_PYOD = "PyOD's docs/tables/roc.csv at commit 1e5adf2: also 60 % for training, but with unlabelled outliers"
_MEMORY = "from memory, to be checked against the paper"

# AUC in percent, by data set or table.
_ESAD = {
    "mnist": 99.6,
    "fashion-mnist": 95.9,
    "arrhythmia": 85.2,
    "cardio": 98.8,
    "satellite": 92.5,
    "satimage-2": 99.9,
    "shuttle": 99.1,
}
# By ratio; means over the ten classes and over the classes of the anomalies. Its thyroid, too, is the derived set.
_DEEP_SAD = {
    "mnist": {0.0: 92.8, 0.01: 96.4, 0.05: 96.7, 0.1: 96.9, 0.2: 96.9},
    "fashion-mnist": {0.0: 89.2, 0.01: 90.0, 0.05: 90.5, 0.1: 91.3, 0.2: 91.0},
    "arrhythmia": {0.01: 75.9},
    "cardio": {0.01: 95.0},
    "satellite": {0.01: 91.5},
    "satimage-2": {0.01: 99.9},
    "shuttle": {0.01: 98.4},
    "thyroid_derived": {0.01: 98.6},
}
_FOREST = {"arrhythmia": 81.4, "cardio": 92.4, "satellite": 70.1, "satimage-2": 99.3, "shuttle": 99.7}

_REMARKS = {
    ("ganomaly", True): (
        "The paper plots MNIST by digit and prints no numbers; its epoch was chosen by the AUC of the test set, ours is fixed. "
        "Its author notes an AUC of about 0.1 for digit 1 with newer versions of PyTorch."
    ),
    ("ama", True): (
        "Tables of the paper were not found; its abstract claims to match or outperform generative baselines on MNIST. "
        "Its epoch was chosen by a validation set with real anomalies, ours is fixed."
    ),
    ("esad", True): "The ratio behind the published figure is not stated; it is compared with every ratio.",
    ("esad", False): "The ratio behind the published figures is not stated; they are compared with every ratio.",
}

_MIN_RATIO_DIFFERENCE = 0.002  # smaller ones come from rounding to whole samples
_TEXT_COLUMNS = ("cases", "score", "others")


@dataclass(frozen=True, slots=True)
class PublishedFigure:
    """A published area under the ROC curve."""

    method: str
    auc: float
    """0 to 1."""
    source: str
    ratio: float | None = None
    """Labelled anomalies behind it; None: none, or not stated."""
    from_memory: bool = False


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """The result of one score, for one group of cases and one ratio."""

    group: str
    ratio: float
    ratio_reached: float
    """Mean over the runs; less than ``ratio`` if there are too few anomalies."""
    score: str
    auc: float
    """0 to 1: mean over the seeds of the mean over the cases."""
    auc_std: float | None
    """Sample standard deviation between seeds; None for one seed."""
    seeds: int
    runs: int
    wall_s: float
    """Sum over the runs, which ran in parallel."""
    cpu_s: float
    published: PublishedFigure | None
    """By the paper of the model; for its own score over all classes."""
    others: PublishedFigure | None
    """Of another method under a similar protocol."""

    @property
    def difference(self) -> float | None:
        """Our AUC minus the published one."""
        return None if self.published is None else self.auc - self.published.auc


class BenchmarkBar:
    """Progress bar over all runs on stderr; prints a line for each finished run on stdout, unless ``quiet``."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._console, self._quiet = console, quiet
        self._bar = make_bar(
            console,
            "benchmark",
            MofNCompleteColumn(),
            # Runs take minutes, so the speed is that of the whole benchmark, not of the last seconds.
            speed_estimate_period=float("inf"),
            # Otherwise lines for a redirected stdout would be printed to stderr.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._bar.add_task("benchmark", total=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def on_start(self, total: int, finished: int) -> None:
        if finished:
            self._console.print(f"{finished} of {total} runs were finished before, {total - finished} are left", highlight=False)
        self._bar.update(self._task, total=total - finished)
        self._bar.start()

    def on_result(self, run: BenchmarkRun, result: RunResult | OddsightError) -> None:
        if isinstance(result, OddsightError):
            self._console.print(f"{run} failed: {result}", markup=False, highlight=False)
        elif not self._quiet:
            typer.echo(run_line(run, result))
        self._bar.advance(self._task)


def run_line(run: BenchmarkRun, result: RunResult) -> str:
    """A result in one line."""
    figures = ", ".join(f"{name} {value:.4f}" for name, value in result.auc.items())
    return f"{run}: AUC {figures} ({result.wall_s:.0f} s)"


def benchmark_json(result: BenchmarkResult) -> dict[str, Any]:
    """The output of ``benchmark --json``."""
    first, results = next(iter(result.finished), None), result.finished.values()
    return {
        "runs": [{**one.model_dump(), "ratio_reached": one.ratio} for one in results],
        "failed": [{"run": str(run), "error": str(error)} for run, error in result.failed.items()],
        "summary": [{**asdict(row), "difference": row.difference} for row in summarize(result.finished)],
        "remark": None if first is None else _remark(first),
        "wall_s": sum(one.wall_s for one in results),
        "cpu_s": sum(one.cpu_s for one in results),
    }


def benchmark_table(results: Mapping[BenchmarkRun, RunResult], title: str) -> Table:
    """AUC in percent, beside published figures if there are any."""
    rows, caption = summarize(results), _remark(next(iter(results)))
    if any(row.others is not None and row.others.from_memory for row in rows):
        caption += " * from memory, to be checked."
    table = Table(title=title, caption=caption, caption_justify="left", box=box.SIMPLE)
    for heading in (columns := _columns(rows)):
        table.add_column(heading, justify="left" if heading in _TEXT_COLUMNS else "right", no_wrap=True)
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return table


def summarize(results: Mapping[BenchmarkRun, RunResult]) -> list[SummaryRow]:
    """A row for each group, ratio and score, in the order of the runs."""
    groups: dict[tuple[str, float], dict[BenchmarkRun, RunResult]] = {}
    for run, result in results.items():
        groups.setdefault((run.case.group, run.case.ratio), {})[run] = result
    return [row for group in groups.values() for row in _rows(group)]


def published_figure(dataset: str, model: str, group: str) -> PublishedFigure | None:
    """The figure of the paper of ``model``, if known. ESAD's is the same for every ratio, because no source states the ratio."""
    percent = _ESAD.get(_key(dataset, group)) if model == "esad" else None
    return None if percent is None else PublishedFigure("ESAD", percent / 100, _MIRROR)


def similar_figure(dataset: str, model: str, group: str, ratio: float) -> PublishedFigure | None:
    """The figure of a method under a similar protocol: Deep SAD, whose protocol ESAD follows, or a forest for tables."""
    key = _key(dataset, group)
    if model == "esad" and (percent := _DEEP_SAD.get(key, {}).get(ratio)):
        return PublishedFigure("Deep SAD", percent / 100, _MEMORY, ratio, from_memory=True)
    if dataset == "odds" and ratio == 0.0 and key in _FOREST:
        return PublishedFigure("isolation forest", _FOREST[key] / 100, _PYOD, ratio)
    return None


def _key(dataset: str, group: str) -> str:
    return dataset if dataset in IMAGE_DATASETS else group


def _remark(run: BenchmarkRun) -> str:
    """What limits the comparison with the paper."""
    return _REMARKS.get((run.model, run.dataset in IMAGE_DATASETS), "No figures of the paper were found for these data.")


def _rows(results: Mapping[BenchmarkRun, RunResult]) -> Iterable[SummaryRow]:
    """The rows of one group and ratio; the first score is the model's own."""
    first, values = next(iter(results)), results.values()
    # Published figures of images are means over all classes.
    comparable = first.dataset == "odds" or {run.case.subject for run in results} == set(CLASSES)
    for number, name in enumerate(next(iter(values)).auc):
        means = _means_by_seed(results, name)
        place = (first.dataset, first.model, first.case.group)
        yield SummaryRow(
            group=first.case.group,
            ratio=first.case.ratio,
            ratio_reached=mean(one.ratio for one in values),
            score=name,
            auc=mean(means),
            auc_std=stdev(means) if len(means) > 1 else None,
            seeds=len(means),
            runs=len(results),
            wall_s=sum(one.wall_s for one in values),
            cpu_s=sum(one.cpu_s for one in values),
            published=published_figure(*place) if comparable and number == 0 else None,
            others=similar_figure(*place, first.case.ratio) if comparable and number == 0 else None,
        )


def _means_by_seed(results: Mapping[BenchmarkRun, RunResult], score: str) -> list[float]:
    seeds = sorted({run.seed for run in results})
    return [mean(one.auc[score] for run, one in results.items() if run.seed == seed) for seed in seeds]


def _columns(rows: list[SummaryRow]) -> dict[str, list[str]]:
    """Cells by heading, without empty columns."""
    columns = {
        "cases": [row.group for row in rows],
        "ratio": [_ratio(row) for row in rows],
        "score": [row.score for row in rows],
        "AUC %": [_percent(row.auc) + ("" if row.auc_std is None else f" ± {_percent(row.auc_std)}") for row in rows],
        "seeds": [f"{row.seeds}" for row in rows],
        "runs": [f"{row.runs}" for row in rows],
        "run time": [f"{row.wall_s / 60:.1f} min" for row in rows],
        "published": [_figure(row.published) for row in rows],
        "difference": ["" if row.difference is None else f"{100 * row.difference:+.1f}" for row in rows],
        "others": [_figure(row.others) + ("" if row.others is None else f" {row.others.method}") for row in rows],
    }
    return {heading: cells for heading, cells in columns.items() if any(cells)}


def _ratio(row: SummaryRow) -> str:
    """The ratio asked for, and the ratio reached if it is smaller."""
    short = row.ratio - row.ratio_reached > _MIN_RATIO_DIFFERENCE
    return f"{row.ratio:g} ({row.ratio_reached:.3f})" if short else f"{row.ratio:g}"


def _figure(figure: PublishedFigure | None) -> str:
    return "" if figure is None else _percent(figure.auc) + ("*" if figure.from_memory else "")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
