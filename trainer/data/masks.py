"""Ground truth per pixel: the masks of a test clip as images, as a NumPy array on disk, or from a MATLAB file.

MATLAB files hold a row of cells ``volLabel``, one matrix per frame. They are read in a separate process, because a damaged
file can crash SciPy's reader or make it allocate all memory.
"""

import multiprocessing
from collections.abc import Iterator, Sequence
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

_VARIABLE = "volLabel"
_MAX_MATLAB_BYTES = 1 << 26  # masks are mostly empty and compress to a thousandth
_MAX_MATLAB_MEMORY_BYTES = 1 << 32  # for one clip: twenty times what CUHK Avenue's longest needs


class Masks(Protocol):
    """The masks of one clip, one per frame of its source."""

    def __len__(self) -> int: ...

    def __getitem__(self, frame: int) -> NDArray[np.bool_]:
        """A frame's mask, bool (H, W) in the original image's size, True = anomalous. Raises BadLabels if it cannot be read."""
        ...


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

    limit = (resource.RLIMIT_DATA, (_MAX_MATLAB_MEMORY_BYTES, _MAX_MATLAB_MEMORY_BYTES))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), resource.setrlimit, limit) as pool:
        for path in paths:
            try:
                masks = pool.submit(_read_matlab, path).result()
            except BrokenProcessPool as error:
                raise BadLabels(f"{path} is damaged: its reader crashed; copy the data set again") from error
            except Exception as error:  # the parser raises errors of many types on damaged files
                reason = str(error) or type(error).__name__
                raise BadLabels(f"{path}: {reason}; it must be a MATLAB file of version 5 to 7 with {_VARIABLE}") from error
            yield masks


def _read_matlab(path: Path) -> PackedMasks:
    from scipy.io import loadmat

    size_bytes = path.stat().st_size
    if size_bytes > _MAX_MATLAB_BYTES:
        raise BadLabels(f"{size_bytes} bytes; at most {_MAX_MATLAB_BYTES} are accepted")
    cells = loadmat(path, appendmat=False, variable_names=[_VARIABLE]).get(_VARIABLE)
    if not isinstance(cells, np.ndarray) or cells.dtype != np.object_ or not cells.size:
        raise BadLabels(f"{_VARIABLE} is missing, empty or no row of cells, one per frame")
    masks = [np.asarray(cell) for cell in cells.ravel()]
    shapes = {mask.shape for mask in masks}
    if len(shapes) != 1 or masks[0].ndim != 2 or not masks[0].size or any(mask.dtype.kind not in "buif" for mask in masks):
        raise BadLabels(f"the cells of {_VARIABLE} must be matrices of numbers, all of one size, got {sorted(shapes)[:3]}")
    return PackedMasks.pack(masks)
