"""The data sets of the benchmark, read from files that are not trusted: pictures with classes (.npz), tables (.mat).

How benchmark samples reach a learner: as many labelled anomalies in every batch as are wanted, and never twice the same.

Both are ours, not the papers': with one labelled anomaly in a hundred samples most batches would hold one or none, and a
thousandth of the pictures that there could be is learned by heart.
"""

import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.benchmark.protocols import CLASSES, Known
from trainer.errors import BadDataset
from trainer.training.interfaces import ANOMALY, NORMAL, Batch

_ROTATION, _SCALE, _SHEAR, _SHIFT = 0.15, 0.07, 0.1, 0.05
"""At strength 1: radians, logarithm of a factor, and the last two in halves of a picture's side."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How pictures (N, C, S, S) in [-1, 1] are changed each time they are shown."""

    strength: float
    """Of the random affine maps of normal pictures."""
    anomalies: Literal["turned", "mixed"]
    """Labelled anomalies: half of them turned by any angle and mirrored; or a third of them half made of a normal picture."""

    def of_normals(self, pictures: Tensor) -> Tensor:
        """Normal pictures, slightly turned, scaled, sheared and moved."""
        return _affine(pictures, _limits(self.strength))

    def of_anomalies(self, pictures: Tensor, normals: Tensor) -> Tensor:
        """Anomalies, changed more than any normal picture is, so that they teach what else there may be."""
        if self.anomalies == "turned":
            half = len(pictures) // 2
            return torch.cat([pictures[:half], _mirrored(_affine(pictures[half:], (math.pi, 0.25, 0.2, 0.15)))])
        return _half_normal(_affine(pictures, _limits(2.0)), normals)


@dataclass(frozen=True, slots=True)
class MixedSamples:
    """Samples of a loop: an epoch goes once through the normal ones; anomalies are drawn anew for every batch.

    ``anomaly_share``: of a batch. ``normals`` and ``anomalies``: float32 (N, *Shape) and (M, *Shape), M may be 0.
    """

    normals: Tensor
    anomalies: Tensor
    anomaly_share: float
    augmentation: Augmentation | None

    def __len__(self) -> int:
        return len(self.normals)

    def draw(self, numbers: Tensor) -> Batch:
        """See :class:`trainer.training.loop.Samples`."""
        normals, anomalies = self.normals[numbers], self._anomalies(len(numbers))
        if self.augmentation:
            normals = self.augmentation.of_normals(normals)
            anomalies = self.augmentation.of_anomalies(anomalies, normals) if len(anomalies) else anomalies
        labels = torch.full((len(normals) + len(anomalies),), NORMAL)
        labels[len(normals) :] = ANOMALY
        return Batch(torch.cat([normals, anomalies]), labels)

    def _anomalies(self, normals: int) -> Tensor:
        if not len(self.anomalies):
            return self.anomalies
        wanted = max(1, round(normals * self.anomaly_share / (1.0 - self.anomaly_share)))
        return self.anomalies[torch.randint(len(self.anomalies), (wanted,))]


def _limits(strength: float) -> tuple[float, float, float, float]:
    return _ROTATION * strength, _SCALE * strength, _SHEAR * strength, _SHIFT * strength


def _affine(pictures: Tensor, limits: tuple[float, float, float, float]) -> Tensor:
    """Random maps up to these limits of rotation, scale, shear and shift; what comes in from outside is -1."""
    turn, wide, high, shear, right, down = ((torch.rand(len(pictures)) * 2.0 - 1.0) * limits[kind] for kind in (0, 1, 1, 2, 3, 3))
    wide, high, cosine, sine = wide.exp(), high.exp(), turn.cos(), turn.sin()
    rows = [torch.stack([cosine * wide, shear - sine * high, right], 1), torch.stack([sine * wide, cosine * high, down], 1)]
    grid = nn.functional.affine_grid(torch.stack(rows, 1), list(pictures.shape), align_corners=False)
    return nn.functional.grid_sample(pictures + 1.0, grid, align_corners=False) - 1.0


def _mirrored(pictures: Tensor) -> Tensor:
    """Every second picture, from left to right."""
    return torch.cat([pictures[::2], pictures[1::2].flip(3)])


def _half_normal(pictures: Tensor, normals: Tensor) -> Tensor:
    """A third of the pictures with one half of a normal picture, in a direction that changes from batch to batch."""
    third, side = len(pictures) // 3, pictures.shape[3]
    half = torch.zeros(side, dtype=torch.bool)
    half[: side // 2] = True
    across, other = (int(value) for value in torch.randint(2, (2,)))
    mask = half.flip(0) if other else half
    chosen = normals[torch.randint(len(normals), (third,))]
    mixed = torch.where(mask if across else mask[:, None], chosen, pictures[:third])
    return torch.cat([mixed, pictures[third:]])


PICTURE_FILES = {"mnist": "mnist.npz", "fashion-mnist": "fashion_mnist.npz"}
_SIDE_PX = 28
_MOST_BYTES = 1 << 29  # of one array; the largest real one has 47 MB
_FEWEST_NORMALS, _FEWEST_OUTLIERS = 5, 2  # so that neither side of a 60/40 cut is empty


class Pictures(NamedTuple):
    """Both files of a set of pictures, training first."""

    images: NDArray[np.uint8]
    """(N, 28, 28)."""
    known: Known


class TableRows(NamedTuple):
    """A set of ODDS."""

    values: NDArray[np.float64]
    """(N, D), finite."""
    known: Known


def read_pictures(folder: Path, dataset: str) -> Pictures:
    """MNIST or Fashion-MNIST: ``x_train``, ``y_train``, ``x_test``, ``y_test`` in one file of ``folder``.

    Raises:
        BadDataset: the file is missing or something else.
    """
    path = _existing(folder, PICTURE_FILES[dataset])
    arrays = _read_npz(path)
    for part in ("train", "test"):
        _check_pictures(path, part, arrays[f"x_{part}"], arrays[f"y_{part}"])
    return Pictures(
        np.concatenate([arrays["x_train"], arrays["x_test"]]),
        Known(
            np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(np.int64),
            np.repeat([False, True], [len(arrays["y_train"]), len(arrays["y_test"])]),
        ),
    )


def read_table(folder: Path, name: str) -> TableRows:
    """A set of ODDS: rows ``X`` and labels ``y``, 1 = outlier, in ``NAME.mat`` of ``folder``.

    Raises:
        BadDataset: the file is missing or something else.
    """
    if Path(name).name != name:
        raise BadDataset(f"--sets takes names of files in --data without .mat, such as cardio, got {name!r}")
    path = _existing(folder, f"{name}.mat")
    arrays = _read_mat(path)
    values, labels = (_numeric(path, key, arrays.get(key)) for key in ("X", "y"))
    labels = labels.ravel()
    _check_table(path, values, labels)
    return TableRows(values, Known(labels.astype(np.int64), np.zeros(len(labels), np.bool_)))


def _existing(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise BadDataset(f"{path} is no file; --data must be the folder that holds {name}")
    return path


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    wanted = [f"{kind}_{part}" for kind in "xy" for part in ("train", "test")]
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        _check_sizes(path, wanted, sizes)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: np.asarray(arrays[name]) for name in wanted}
    except (
        OSError,
        ValueError,
        EOFError,
        MemoryError,
        NotImplementedError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise BadDataset(f"{path}: {error or 'too large'}; it must be an .npz file with {', '.join(wanted)}") from error


def _check_sizes(path: Path, wanted: list[str], sizes: dict[str, int]) -> None:
    for name in wanted:
        if f"{name}.npy" not in sizes:
            raise BadDataset(f"{path} has no {name}; it must hold {', '.join(wanted)}")
        if sizes[f"{name}.npy"] > _MOST_BYTES:
            raise BadDataset(f"{path}: {name} has {sizes[f'{name}.npy']} bytes, and must not have more than {_MOST_BYTES}")


def _check_pictures(path: Path, part: str, images: NDArray[Any], classes: NDArray[Any]) -> None:
    if images.dtype != np.uint8 or images.shape[1:] != (_SIDE_PX, _SIDE_PX):
        raise BadDataset(f"{path}: x_{part} must be uint8 (N, {_SIDE_PX}, {_SIDE_PX}), got {images.dtype} {images.shape}")
    if classes.dtype.kind not in "ui" or classes.shape != images.shape[:1]:
        raise BadDataset(f"{path}: y_{part} must be integers, one a picture, got {classes.dtype} {classes.shape}")
    if sorted(set(classes.tolist())) != list(CLASSES):
        raise BadDataset(f"{path}: y_{part} must hold each class from 0 to 9 and nothing else")


def _read_mat(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    if path.stat().st_size > _MOST_BYTES:
        raise BadDataset(f"{path} has more than {_MOST_BYTES} bytes, which no set of ODDS has")
    try:
        return dict(loadmat(path, appendmat=False, variable_names=["X", "y"]))
    except Exception as error:  # its parser raises whatever it trips over
        raise BadDataset(f"{path}: {error}; it must be a MATLAB file of version 5 to 7 with X and y") from error


def _numeric(path: Path, key: str, array: object) -> NDArray[np.float64]:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "buif" or array.ndim != 2 or not array.size:
        found = "nothing" if array is None else f"{getattr(array, 'dtype', type(array).__name__)} {getattr(array, 'shape', '')}"
        raise BadDataset(f"{path}: {key} must be a matrix of real numbers, got {found}")
    values = array.astype(np.float64)
    if not np.isfinite(values).all():
        raise BadDataset(f"{path}: {key} must be finite, {np.count_nonzero(~np.isfinite(values))} of its values are not")
    return values


def _check_table(path: Path, values: NDArray[np.float64], labels: NDArray[np.float64]) -> None:
    if len(labels) != len(values) or not np.isin(labels, (0, 1)).all():
        raise BadDataset(f"{path}: y must be one 0 or 1 a row of X, got {len(labels)} values for {len(values)} rows")
    outliers = np.count_nonzero(labels)
    if outliers < _FEWEST_OUTLIERS or len(labels) - outliers < _FEWEST_NORMALS:
        raise BadDataset(
            f"{path}: {outliers} of {len(labels)} rows are outliers; there must be {_FEWEST_OUTLIERS} of them and "
            f"{_FEWEST_NORMALS} others, or there is nothing to test on"
        )
