"""CalibrationFrames that a graph is made from: stretches of what cameras see, drawn evenly from folders of pictures.

A stretch is as a golden sequence is, see :mod:`deploy.golden`: a second half at three times its pace, so that high scores are
there as well, and long enough for a state to settle. It is never one of those: what a graph is made from cannot judge it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import Bundle, sha256
from deploy.errors import BadFrame, ConfigError
from deploy.golden import PACE, places_of, read_sequences
from deploy.image import Frame, decode_picture
from deploy.records import CalibrationInfo
from deploy.spec import ClipSpec

HALF_FRAMES: Final = 24
STRETCH_PICTURES: Final = HALF_FRAMES * (1 + PACE)
"""That a camera must have, one after the other, for one stretch."""
MOST_STRETCHES: Final = 4

_EVERY_PX: Final = 8
_ALIKE_LEVELS: Final = 16
"""The same frame, as a JPEG of quality 75, is at most 13 grey levels off in every eighth pixel; the next frame, where anything
moves, is 100 and more off in some."""
_PICTURES: Final = frozenset({".jpg", ".jpeg", ".png"})


@dataclass(frozen=True, slots=True)
class CalibrationFrames:
    """Stretches of footage, one after the other; what they score is up to a model."""

    frames: NDArray[np.uint8]
    """uint8 (S, F, H, W, C)."""
    hurried: NDArray[np.bool_]
    """bool (S, F): what is played at three times its pace."""

    @property
    def info(self) -> CalibrationInfo:
        """What to keep of it."""
        stretches, frames = self.hurried.shape
        return CalibrationInfo(stretches=stretches, frames=stretches * frames, sha256=sha256(self.frames.tobytes()))


def read_calibration_frames(folders: Sequence[Path], bundle: Bundle) -> CalibrationFrames:
    """At most ``MOST_STRETCHES`` stretches, as far from each other as the footage allows; only their pictures are decoded.

    A folder of JPEGs and PNGs is a camera's, in natural order of their names; one without any stands for the folders in it.
    A stretch that holds a frame of the bundle's golden sequences, or one just like it, is left out: footage of the training may.

    Raises:
        ConfigError: a folder cannot be read or holds no pictures, one of them cannot be decoded, or no camera has enough.
        BundleIncompatible: the bundle has no golden sequences to judge by.
    """
    judging = _thinned(read_sequences(bundle).frames.reshape(-1, *bundle.spec.frame_shape))
    cameras = [pictures for folder in folders for pictures in _cameras(folder)]
    stretches = [stretch for pictures in cameras for stretch in _stretches(pictures)]
    if not stretches:
        longest = max(map(len, cameras))
        raise ConfigError(
            f"--calibration-data: a camera must have at least {STRETCH_PICTURES} pictures, one after the other as they were taken; "
            f"the longest of {len(cameras)} has {longest}"
        )
    chosen = np.unique(np.linspace(0, len(stretches) - 1, MOST_STRETCHES).round().astype(int))
    decoded = (np.stack([_decoded(path, bundle.spec) for path in stretches[number]]) for number in chosen)
    rows = [frames[places_of(HALF_FRAMES)] for frames in decoded if not _share_any(_thinned(frames), judging)]
    if not rows:
        raise ConfigError(
            "--calibration-data: in all of it are frames that the bundle's golden sequences judge by; give other footage"
        )
    hurried = np.arange(2 * HALF_FRAMES) >= HALF_FRAMES
    return CalibrationFrames(np.stack(rows), np.broadcast_to(hurried, (len(rows), len(hurried))).copy())


def _cameras(folder: Path) -> Iterator[list[Path]]:
    if pictures := _pictures(folder):
        yield pictures
        return
    inside = [found for inner in _listed(folder) if inner.is_dir() and (found := _pictures(inner))]
    if not inside:
        raise ConfigError(f"--calibration-data {folder}: no .jpg, .jpeg or .png file in this folder or in those in it")
    yield from inside


def _pictures(folder: Path) -> list[Path]:
    return [path for path in _listed(folder) if path.suffix.lower() in _PICTURES and path.is_file()]


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir(), key=_natural)
    except OSError as error:
        raise ConfigError(f"--calibration-data {folder}: {error.strerror}; give a folder of pictures") from error


def _natural(path: Path) -> list[tuple[int, str]]:
    """``frame10`` after ``frame9``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def _stretches(pictures: list[Path]) -> Iterator[list[Path]]:
    for first in range(0, len(pictures) - STRETCH_PICTURES + 1, STRETCH_PICTURES):
        yield pictures[first : first + STRETCH_PICTURES]


def _decoded(path: Path, spec: ClipSpec) -> Frame:
    try:
        return decode_picture(path.read_bytes(), spec).frame
    except OSError as error:
        raise ConfigError(f"--calibration-data {path}: {error.strerror}") from error
    except BadFrame as error:
        raise ConfigError(f"--calibration-data {path}: {error}; delete it, or give other footage") from error


def _thinned(frames: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Every eighth pixel of frames uint8 (N, H, W, C), in which differences can be taken."""
    return frames[:, ::_EVERY_PX, ::_EVERY_PX].astype(np.int16)


def _share_any(frames: NDArray[np.int16], judging: NDArray[np.int16]) -> bool:
    return any(np.abs(judging - frame).max((1, 2, 3)).min() <= _ALIKE_LEVELS for frame in frames)
