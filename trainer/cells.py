"""Masks in MATLAB files: a row of cells ``volLabel``, one matrix a frame.

They are read in a process of its own: a damaged file can make SciPy's reader crash, or ask for all the memory there is.
"""

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from trainer.errors import BadLabels
from trainer.mask_files import PackedMasks

NAME = "volLabel"
_MOST_FILE_BYTES = 1 << 26  # masks are mostly empty, and shrink to a thousandth
_MOST_MEMORY_BYTES = 1 << 32  # for one clip: twenty times what CUHK Avenue's longest takes


def read_cells(paths: Sequence[Path]) -> Iterator[PackedMasks]:
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
