"""Masks of a whole clip at once: in an array on disk, which may be larger than memory, or in memory, as bits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.errors import BadLabels


@dataclass(frozen=True, slots=True)
class ArrayMasks:
    """All masks of a clip in one array on disk, (frames, H, W); what is not 0 is anomalous."""

    array: NDArray[Any]

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, frame: int) -> NDArray[np.bool_]:
        """See :class:`trainer.masks.Masks`."""
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
        """See :class:`trainer.masks.Masks`."""
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


def read_array(path: Path, dimensions: int) -> NDArray[Any]:
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
