"""The papers' protocols: which runs there are, what each one learns from and what it is tested on.

Nothing is read and nothing is trained here. A *case* picks rows of a data set by their classes; a *trial* makes samples of
them. What a case tests on shares no row with what it learns from, and nothing about it (scaling, selection) enters training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deploy.errors import ConfigError
from trainer.models.registry import RECIPES

PICTURE_SETS = ("mnist", "fashion-mnist")
DATASETS = (*PICTURE_SETS, "odds")
CLASSES = tuple(range(10))
RATIOS = (0.0, 0.01, 0.05, 0.1, 0.2)
"""Labelled anomalies among all training samples: Deep SAD's first scenario."""
SMALL_RATIOS = (0.0, 0.01, 0.2)
TABLES = ("arrhythmia", "cardio", "satellite", "satimage-2", "shuttle", "thyroid_derived")
PICTURE_SEEDS, TABLE_SEEDS = 2, 5

_SEMI_SUPERVISED = ("esad",)
_LEAVE_ONE_OUT = ("ganomaly",)
_LEAVE_ONE_OUT_SHARE = 0.8
_TABLE_SHARE = 0.6
_PADDING_PX = 2  # 28 x 28 to 32 x 32, a power of two
_WHITE = 255
_FARTHEST = 10.0  # standard deviations

T = TypeVar("T")

Scale = Literal["range", "deviation"]
"""How tables are scaled."""
Numbers = NDArray[np.int64]
"""Numbers of rows of a data set, (N,)."""


class Known(NamedTuple):
    """What a case is picked by."""

    classes: NDArray[np.int64]
    """Of each row, (N,): 0 to 9 for pictures; for tables 0 is normal and 1 an outlier."""
    from_test_file: NDArray[np.bool_]
    """(N,): whether a row comes from the data set's own test part; all False where it has none."""


class Rows(NamedTuple):
    """The rows of a case: what it learns from as normal and as labelled anomalies, and what it is tested on."""

    normals: Numbers
    anomalies: Numbers
    test_normals: Numbers
    test_anomalies: Numbers


class Case(Protocol):
    """What is normal and what is not, in one run."""

    @property
    def group(self) -> str:
        """Cases of a group are averaged before anything is said about seeds."""
        ...

    @property
    def subject(self) -> int | str:
        """The class or the table that it is about."""
        ...

    @property
    def ratio(self) -> float:
        """Labelled anomalies asked for, among all training samples."""
        ...

    def rows(self, known: Known, seed: int) -> Rows:
        """The rows of the run with this seed."""
        ...


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """GANomaly's: one class is abnormal and nine are normal; both files' normals are pooled, 80 % of them to learn from."""

    abnormal: int
    group = "one class abnormal"
    ratio = 0.0

    def __str__(self) -> str:
        return f"abnormal {self.abnormal}"

    @property
    def subject(self) -> int:
        """See :class:`Case`."""
        return self.abnormal

    def rows(self, known: Known, seed: int) -> Rows:
        """See :class:`Case`."""
        abnormal = known.classes == self.abnormal
        learned, tested = _cut(np.random.default_rng(seed), np.flatnonzero(~abnormal), _LEAVE_ONE_OUT_SHARE)
        return Rows(learned, _none(), tested, np.flatnonzero(abnormal))


@dataclass(frozen=True, slots=True)
class OneClass:
    """One class is normal and nine are not; the whole test file is tested on. With labelled anomalies it is Deep SAD's.

    These come from the training images of one other class, as many as make up ``ratio`` of all that is learned from.
    """

    normal: int
    anomaly: int | None = None
    ratio: float = 0.0
    group = "one class normal"

    @property
    def subject(self) -> int:
        """See :class:`Case`."""
        return self.normal

    def __str__(self) -> str:
        return f"normal {self.normal}" + ("" if self.anomaly is None else f", anomaly {self.anomaly}, ratio {self.ratio:g}")

    def rows(self, known: Known, seed: int) -> Rows:
        """See :class:`Case`."""
        normal, test = known.classes == self.normal, known.from_test_file
        normals = np.flatnonzero(normal & ~test)
        others = _none() if self.anomaly is None else np.flatnonzero((known.classes == self.anomaly) & ~test)
        labelled = np.random.default_rng(seed).permutation(others)[: labelled_count(len(normals), self.ratio)]
        return Rows(normals, labelled, np.flatnonzero(normal & test), np.flatnonzero(~normal & test))


@dataclass(frozen=True, slots=True)
class Table:
    """A set of ODDS: 60 % of the normals and of the outliers to learn from, 40 % to test on.

    Outliers of the 60 % are learned from as labelled anomalies up to ``ratio``, or all of them where they are fewer; the rest of
    them is left out, so that what is unlabelled is normal. A seed cuts in the same way whatever the ratio.
    """

    table: str
    ratio: float = 0.0

    def __str__(self) -> str:
        return f"{self.table}, ratio {self.ratio:g}"

    @property
    def group(self) -> str:
        """See :class:`Case`."""
        return self.table

    @property
    def subject(self) -> str:
        """See :class:`Case`."""
        return self.table

    def rows(self, known: Known, seed: int) -> Rows:
        """See :class:`Case`."""
        rng = np.random.default_rng(seed)
        normals, test_normals = _cut(rng, np.flatnonzero(known.classes == 0), _TABLE_SHARE)
        outliers, test_outliers = _cut(rng, np.flatnonzero(known.classes == 1), _TABLE_SHARE)
        return Rows(normals, outliers[: labelled_count(len(normals), self.ratio)], test_normals, test_outliers)


@dataclass(frozen=True, slots=True)
class Run:
    """One training and one test."""

    dataset: str
    model: str
    case: LeaveOneOut | OneClass | Table
    seed: int

    def __str__(self) -> str:
        return f"{self.dataset} {self.model} {self.case}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which runs of a benchmark; None: all of them, or the default number of seeds."""

    grid: str = "small"
    """``small`` or ``full``."""
    seeds: int | None = None
    classes: Sequence[int] | None = None
    ratios: Sequence[float] | None = None
    tables: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Samples of a trial."""

    samples: Tensor
    """float32 (N, *Shape): pictures in [-1, 1], rows of a table in about that."""
    anomalous: NDArray[np.bool_]
    """(N,)."""

    @property
    def normals(self) -> Tensor:
        """The samples that are not anomalous."""
        return self.samples[torch.from_numpy(~self.anomalous)]

    @property
    def anomalies(self) -> Tensor:
        """The samples that are anomalous."""
        return self.samples[torch.from_numpy(self.anomalous)]


class Trial:
    """What a run learns from, and what it is tested on; each is made when it is asked for."""

    rows: Rows

    @property
    def train(self) -> Part:
        """All that training, scaling and calibration may know."""
        return _part(self.samples, self.rows.normals, self.rows.anomalies)

    @property
    def test(self) -> Part:
        """Not to be asked for before training is over."""
        return _part(self.samples, self.rows.test_normals, self.rows.test_anomalies)

    def samples(self, rows: Numbers) -> Tensor:
        """Samples of the data set, as learners and detectors take them."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class PictureTrial(Trial):
    """Pictures, uint8 (N, 28, 28), of a case: padded with black to 32 x 32 and scaled to [-1, 1]."""

    images: NDArray[np.uint8]
    rows: Rows

    def samples(self, rows: Numbers) -> Tensor:
        """See :class:`Trial`."""
        sides = (_PADDING_PX, _PADDING_PX)
        padded = np.pad(self.images[rows], ((0, 0), sides, sides))
        return torch.from_numpy(padded)[:, None].float() * (2.0 / _WHITE) - 1.0


@dataclass(frozen=True, slots=True)
class TableTrial(Trial):
    """Rows of a table, float64 (N, D), of a case, every column scaled by the normals learned from.

    ``range``: these fill [-1, 1]. ``deviation``: they have mean 0 and standard deviation 1, and what is farther than 10 from 0
    is moved there, lest one wild value of a labelled anomaly outweigh all else that is learned. A column that never varies among
    them is only moved, to 0. Deep SAD has both, one after the other, of which min and max alone remain, and fits them to all of
    the training part; here outliers that are not labelled are unknown, and labelled ones would tie the scale to the ratio.
    """

    values: NDArray[np.float64]
    rows: Rows
    scale: Scale = "range"

    def samples(self, rows: Numbers) -> Tensor:
        """See :class:`Trial`."""
        middle, unit = _centre_and_unit(self.values[self.rows.normals], self.scale)
        scaled = (self.values[rows] - middle) / unit
        limited = scaled.clip(-_FARTHEST, _FARTHEST) if self.scale == "deviation" else scaled
        return torch.from_numpy(limited.astype(np.float32))


def choice(grid: str, seeds: int | None, *, classes: str | None, ratios: str | None, sets: str | None) -> Choice:
    """A choice in the words of the command line: numbers and names with commas between them.

    Raises:
        ConfigError: something is no number.
    """
    return Choice(
        grid, seeds, _listed("--classes", classes, int), _listed("--ratios", ratios, float), _listed("--sets", sets, str)
    )


def labelled_count(normals: int, ratio: float) -> int:
    """How many anomalies beside ``normals`` make up ``ratio`` of both."""
    return round(ratio * normals / (1.0 - ratio))


def runs(dataset: str, model: str, chosen: Choice) -> tuple[Run, ...]:
    """The runs of a benchmark, seed by seed, so that one that is cut short has whole seeds.

    Raises:
        ConfigError: there is no such data set or model, or the choice does not fit it.
    """
    _check(dataset, model, chosen)
    cases = _table_cases(model, chosen) if dataset == "odds" else _picture_cases(model, chosen)
    seeds = chosen.seeds or (TABLE_SEEDS if dataset == "odds" else PICTURE_SEEDS)
    # Whoever names a class twice wants it once.
    return tuple(dict.fromkeys(Run(dataset, model, case, seed) for seed in range(seeds) for case in cases))


def _table_cases(model: str, chosen: Choice) -> list[Table]:
    ratios = (chosen.ratios or RATIOS) if model in _SEMI_SUPERVISED else (0.0,)
    return [Table(table, ratio) for table in chosen.tables or TABLES for ratio in ratios]


def _picture_cases(model: str, chosen: Choice) -> list[LeaveOneOut] | list[OneClass]:
    classes = chosen.classes or CLASSES
    if model in _LEAVE_ONE_OUT:
        return [LeaveOneOut(number) for number in classes]
    if model not in _SEMI_SUPERVISED:
        return [OneClass(number) for number in classes]
    ratios = chosen.ratios or (RATIOS if chosen.grid == "full" else SMALL_RATIOS)
    return [case for ratio in ratios for number in classes for case in _labelled_cases(number, ratio, chosen.grid)]


def _labelled_cases(normal: int, ratio: float, grid: str) -> list[OneClass]:
    if ratio == 0.0:  # without labelled anomalies their class makes no difference
        return [OneClass(normal)]
    others = [number for number in CLASSES if number != normal] if grid == "full" else [(normal + 1) % len(CLASSES)]
    return [OneClass(normal, anomaly, ratio) for anomaly in others]


def _check(dataset: str, model: str, chosen: Choice) -> None:
    tables = dataset == "odds"
    for wrong, message in (
        (dataset not in DATASETS, f"the data set must be one of {', '.join(DATASETS)}, got {dataset!r}"),
        (model not in RECIPES, f"--model must be one of {', '.join(RECIPES)}, got {model!r}"),
        (chosen.grid not in ("small", "full"), f"--grid must be small or full, got {chosen.grid!r}"),
        (chosen.seeds is not None and chosen.seeds < 1, f"--seeds must be 1 or more, got {chosen.seeds}"),
        (tables and chosen.classes, "--classes is for mnist and fashion-mnist; odds is narrowed by --sets"),
        (not tables and chosen.tables, f"--sets is for odds; {dataset} is narrowed by --classes"),
        (chosen.ratios and model not in _SEMI_SUPERVISED, f"--ratios is for {', '.join(_SEMI_SUPERVISED)}, not for {model}"),
        (not set(chosen.classes or ()) <= set(CLASSES), f"--classes must be numbers from 0 to 9, got {chosen.classes}"),
        (not all(0 <= ratio < 1 for ratio in chosen.ratios or ()), f"--ratios must be in [0, 1), got {chosen.ratios}"),
    ):
        if wrong:
            raise ConfigError(message)


def _listed(option: str, text: str | None, kind: Callable[[str], T]) -> tuple[T, ...] | None:
    try:
        return None if text is None else tuple(kind(part.strip()) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option} must be numbers with commas between them, got {text!r}") from error


def _centre_and_unit(normals: NDArray[np.float64], scale: Scale) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low, high = normals.min(axis=0), normals.max(axis=0)
    middle, unit = ((low + high) / 2.0, (high - low) / 2.0) if scale == "range" else (normals.mean(axis=0), normals.std(axis=0))
    constant = low == high
    return np.where(constant, low, middle), np.where(constant, 1.0, unit)


def _cut(rng: np.random.Generator, numbers: Numbers, share: float) -> tuple[Numbers, Numbers]:
    """``numbers`` in a random order, cut after ``share`` of them."""
    shuffled = rng.permutation(numbers)
    at = round(share * len(numbers))
    return shuffled[:at], shuffled[at:]


def _none() -> Numbers:
    return np.empty(0, np.int64)


def _part(samples: Callable[[Numbers], Tensor], normals: Numbers, anomalies: Numbers) -> Part:
    anomalous = np.repeat([False, True], [len(normals), len(anomalies)])
    return Part(samples(np.concatenate([normals, anomalies])), anomalous)
