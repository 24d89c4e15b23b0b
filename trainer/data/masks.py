"""Where in a test clip's frames the anomalies are: ground truth a pixel.

Masks of a whole clip at once: in an array on disk, which may be larger than memory, or in memory, as bits.

Masks in MATLAB files: a row of cells ``volLabel``, one matrix a frame.

They are read in a process of its own: a damaged file can make SciPy's reader crash, or ask for all the memory there is.
"""

import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deploy.errors import BadFrame
from trainer.data.footage import list_images, read_mask
from trainer.errors import BadLabels


@dataclass(frozen=True, slots=True)
class ArrayMasks:
    """All masks of a clip in one array on disk, (frames, H, W); what is not 0 is anomalous."""

    array: NDArray[Any]

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, frame: int) -> NDArray[np.bool_]:
        """See :class:`trainer.data.masks.Masks`."""
        return np.asarray(self.array[frame] != 0)


@dataclass(frozen=True, slots=True)
class PackedMasks:
    """All masks of a clip in memory, as bits, and only those that are not empty."""

    shape: tuple[int, int]
    total: int
    bits: Mapping[int, NDArray[np.uint8]]
    """Place of a frame -> the bits of its mask."""

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, frame: int) -> NDArray[np.bool_]:
        """See :class:`trainer.data.masks.Masks`."""
        if not 0 <= frame < self.total:
            raise IndexError(frame)
        if frame not in self.bits:
            return np.zeros(self.shape, np.bool_)
        return np.unpackbits(self.bits[frame], count=self.shape[0] * self.shape[1]).reshape(self.shape).astype(np.bool_)

    @classmethod
    def of(cls, masks: Sequence[NDArray[Any]]) -> "PackedMasks":
        """At least one mask, all (H, W); what is not 0 is anomalous."""
        height, width = masks[0].shape
        return cls((height, width), len(masks), {frame: np.packbits(mask != 0) for frame, mask in enumerate(masks) if mask.any()})

    @property
    def labels(self) -> NDArray[np.uint8]:
        """uint8 (frames,): 1 where a mask is not empty."""
        return np.asarray([frame in self.bits for frame in range(self.total)], np.uint8)


def read_npy(path: Path, dimensions: int) -> NDArray[Any]:
    """An .npy file of integers or booleans with that many dimensions, memory-mapped.

    Raises:
        BadLabels: it is missing or something else.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # its parser raises whatever it trips over
        raise BadLabels(f"{path}: {error}; it must be an .npy file of 0 and 1; copy the data set again") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "bui" or array.ndim != dimensions:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise BadLabels(f"{path}: expected integers in {dimensions} dimensions, frames first, got {found}")
    return array


NAME = "volLabel"
_MOST_FILE_BYTES = 1 << 26  # masks are mostly empty, and shrink to a thousandth
_MOST_MEMORY_BYTES = 1 << 32  # for one clip: twenty times what CUHK Avenue's longest takes


def read_matlab_masks(paths: Sequence[Path]) -> Iterator[PackedMasks]:
    """The masks in each of these files, in their order; an element that is not 0 is anomalous.

    Raises:
        BadLabels: a file is missing or something else.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _limit_memory) as pool:
        for path in paths:
            try:
                yield pool.submit(_read, path).result()
            except BrokenProcessPool as error:
                raise BadLabels(f"{path} is damaged: its reader crashed; copy the data set again") from error


def _read(path: Path) -> PackedMasks:
    from scipy.io import loadmat

    try:
        _check_size(path)
        found = loadmat(path, appendmat=False, variable_names=[NAME]).get(NAME)
        return _packed(found)
    except Exception as error:  # its parser raises whatever it trips over
        reason = str(error) or type(error).__name__
        raise BadLabels(f"{path}: {reason}; it must be a MATLAB file of version 5 to 7 with {NAME}") from error


def _check_size(path: Path) -> None:
    size_bytes = path.stat().st_size
    if size_bytes > _MOST_FILE_BYTES:
        raise BadLabels(f"{size_bytes} bytes, and no clip's masks have more than {_MOST_FILE_BYTES}")


def _packed(found: object) -> PackedMasks:
    if not isinstance(found, np.ndarray) or found.dtype != np.object_ or not found.size:
        raise BadLabels(f"no cells called {NAME}, one a frame")
    masks = [np.asarray(cell) for cell in found.ravel()]
    shapes = {mask.shape for mask in masks}
    if len(shapes) != 1 or masks[0].ndim != 2 or not masks[0].size or any(mask.dtype.kind not in "buif" for mask in masks):
        raise BadLabels(f"the cells of {NAME} must be matrices of numbers, all of one size, got {sorted(shapes)[:3]}")
    return PackedMasks.of(masks)


def _limit_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_MEMORY_BYTES, _MOST_MEMORY_BYTES))


class Masks(Protocol):
    """The masks of one clip, one a frame of its source."""

    def __len__(self) -> int: ...

    def __getitem__(self, frame: int) -> NDArray[np.bool_]:
        """The mask of the frame at this place, bool (H, W) in the picture's own size, True = anomalous.

        Raises:
            BadLabels: it cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class ImageMasks:
    """Masks as pictures (PNG, BMP), one a frame, read when asked for; every value but 0 is anomalous."""

    pictures: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, frame: int) -> NDArray[np.bool_]:
        path = self.pictures[frame]
        try:
            return read_mask(path)
        except (OSError, BadFrame) as error:
            raise BadLabels(f"{path}: {error}; a mask is a picture of its frame's size, 0 where nothing is anomalous") from error


def find_image_masks(folder: Path) -> ImageMasks | None:
    """The masks in ``folder``, in natural order of their names; None where there are none."""
    found = list_images(folder) if folder.is_dir() else []
    return ImageMasks(tuple(found)) if found else None
