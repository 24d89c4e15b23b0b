"""Data of the benchmark: files, which may be hostile, to training and test samples, and the batches that models train on."""

import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.benchmark.protocols import CLASSES, RowLabels, RowNumbers, SplitRows
from trainer.errors import BadDataset
from trainer.training.interfaces import ANOMALY, NORMAL, Batch

IMAGE_FILES = {"mnist": "mnist.npz", "fashion-mnist": "fashion_mnist.npz"}
_SIDE_PX = 28
_MAX_BYTES = 1 << 29  # of one array; the largest real one has 47 MB
_MIN_NORMALS, _MIN_OUTLIERS = 5, 2  # so that neither part of a 60/40 split is empty
_PADDING_PX = 2  # 28 x 28 to 32 x 32, a power of two
_MAX_DEVIATIONS = 10.0
# Limits of rotation (radians), scale (logarithm), shear and shift (halves of an image's side) of random affine maps.
_SMALL_MAPS, _LARGE_MAPS = (0.15, 0.07, 0.1, 0.05), (math.pi, 0.25, 0.2, 0.15)

Scale = Literal["range", "deviation"]
"""How tables are scaled, see :func:`table_split`."""


class Dataset(NamedTuple):
    """An image data set or a table of ODDS."""

    values: NDArray[Any]
    """uint8 (N, 28, 28), images of the training file before those of the test file; or float64 (N, D), finite."""
    labels: RowLabels


def read_images(folder: Path, dataset: str) -> Dataset:
    """MNIST or Fashion-MNIST: ``x_train``, ``y_train``, ``x_test`` and ``y_test`` in one file of ``folder``.

    Raises:
        BadDataset: the file is missing or invalid.
    """
    path = _existing_file(folder, IMAGE_FILES[dataset])
    arrays = _read_npz(path)
    for part in ("train", "test"):
        _check_images(path, part, arrays[f"x_{part}"], arrays[f"y_{part}"])
    return Dataset(
        np.concatenate([arrays["x_train"], arrays["x_test"]]),
        RowLabels(
            np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(np.int64),
            np.repeat([False, True], [len(arrays["y_train"]), len(arrays["y_test"])]),
        ),
    )


def read_table(folder: Path, name: str) -> Dataset:
    """A table of ODDS: rows ``X`` and labels ``y``, 1 = outlier, in ``NAME.mat`` of ``folder``.

    Raises:
        BadDataset: the file is missing or invalid.
    """
    if Path(name).name != name:
        raise BadDataset(f"--sets takes names of files in --data without .mat, such as cardio, got {name!r}")
    path = _existing_file(folder, f"{name}.mat")
    arrays = _read_mat(path)
    values, labels = _numeric(path, "X", arrays.get("X")), _numeric(path, "y", arrays.get("y")).ravel()
    _check_table(path, values, labels)
    return Dataset(values, RowLabels(labels.astype(np.int64), np.zeros(len(labels), np.bool_)))


def _existing_file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise BadDataset(f"{path} is no file; --data must be the folder that contains {name}")
    return path


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    names = [f"{kind}_{part}" for kind in "xy" for part in ("train", "test")]
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        _check_sizes(path, names, sizes)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: np.asarray(arrays[name]) for name in names}
    except BadDataset:
        raise
    except Exception as error:  # zipfile and numpy raise many types for damaged content
        raise BadDataset(f"{path}: {error or 'too large'}; it must be an .npz file with {', '.join(names)}") from error


def _check_sizes(path: Path, names: list[str], sizes: dict[str, int]) -> None:
    for name in names:
        if f"{name}.npy" not in sizes:
            raise BadDataset(f"{path} has no {name}; it must contain {', '.join(names)}")
        if sizes[f"{name}.npy"] > _MAX_BYTES:
            raise BadDataset(f"{path}: {name} has {sizes[f'{name}.npy']} bytes, and must not have more than {_MAX_BYTES}")


def _check_images(path: Path, part: str, images: NDArray[Any], classes: NDArray[Any]) -> None:
    if images.dtype != np.uint8 or images.shape[1:] != (_SIDE_PX, _SIDE_PX):
        raise BadDataset(f"{path}: x_{part} must be uint8 (N, {_SIDE_PX}, {_SIDE_PX}), got {images.dtype} {images.shape}")
    if classes.dtype.kind not in "ui" or classes.shape != images.shape[:1]:
        raise BadDataset(f"{path}: y_{part} must be integers, one for each image, got {classes.dtype} {classes.shape}")
    if sorted(set(classes.tolist())) != list(CLASSES):
        raise BadDataset(f"{path}: y_{part} must contain each class from 0 to 9 and nothing else")


def _read_mat(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    if path.stat().st_size > _MAX_BYTES:
        raise BadDataset(f"{path} has more than {_MAX_BYTES} bytes, which no table of ODDS has")
    try:
        return dict(loadmat(path, appendmat=False, variable_names=["X", "y"]))
    except Exception as error:  # the parser raises many types for damaged content
        raise BadDataset(f"{path}: {error}; it must be a MATLAB file of version 5 to 7 with X and y") from error


def _numeric(path: Path, key: str, array: object) -> NDArray[np.float64]:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "buif" or array.ndim != 2 or not array.size:
        got = "nothing" if array is None else f"{getattr(array, 'dtype', type(array).__name__)} {getattr(array, 'shape', '')}"
        raise BadDataset(f"{path}: {key} must be a matrix of real numbers, got {got}")
    values = array.astype(np.float64)
    if not np.isfinite(values).all():
        raise BadDataset(f"{path}: {key} must be finite, {np.count_nonzero(~np.isfinite(values))} of its values are not")
    return values


def _check_table(path: Path, values: NDArray[np.float64], labels: NDArray[np.float64]) -> None:
    if len(labels) != len(values) or not np.isin(labels, (0, 1)).all():
        raise BadDataset(f"{path}: y must be 0 or 1 for each row of X, got {len(labels)} values for {len(values)} rows")
    outliers = np.count_nonzero(labels)
    if outliers < _MIN_OUTLIERS or len(labels) - outliers < _MIN_NORMALS:
        raise BadDataset(
            f"{path}: {outliers} of {len(labels)} rows are outliers; at least {_MIN_OUTLIERS} outliers and {_MIN_NORMALS} "
            "other rows are needed to train and test"
        )


class SampleSet(NamedTuple):
    """Training or test samples, float32 (N, *Shape): images in [-1, 1], or rows of a table in about that range."""

    normals: Tensor
    anomalies: Tensor


@dataclass(frozen=True, slots=True)
class DataSplit:
    """Training and test samples of a run. Each set is made when it is accessed, so training does not touch the test set."""

    samples: Callable[[RowNumbers], Tensor]
    """Rows of the data set to samples, float32 (N, *Shape)."""
    rows: SplitRows

    @property
    def train(self) -> SampleSet:
        """All that training, scaling and calibration may use."""
        return SampleSet(self.samples(self.rows.normals), self.samples(self.rows.anomalies))

    @property
    def test(self) -> SampleSet:
        """The test set; not to be accessed before training is over."""
        return SampleSet(self.samples(self.rows.test_normals), self.samples(self.rows.test_anomalies))


def image_split(images: NDArray[np.uint8], rows: SplitRows) -> DataSplit:
    """Images, uint8 (N, 28, 28), padded with black to (N, 1, 32, 32) and scaled to [-1, 1]."""

    def samples(numbers: RowNumbers) -> Tensor:
        padded = np.pad(images[numbers], ((0, 0), (_PADDING_PX, _PADDING_PX), (_PADDING_PX, _PADDING_PX)))
        return torch.from_numpy(padded)[:, None].float() * (2.0 / 255) - 1.0

    return DataSplit(samples, rows)


def table_split(values: NDArray[np.float64], rows: SplitRows, scale: Scale = "range") -> DataSplit:
    """Rows of a table, float64 (N, D), with every column scaled by the normal training rows. Constant columns become 0.

    ``range`` scales these rows to [-1, 1]. ``deviation`` scales them to mean 0 and standard deviation 1, and clips values at 10,
    because one extreme value of a labelled anomaly would outweigh all else in training. Deep SAD fits its scale to all training
    rows; here outliers without a label are not known, and labelled ones would make the scale depend on the ratio.
    """
    normals = values[rows.normals]
    low, high = normals.min(axis=0), normals.max(axis=0)
    centre, unit = ((low + high) / 2.0, (high - low) / 2.0) if scale == "range" else (normals.mean(axis=0), normals.std(axis=0))
    constant = low == high
    centre, unit = np.where(constant, low, centre), np.where(constant, 1.0, unit)

    def samples(numbers: RowNumbers) -> Tensor:
        scaled = (values[numbers] - centre) / unit
        clipped = scaled.clip(-_MAX_DEVIATIONS, _MAX_DEVIATIONS) if scale == "deviation" else scaled
        return torch.from_numpy(clipped.astype(np.float32))

    return DataSplit(samples, rows)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random changes of images (N, C, S, S) in [-1, 1], new each time. They are ours, not the papers'.

    The few labelled anomalies, a thousandth of all possible ones, would otherwise be memorised.
    """

    strength: float
    """Of the random affine maps of normal images."""
    anomalies: Literal["turned", "mixed"]
    """Of labelled anomalies, half are rotated by any angle and mirrored; or a third are half replaced by a normal image."""

    def augment_normals(self, images: Tensor) -> Tensor:
        """Normal images, slightly rotated, scaled, sheared and shifted."""
        return _random_affine(images, _SMALL_MAPS, self.strength)

    def augment_anomalies(self, images: Tensor, normals: Tensor) -> Tensor:
        """Anomalies, changed more than normal images, so that the model learns of more kinds of anomalies."""
        if self.anomalies == "turned":
            half = len(images) // 2
            rotated = _random_affine(images[half:], _LARGE_MAPS)
            return torch.cat([images[:half], rotated[::2], rotated[1::2].flip(3)])
        return _mix_with_normals(_random_affine(images, _SMALL_MAPS, 2.0), normals)


@dataclass(frozen=True, slots=True)
class MixedSamples:
    """Training samples of which each batch has a fixed share of labelled anomalies.

    An epoch contains every normal sample once; anomalies are drawn at random, because otherwise most batches would have one or
    none. ``normals`` and ``anomalies``: float32 (N, *Shape) and (M, *Shape), M may be 0.
    """

    normals: Tensor
    anomalies: Tensor
    anomaly_share: float
    augmentation: Augmentation | None

    def __len__(self) -> int:
        return len(self.normals)

    def draw(self, numbers: Tensor) -> Batch:
        normals, anomalies = self.normals[numbers], self.anomalies
        if len(anomalies):
            count = max(1, round(len(numbers) * self.anomaly_share / (1.0 - self.anomaly_share)))
            anomalies = anomalies[torch.randint(len(anomalies), (count,))]
        if self.augmentation:
            normals = self.augmentation.augment_normals(normals)
            anomalies = self.augmentation.augment_anomalies(anomalies, normals) if len(anomalies) else anomalies
        labels = torch.full((len(normals) + len(anomalies),), NORMAL)
        labels[len(normals) :] = ANOMALY
        return Batch(torch.cat([normals, anomalies]), labels)


def _random_affine(images: Tensor, limits: tuple[float, ...], strength: float = 1.0) -> Tensor:
    """Random maps up to ``strength`` times these limits. Pixels from outside the image are -1."""
    turn, wide, high, shear, right, down = (
        (torch.rand(len(images)) * 2.0 - 1.0) * (limits[kind] * strength) for kind in (0, 1, 1, 2, 3, 3)
    )
    wide, high, cosine, sine = wide.exp(), high.exp(), turn.cos(), turn.sin()
    rows = [torch.stack([cosine * wide, shear - sine * high, right], 1), torch.stack([sine * wide, cosine * high, down], 1)]
    grid = nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)  # (N, S, S, 2)
    return nn.functional.grid_sample(images + 1.0, grid, align_corners=False) - 1.0


def _mix_with_normals(images: Tensor, normals: Tensor) -> Tensor:
    """A third of the images with one half of a normal image: left, right, upper or lower, the same in the whole batch."""
    third, side = len(images) // 3, images.shape[3]
    half = torch.zeros(side, dtype=torch.bool)
    half[: side // 2] = True
    vertical, flipped = (int(value) for value in torch.randint(2, (2,)))
    mask = half.flip(0) if flipped else half
    chosen = normals[torch.randint(len(normals), (third,))]
    mixed = torch.where(mask if vertical else mask[:, None], chosen, images[:third])
    return torch.cat([mixed, images[third:]])
