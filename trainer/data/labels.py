"""Ground truth of test clips: layouts of data sets, labels of frames, and masks, which label pixels.

``frame_labels.npz`` has one array of 0 and 1 per clip, keyed by clip name. ``frame_labels.csv``, for labels written by hand,
has a line ``clip,first_frame,last_frame`` per anomalous interval, frames counted from 0, both ends included; all other frames
are normal.
"""

import csv
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from zipfile import ZipInfo

import numpy as np
from numpy.typing import NDArray

from deploy.errors import BadFrame
from trainer.data.footage import Footage, Source, count_frames, list_images, read_mask
from trainer.errors import BadLabels

NPZ_NAME, CSV_NAME = "frame_labels.npz", "frame_labels.csv"
COLUMNS = ["clip", "first_frame", "last_frame"]

Labels = NDArray[np.uint8]
"""uint8 (frames,), 1 = anomalous."""

_MAX_BYTES = 1 << 26  # of one clip's labels: a month of video
_MATLAB_VARIABLE = "volLabel"
_MAX_MATLAB_BYTES = 1 << 26  # masks are mostly empty and compress to a thousandth
_MAX_MATLAB_MEMORY_BYTES = 1 << 32  # for one clip: twenty times what CUHK Avenue's longest needs


class Masks(Protocol):
    """The masks of one clip, one per frame of its source."""

    def __len__(self) -> int: ...

    def __getitem__(self, frame: int) -> NDArray[np.bool_]:
        """A frame's mask, bool (H, W) in the original image's size, True = anomalous. Raises BadLabels if it cannot be read."""
        ...


@dataclass(frozen=True, slots=True)
class LabelledClip:
    """A test clip on disk and its ground truth."""

    source: Source
    labels: Labels
    masks: Masks | None = None
    """One mask per label; None where the data set has none for this clip."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How one data set is laid out on disk, how to recognise and read it, and where to get it."""

    name: str
    files: tuple[str, ...]
    """Required files, one line each; a remark may follow after two spaces."""
    origin: str
    """Where to download it."""
    terms: str
    find: Callable[[Path], Path | None]
    """The data set's root in or at a path, None where this is another data set. Raises NoFootage where the path is ambiguous."""
    training: Callable[[Path], list[Source]]
    """The clips to train on, given the root. Raises NoFootage."""
    testing: Callable[[Path], list[LabelledClip]]
    """The test clips with their labels, given the root. Raises NoFootage and BadLabels."""


class AnomalyInterval(NamedTuple):
    """Consecutive anomalous frames of one clip, both ends included."""

    clip: str
    first_frame: int
    last_frame: int


def check_labels(clip: LabelledClip, footage: Footage) -> None:
    """Raise BadLabels unless there is one label per frame."""
    if len(clip.labels) != footage.total:
        raise BadLabels(
            f"clip {clip.source.name!r} has {footage.total} frames and {len(clip.labels)} labels; give one label per frame"
        )


def find_label_file(folder: Path) -> Path | None:
    """The label file in a folder, the .npz if there are both, None if there is none."""
    return next((path for path in (folder / NPZ_NAME, folder / CSV_NAME) if path.is_file()), None)


def read_labels(path: Path, sources: list[Source]) -> list[Labels]:
    """The labels of each source; of a .csv every video is decoded, to count its frames. Raises BadLabels if they do not fit."""
    if path.suffix == ".npz":
        rows = _read_npz(path)
        missing = next((source.name for source in sources if source.name not in rows), None)
        if missing is not None:
            raise BadLabels(f"{path}: no labels for clip {missing!r}; it has {', '.join(sorted(rows))}")
        return [rows[source.name] for source in sources]
    try:
        return list(_label_rows(parse_intervals(path.read_text(encoding="utf-8-sig").splitlines()), sources))
    except (OSError, UnicodeDecodeError, BadLabels) as error:
        raise BadLabels(f"{path}: {error}") from error


def parse_intervals(lines: Iterable[str]) -> list[AnomalyInterval]:
    """The intervals in the lines of a .csv. Raises BadLabels, without the name of the file, if a line is invalid."""
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, strict=True)]
    except csv.Error as error:
        raise BadLabels(f"not valid CSV: {error}") from error
    if not rows or rows[0] != COLUMNS:
        raise BadLabels(f"line 1 must be {','.join(COLUMNS)!r}")
    return [_parse_row(number, row) for number, row in enumerate(rows[1:], 2) if any(row)]


def _parse_row(number: int, cells: list[str]) -> AnomalyInterval:
    # int() would also accept 1_000, and digits of other scripts.
    if len(cells) != len(COLUMNS) or not all(cell.isascii() and cell.isdigit() and len(cell) <= 12 for cell in cells[1:]):
        raise BadLabels(f"row {number} must be a clip and two frame numbers, got {','.join(cells)[:80]!r}")
    interval = AnomalyInterval(cells[0], int(cells[1]), int(cells[2]))
    if interval.last_frame < interval.first_frame:
        raise BadLabels(f"row {number}: the last frame must not come before the first, got {','.join(cells)[:80]!r}")
    return interval


def _label_rows(intervals: list[AnomalyInterval], sources: list[Source]) -> Iterator[Labels]:
    names = {name for source in sources for name in (source.name, source.path.name)}
    unknown = next((interval.clip for interval in intervals if interval.clip not in names), None)
    if unknown is not None:
        raise BadLabels(f"there is no clip {unknown!r}; the clips are {', '.join(source.name for source in sources[:20])}")
    for source in sources:
        labels = np.zeros(count_frames(source), np.uint8)
        for clip, first_frame, last_frame in intervals:
            if clip in (source.name, source.path.name):
                if last_frame >= len(labels):
                    raise BadLabels(f"clip {clip!r} has frames 0 to {len(labels) - 1}, an interval ends at {last_frame}")
                labels[first_frame : last_frame + 1] = 1
        yield labels


def _read_npz(path: Path) -> dict[str, Labels]:
    try:
        # np.load() by itself leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            _check_sizes(archive.zip.infolist())
            rows = {name: np.asarray(archive[name]) for name in archive.files}
    except Exception as error:  # the parser raises errors of many types on damaged files
        raise BadLabels(f"{path}: {error}; give one uint8 array of 0 and 1 per test clip, keyed by clip name") from error
    for name, values in rows.items():
        if values.ndim != 1 or values.dtype.kind not in "buif" or not np.isin(values, (0, 1)).all():
            raise BadLabels(f"{path}: {name!r} must be a row of 0 and 1, got shape {values.shape} of {values.dtype}")
    return {name: values.astype(np.uint8) for name, values in rows.items()}


def _check_sizes(entries: list[ZipInfo]) -> None:
    largest = max((entry.file_size for entry in entries), default=0)
    if largest > _MAX_BYTES:
        raise BadLabels(f"an array of {largest} bytes; at most {_MAX_BYTES} are accepted")


# --- Masks


@dataclass(frozen=True, slots=True)
class ImageMasks:
    """Masks as image files (PNG, BMP), read on demand; every value but 0 is anomalous."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, frame: int) -> NDArray[np.bool_]:
        path = self.paths[frame]
        try:
            return read_mask(path)
        except (OSError, BadFrame) as error:
            raise BadLabels(f"{path}: {error}; a mask is an image of its frame's size, 0 where nothing is anomalous") from error


def find_image_masks(folder: Path) -> ImageMasks | None:
    """The masks in a folder, in natural order of their names, None if there are none."""
    paths = list_images(folder) if folder.is_dir() else []
    return ImageMasks(tuple(paths)) if paths else None


@dataclass(frozen=True, slots=True)
class ArrayMasks:
    """Masks in one array (frames, H, W), which may be memory-mapped; every value but 0 is anomalous."""

    array: NDArray[Any]

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, frame: int) -> NDArray[np.bool_]:
        return np.asarray(self.array[frame] != 0)


def read_npy(path: Path, dimensions: int) -> NDArray[Any]:
    """Memory-map an .npy file of integers or booleans with that many dimensions. Raises BadLabels if it is anything else."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # the parser raises errors of many types on damaged files
        raise BadLabels(f"{path}: {error}; it must be an .npy file of 0 and 1; copy the data set again") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "bui" or array.ndim != dimensions:
        actual = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise BadLabels(f"{path}: expected integers in {dimensions} dimensions, frames first, got {actual}")
    return array


@dataclass(frozen=True, slots=True)
class PackedMasks:
    """Masks in memory, one bit per pixel; empty masks take no space."""

    shape: tuple[int, int]
    bits: Sequence[NDArray[np.uint8] | None]
    """The bits of each frame's mask, None for an empty one."""

    @classmethod
    def pack(cls, masks: Sequence[NDArray[Any]]) -> "PackedMasks":
        """Pack at least one mask, all (H, W); every value but 0 is anomalous."""
        height, width = masks[0].shape
        return cls((height, width), [np.packbits(mask != 0) if mask.any() else None for mask in masks])

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, frame: int) -> NDArray[np.bool_]:
        bits = self.bits[frame]
        if bits is None:
            return np.zeros(self.shape, np.bool_)
        return np.unpackbits(bits, count=self.shape[0] * self.shape[1]).reshape(self.shape).astype(np.bool_)

    @property
    def labels(self) -> NDArray[np.uint8]:
        """uint8 (frames,): 1 where a mask is not empty."""
        return np.asarray([bits is not None for bits in self.bits], np.uint8)


def read_matlab_masks(paths: Sequence[Path]) -> Iterator[PackedMasks]:
    """The masks in each MATLAB file; every element but 0 is anomalous. Raises BadLabels if a file holds anything else."""
    import resource

    # In a process of its own, because a damaged file can crash SciPy's reader or make it allocate all memory.
    limit = (resource.RLIMIT_DATA, (_MAX_MATLAB_MEMORY_BYTES, _MAX_MATLAB_MEMORY_BYTES))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), resource.setrlimit, limit) as pool:
        for path in paths:
            try:
                masks = pool.submit(_read_matlab, path).result()
            except BrokenProcessPool as error:
                raise BadLabels(f"{path} is damaged: its reader crashed; copy the data set again") from error
            except Exception as error:  # the parser raises errors of many types on damaged files
                reason = str(error) or type(error).__name__
                raise BadLabels(f"{path}: {reason}; give a MATLAB file of version 5 to 7 with {_MATLAB_VARIABLE}") from error
            yield masks


def _read_matlab(path: Path) -> PackedMasks:
    from scipy.io import loadmat

    size_bytes = path.stat().st_size
    if size_bytes > _MAX_MATLAB_BYTES:
        raise BadLabels(f"{size_bytes} bytes; at most {_MAX_MATLAB_BYTES} are accepted")
    cells = loadmat(path, appendmat=False, variable_names=[_MATLAB_VARIABLE]).get(_MATLAB_VARIABLE)
    if not isinstance(cells, np.ndarray) or cells.dtype != np.object_ or not cells.size:
        raise BadLabels(f"{_MATLAB_VARIABLE} is missing, empty or no row of cells, one per frame")
    masks = [np.asarray(cell) for cell in cells.ravel()]
    shapes = {mask.shape for mask in masks}
    if len(shapes) != 1 or masks[0].ndim != 2 or not masks[0].size or any(mask.dtype.kind not in "buif" for mask in masks):
        raise BadLabels(f"the cells of {_MATLAB_VARIABLE} must be matrices of numbers, all of one size, got {sorted(shapes)[:3]}")
    return PackedMasks.pack(masks)
