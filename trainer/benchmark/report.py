"""Reports of a benchmark: a line for each run, a progress bar, and a table of results beside published figures."""

import sys
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from importlib.resources import files
from statistics import mean, stdev
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.progress import MofNCompleteColumn
from rich.table import Table

from deploy.console import make_bar
from deploy.errors import OddsightError
from trainer.benchmark.protocols import CLASSES, IMAGE_DATASETS, BenchmarkRun
from trainer.benchmark.results import RunResult
from trainer.benchmark.run import BenchmarkResult

_PUBLISHED = tomllib.loads(files("trainer.benchmark").joinpath("published.toml").read_text(encoding="utf-8"))
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


class BenchmarkBar(AbstractContextManager["BenchmarkBar"]):
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

    def __exit__(self, *_: object) -> None:
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


def published_figure(method: str, subject: str, ratio: float | None = None) -> PublishedFigure | None:
    """The figure of a method for a data set or a table of ODDS, if known; ratio None: the source states none."""
    published = _PUBLISHED[method]
    percent = published["auc"].get("any" if ratio is None else str(ratio), {}).get(subject)
    return (
        None if percent is None else PublishedFigure(method, percent / 100, published["source"], ratio, published["from_memory"])
    )


def _remark(run: BenchmarkRun) -> str:
    """What limits the comparison with the paper."""
    kind = "images" if run.dataset in IMAGE_DATASETS else "tables"
    remark: str = _PUBLISHED["remarks"].get(run.model, {}).get(kind, "No figures of the paper were found for these data.")
    return remark


def _rows(results: Mapping[BenchmarkRun, RunResult]) -> Iterable[SummaryRow]:
    """The rows of one group and ratio; the first score is the model's own."""
    first, values, seeds = next(iter(results)), results.values(), sorted({run.seed for run in results})
    published, others = _figures(results)
    for number, name in enumerate(next(iter(values)).auc):
        means = [mean(one.auc[name] for run, one in results.items() if run.seed == seed) for seed in seeds]
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
            published=published if number == 0 else None,
            others=others if number == 0 else None,
        )


def _figures(results: Iterable[BenchmarkRun]) -> tuple[PublishedFigure | None, PublishedFigure | None]:
    """The figures of the model's paper and of another method. Those of images are means over all classes."""
    runs = list(results)
    first, images = runs[0], runs[0].dataset in IMAGE_DATASETS
    if images and {run.case.subject for run in runs} != set(CLASSES):
        return None, None
    subject, ratio = first.dataset if images else first.case.group, first.case.ratio
    forest = published_figure("isolation forest", subject, ratio)
    if first.model != "esad":
        return None, forest
    return published_figure("ESAD", subject), published_figure("Deep SAD", subject, ratio) or forest


def _columns(rows: list[SummaryRow]) -> dict[str, list[str]]:
    """Cells by heading, without empty columns."""
    columns = {
        "cases": [row.group for row in rows],
        "ratio": [
            # The ratio reached follows if it is smaller.
            f"{row.ratio:g}" + (f" ({row.ratio_reached:.3f})" if row.ratio - row.ratio_reached > _MIN_RATIO_DIFFERENCE else "")
            for row in rows
        ],
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


def _figure(figure: PublishedFigure | None) -> str:
    return "" if figure is None else _percent(figure.auc) + ("*" if figure.from_memory else "")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
