"""The benchmark protocols of the papers: which runs there are, and which samples each one trains and tests on.

A *case* selects rows of a data set by their classes. Training and test rows are disjoint.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from deploy.errors import ConfigError
from trainer.models.registry import RECIPES

IMAGE_DATASETS = ("mnist", "fashion-mnist")
DATASETS = (*IMAGE_DATASETS, "odds")
CLASSES = tuple(range(10))
RATIOS = (0.0, 0.01, 0.05, 0.1, 0.2)
"""Labelled anomalies among all training samples, as in the first scenario of Deep SAD."""
SMALL_RATIOS = (0.0, 0.01, 0.2)
TABLES = ("arrhythmia", "cardio", "satellite", "satimage-2", "shuttle", "thyroid_derived")
IMAGE_SEEDS, TABLE_SEEDS = 2, 5

_SEMI_SUPERVISED = ("esad",)
_LEAVE_ONE_OUT = ("ganomaly",)
_LEAVE_ONE_OUT_SHARE = 0.8
_TABLE_SHARE = 0.6
_NO_ROWS = np.empty(0, np.int64)

T = TypeVar("T")

RowNumbers = NDArray[np.int64]
"""Rows of a data set, (N,)."""


class RowLabels(NamedTuple):
    """Labels of the rows of a data set."""

    classes: NDArray[np.int64]
    """(N,): 0 to 9 for images; for tables 0 is normal and 1 an outlier."""
    from_test_file: NDArray[np.bool_]
    """(N,): whether a row belongs to the test file of the data set; all False if it has none."""


class SplitRows(NamedTuple):
    """Rows of a case: normal samples and labelled anomalies for training, and both kinds for testing."""

    normals: RowNumbers
    anomalies: RowNumbers
    test_normals: RowNumbers
    test_anomalies: RowNumbers


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """GANomaly's protocol: one class is abnormal; 80 % of the normals of both files are trained on, the rest is tested on."""

    abnormal: int
    group = "one class abnormal"
    """The mean over the cases of a group is the result of one seed."""
    ratio = 0.0
    """Labelled anomalies among all training samples."""

    def __str__(self) -> str:
        return f"abnormal {self.abnormal}"

    @property
    def subject(self) -> int:
        """The class or the table that the case is about."""
        return self.abnormal

    def rows(self, labels: RowLabels, seed: int) -> SplitRows:
        """Training and test rows of the run with this seed."""
        abnormal = labels.classes == self.abnormal
        train, test = _shuffle_split(np.random.default_rng(seed), np.flatnonzero(~abnormal), _LEAVE_ONE_OUT_SHARE)
        return SplitRows(train, _NO_ROWS, test, np.flatnonzero(abnormal))


@dataclass(frozen=True, slots=True)
class OneClass:
    """One class is normal, and the whole test file is tested on. With labelled anomalies it is Deep SAD's protocol.

    The labelled anomalies are training images of one other class, and ``ratio`` of all training samples.
    """

    normal: int
    anomaly: int | None = None
    ratio: float = 0.0
    group = "one class normal"

    def __str__(self) -> str:
        return f"normal {self.normal}" + ("" if self.anomaly is None else f", anomaly {self.anomaly}, ratio {self.ratio:g}")

    @property
    def subject(self) -> int:
        return self.normal

    def rows(self, labels: RowLabels, seed: int) -> SplitRows:
        normal, test = labels.classes == self.normal, labels.from_test_file
        normals = np.flatnonzero(normal & ~test)
        candidates = _NO_ROWS if self.anomaly is None else np.flatnonzero((labels.classes == self.anomaly) & ~test)
        anomalies = np.random.default_rng(seed).permutation(candidates)[: labelled_count(len(normals), self.ratio)]
        return SplitRows(normals, anomalies, np.flatnonzero(normal & test), np.flatnonzero(~normal & test))


@dataclass(frozen=True, slots=True)
class OddsTable:
    """A table of ODDS: 60 % of the normal rows and of the outliers for training, 40 % for testing.

    Training outliers are labelled anomalies up to ``ratio``, and otherwise left out, so that unlabelled rows are normal. A seed
    gives the same split for every ratio.
    """

    table: str
    ratio: float = 0.0

    def __str__(self) -> str:
        return f"{self.table}, ratio {self.ratio:g}"

    @property
    def group(self) -> str:
        return self.table

    @property
    def subject(self) -> str:
        return self.table

    def rows(self, labels: RowLabels, seed: int) -> SplitRows:
        rng = np.random.default_rng(seed)
        normals, test_normals = _shuffle_split(rng, np.flatnonzero(labels.classes == 0), _TABLE_SHARE)
        outliers, test_outliers = _shuffle_split(rng, np.flatnonzero(labels.classes == 1), _TABLE_SHARE)
        return SplitRows(normals, outliers[: labelled_count(len(normals), self.ratio)], test_normals, test_outliers)


Case = LeaveOneOut | OneClass | OddsTable


@dataclass(frozen=True, slots=True)
class BenchmarkRun:
    """One training and its test."""

    dataset: str
    model: str
    case: Case
    seed: int

    def __str__(self) -> str:
        return f"{self.dataset} {self.model} {self.case}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class RunSelection:
    """The runs of a benchmark to do; None: all of them, or the default number of seeds."""

    grid: str = "small"
    """``small`` or ``full``."""
    seeds: int | None = None
    classes: Sequence[int] | None = None
    ratios: Sequence[float] | None = None
    tables: Sequence[str] | None = None


def parse_selection(grid: str, seeds: int | None, *, classes: str | None, ratios: str | None, sets: str | None) -> RunSelection:
    """A selection from options of the command line, with values separated by commas.

    Raises:
        ConfigError: a value is not a number.
    """

    def values(option: str, text: str | None, parse: Callable[[str], T]) -> tuple[T, ...] | None:
        try:
            return None if text is None else tuple(parse(part.strip()) for part in text.split(","))
        except ValueError as error:
            raise ConfigError(f"{option} must be numbers separated by commas, got {text!r}") from error

    return RunSelection(
        grid, seeds, values("--classes", classes, int), values("--ratios", ratios, float), values("--sets", sets, str)
    )


def plan_runs(dataset: str, model: str, selection: RunSelection) -> tuple[BenchmarkRun, ...]:
    """The runs of a benchmark, one seed after the other, so that an interrupted benchmark has complete seeds.

    Raises:
        ConfigError: an unknown data set or model, or a selection that does not fit it.
    """
    _check(dataset, model, selection)
    cases, seeds = _image_cases(model, selection), selection.seeds or IMAGE_SEEDS
    if dataset == "odds":
        ratios = (selection.ratios or RATIOS) if model in _SEMI_SUPERVISED else (0.0,)
        cases = [OddsTable(table, ratio) for table, ratio in product(selection.tables or TABLES, ratios)]
        seeds = selection.seeds or TABLE_SEEDS
    # Without duplicates, even if the selection names a class twice.
    return tuple(dict.fromkeys(BenchmarkRun(dataset, model, case, seed) for seed in range(seeds) for case in cases))


def labelled_count(normals: int, ratio: float) -> int:
    """The number of anomalies that are ``ratio`` of all samples, besides ``normals`` normal ones."""
    return round(ratio * normals / (1.0 - ratio))


def _image_cases(model: str, selection: RunSelection) -> Sequence[Case]:
    classes = selection.classes or CLASSES
    if model in _LEAVE_ONE_OUT:
        return [LeaveOneOut(number) for number in classes]
    if model not in _SEMI_SUPERVISED:
        return [OneClass(number) for number in classes]
    full = selection.grid == "full"
    cases = []
    for ratio, normal in product(selection.ratios or (RATIOS if full else SMALL_RATIOS), classes):
        if ratio == 0.0:  # without labelled anomalies, their class makes no difference
            cases.append(OneClass(normal))
        else:
            others = [number for number in CLASSES if number != normal] if full else [(normal + 1) % len(CLASSES)]
            cases += [OneClass(normal, anomaly, ratio) for anomaly in others]
    return cases


def _check(dataset: str, model: str, selection: RunSelection) -> None:
    tables, ratios = dataset == "odds", selection.ratios or ()
    for wrong, message in (
        (dataset not in DATASETS, f"the data set must be one of {', '.join(DATASETS)}, got {dataset!r}"),
        (model not in RECIPES, f"--model must be one of {', '.join(RECIPES)}, got {model!r}"),
        (selection.grid not in ("small", "full"), f"--grid must be small or full, got {selection.grid!r}"),
        (selection.seeds is not None and selection.seeds < 1, f"--seeds must be 1 or more, got {selection.seeds}"),
        (tables and selection.classes, "--classes is for mnist and fashion-mnist; use --sets for odds"),
        (not tables and selection.tables, f"--sets is for odds; use --classes for {dataset}"),
        (ratios and model not in _SEMI_SUPERVISED, f"--ratios is for {', '.join(_SEMI_SUPERVISED)}, not for {model}"),
        (not set(selection.classes or ()) <= set(CLASSES), f"--classes must be numbers from 0 to 9, got {selection.classes}"),
        (not all(0 <= ratio < 1 for ratio in ratios), f"--ratios must be in [0, 1), got {ratios}"),
    ):
        if wrong:
            raise ConfigError(message)


def _shuffle_split(rng: np.random.Generator, rows: RowNumbers, share: float) -> tuple[RowNumbers, RowNumbers]:
    shuffled, first = rng.permutation(rows), round(share * len(rows))
    return shuffled[:first], shuffled[first:]
