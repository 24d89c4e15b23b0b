"""What a benchmark says: a line a run, a bar with the time left, and at the end figures beside the published ones.

What others have published for the benchmark's protocols, and where each figure was found.

A figure from memory stands here so that it can be checked; until it was, reports mark it.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from types import TracebackType
from typing import Any, Self

import typer
from rich import box
from rich import progress as bars
from rich.console import Console
from rich.table import Table

from deploy.errors import OddsightError
from trainer.benchmark.protocols import CLASSES, PICTURE_SETS, Run
from trainer.benchmark.results import Finished
from trainer.benchmark.run import Outcome

_MIRROR = "a mirror of benchmark tables on the web; the paper's own tables were not at hand"
_PYOD = "PyOD's docs/tables/roc.csv at commit 1e5adf2: also 60 % to learn from, but with the outliers in it, unlabelled"
_MEMORY = "from memory, to be checked against the paper"


@dataclass(frozen=True, slots=True)
class Figure:
    """A published area under the ROC curve."""

    method: str
    auc: float
    """0 to 1."""
    source: str
    ratio: float | None = None
    """Labelled anomalies behind it; None: the source does not say, or there were none to choose."""
    from_memory: bool = False


def own_figure(dataset: str, model: str, group: str) -> Figure | None:
    """What the paper of ``model`` reports, if that was found; the same whatever the ratio, which no source states."""
    percent = _ESAD.get(_key(dataset, group)) if model == "esad" else None
    return None if percent is None else Figure("ESAD", percent / 100, _MIRROR)


def others_figure(dataset: str, model: str, group: str, ratio: float) -> Figure | None:
    """What is most like it elsewhere: Deep SAD, whose protocol ESAD follows, for the same ratio; or a forest for tables."""
    key = _key(dataset, group)
    if model == "esad" and (key, ratio) in _DEEP_SAD:
        return Figure("Deep SAD", _DEEP_SAD[key, ratio] / 100, _MEMORY, ratio, from_memory=True)
    if dataset == "odds" and ratio == 0.0 and key in _FOREST:
        return Figure("isolation forest", _FOREST[key] / 100, _PYOD, ratio)
    return None


def remark(dataset: str, model: str) -> str:
    """What must be known to compare with the paper of ``model``."""
    return _REMARKS.get((model, dataset in PICTURE_SETS), "No figures of the paper were found for these data.")


_ESAD = {
    "mnist": 99.6,
    "fashion-mnist": 95.9,
    "arrhythmia": 85.2,
    "cardio": 98.8,
    "satellite": 92.5,
    "satimage-2": 99.9,
    "shuttle": 99.1,
}

_DEEP_SAD = {
    ("mnist", 0.0): 92.8,
    ("mnist", 0.01): 96.4,
    ("mnist", 0.05): 96.7,
    ("mnist", 0.1): 96.9,
    ("mnist", 0.2): 96.9,
    ("fashion-mnist", 0.0): 89.2,
    ("fashion-mnist", 0.01): 90.0,
    ("fashion-mnist", 0.05): 90.5,
    ("fashion-mnist", 0.1): 91.3,
    ("fashion-mnist", 0.2): 91.0,
    ("arrhythmia", 0.01): 75.9,
    ("cardio", 0.01): 95.0,
    ("satellite", 0.01): 91.5,
    ("satimage-2", 0.01): 99.9,
    ("shuttle", 0.01): 98.4,
    ("thyroid_derived", 0.01): 98.6,
}
"""Means over the ten classes, and over the classes that the anomalies came from; ``thyroid``, too, is a derived set here."""

_FOREST = {"arrhythmia": 81.4, "cardio": 92.4, "satellite": 70.1, "satimage-2": 99.3, "shuttle": 99.7}

_REMARKS = {
    ("ganomaly", True): (
        "The paper plots MNIST by digit and prints no numbers; its epoch was picked by the AUC on the test part, ours is fixed. "
        "Its author notes an AUC of about 0.1 for digit 1 with newer versions of PyTorch."
    ),
    ("ama", True): (
        "Tables of the paper were not found; its abstract claims to match or outperform generative baselines on MNIST. "
        "Its epoch was picked by a validation part with real anomalies, ours is fixed."
    ),
    ("esad", True): "The ratio behind the published figure is not stated; it is compared with every ratio.",
    ("esad", False): "The ratio behind the published figures is not stated; they are compared with every ratio.",
}


def _key(dataset: str, group: str) -> str:
    return dataset if dataset in PICTURE_SETS else group


_RATIO_SHOWN = 0.002
_WORDS = ("cases", "score", "others")  # columns that are not of numbers


@dataclass(frozen=True, slots=True)
class Row:
    """One score of one group of cases at one ratio."""

    group: str
    ratio: float
    ratio_reached: float
    """Mean over the runs; less than ``ratio`` where there are too few anomalies to label."""
    score: str
    auc: float
    """0 to 1: mean over seeds of the mean over the cases."""
    auc_std: float | None
    """Standard deviation of these means between seeds (divided by seeds - 1); None with one seed."""
    seeds: int
    runs: int
    wall_s: float
    """Sum over the runs, which ran side by side."""
    cpu_s: float
    published: Figure | None
    """Of the model's own score, over all classes."""
    others: Figure | None
    """Of another method under a like protocol."""

    @property
    def difference(self) -> float | None:
        """Ours less the published figure."""
        return None if self.published is None else self.auc - self.published.auc


class RunsBar:
    """A bar over all runs on stderr, with the time left; each finished run is a line on stdout, unless told to be quiet."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._console, self._quiet = console, quiet
        self._bar = bars.Progress(
            bars.TextColumn("benchmark"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeRemainingColumn(),
            console=console,
            # Runs take minutes: the speed is that of the whole benchmark, not of its last seconds.
            speed_estimate_period=float("inf"),
            # The bar would carry the lines of a redirected stdout over to stderr.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._task = self._bar.add_task("benchmark", total=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def begin(self, total: int, already: int) -> None:
        """See :class:`trainer.benchmark.run.Watcher`."""
        if already:
            self._console.print(f"{already} of {total} runs were finished before, {total - already} are left", highlight=False)
        self._bar.update(self._task, total=total - already)
        self._bar.start()

    def finished(self, run: Run, finished: Finished) -> None:
        """See :class:`trainer.benchmark.run.Watcher`."""
        if not self._quiet:
            typer.echo(run_line(run, finished))
        self._bar.advance(self._task)

    def failed(self, run: Run, error: OddsightError) -> None:
        """See :class:`trainer.benchmark.run.Watcher`."""
        self._console.print(f"{run} failed: {error}", markup=False, highlight=False)
        self._bar.advance(self._task)


def run_line(run: Run, finished: Finished) -> str:
    """A finished run in one line."""
    figures = ", ".join(f"{name} {value:.4f}" for name, value in finished.auc.items())
    return f"{run}: AUC {figures} ({finished.wall_s:.0f} s)"


def summary(finished: Mapping[Run, Finished]) -> list[Row]:
    """One row a group, ratio and score, in the order of the runs."""
    places: dict[tuple[str, float], dict[Run, Finished]] = {}
    for run, one in finished.items():
        places.setdefault((run.case.group, run.case.ratio), {})[run] = one
    return [row for runs in places.values() for row in _rows(runs)]


def report(outcome: Outcome) -> dict[str, Any]:
    """The content of ``benchmark --json``."""
    rows, finished = summary(outcome.finished), outcome.finished.values()
    return {
        "runs": [{**one.model_dump(), "ratio_reached": one.ratio} for one in finished],
        "failed": [{"run": str(run), "error": str(error)} for run, error in outcome.failed.items()],
        "summary": [{**asdict(row), "difference": row.difference} for row in rows],
        "remark": remark(first.dataset, first.model) if (first := next(iter(outcome.finished), None)) else None,
        "wall_s": sum(one.wall_s for one in finished),
        "cpu_s": sum(one.cpu_s for one in finished),
    }


def table(finished: Mapping[Run, Finished], title: str) -> Table:
    """Areas under the ROC curve in per cent, beside the published ones where there are any."""
    first, rows = next(iter(finished)), summary(finished)
    caption = remark(first.dataset, first.model) + (" * from memory, to be checked." if any(map(_unsure, rows)) else "")
    grid = Table(title=title, caption=caption, caption_justify="left", box=box.SIMPLE)
    for heading in (columns := _columns(rows)):
        grid.add_column(heading, justify="left" if heading in _WORDS else "right", no_wrap=True)
    for cells in zip(*columns.values(), strict=True):
        grid.add_row(*cells)
    return grid


def _columns(rows: list[Row]) -> dict[str, list[str]]:
    """Cells by heading; columns without a single figure are left out."""
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


def _rows(finished: Mapping[Run, Finished]) -> Iterable[Row]:
    """The rows of one group and ratio; the first score is the model's own."""
    first, values = next(iter(finished)), finished.values()
    # Published figures of pictures are means over all classes.
    comparable = first.dataset == "odds" or {run.case.subject for run in finished} == set(CLASSES)
    for number, name in enumerate(next(iter(values)).auc):
        means = _means_by_seed(finished, name)
        place = (first.dataset, first.model, first.case.group)
        yield Row(
            group=first.case.group,
            ratio=first.case.ratio,
            ratio_reached=mean(one.ratio for one in values),
            score=name,
            auc=mean(means),
            auc_std=stdev(means) if len(means) > 1 else None,
            seeds=len(means),
            runs=len(finished),
            wall_s=sum(one.wall_s for one in values),
            cpu_s=sum(one.cpu_s for one in values),
            published=own_figure(*place) if comparable and number == 0 else None,
            others=others_figure(*place, first.case.ratio) if comparable and number == 0 else None,
        )


def _means_by_seed(finished: Mapping[Run, Finished], score: str) -> list[float]:
    seeds = sorted({run.seed for run in finished})
    return [mean(one.auc[score] for run, one in finished.items() if run.seed == seed) for seed in seeds]


def _ratio(row: Row) -> str:
    """The ratio asked for, and the one reached where that differs by more than rounding to whole samples."""
    short = row.ratio - row.ratio_reached > _RATIO_SHOWN
    return f"{row.ratio:g} ({row.ratio_reached:.3f})" if short else f"{row.ratio:g}"


def _unsure(row: Row) -> bool:
    return row.others is not None and row.others.from_memory


def _figure(figure: Figure | None) -> str:
    return "" if figure is None else _percent(figure.auc) + ("*" if figure.from_memory else "")


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
