"""Calibration frames for ``int8``: stretches of footage, drawn evenly from folders of pictures.

A stretch is made like a golden sequence (:mod:`deploy.golden`): its second half is played at three times its pace, so that there
are high scores as well, and it is long enough for a state to settle. Stretches that show a golden frame are left out, because the
golden sequences validate the result.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import Bundle, sha256
from deploy.errors import BadFrame, ConfigError
from deploy.golden import SPEEDUP, read_sequences, sequence_indices
from deploy.image import Frame, decode_image, natural_key
from deploy.records import CalibrationInfo
from deploy.spec import ClipSpec

HALF_FRAMES: Final = 24
STRETCH_PICTURES: Final = HALF_FRAMES * (1 + SPEEDUP)  # consecutive pictures of a camera that one stretch needs
MOST_STRETCHES: Final = 4

_OPTION: Final = "--calibration-data"
_EVERY_PX: Final = 8
_SAME_FRAME_LEVELS: Final = 16
"""The same frame, as a JPEG of quality 75, is at most 13 grey levels off in every eighth pixel; the next frame, where anything
moves, is 100 and more off in some."""


@dataclass(frozen=True, slots=True)
class CalibrationFrames:
    """Stretches of footage, without scores."""

    frames: NDArray[np.uint8]  # (S, F, H, W, C)
    sped_up: NDArray[np.bool_]  # (S, F): played at three times its pace

    @property
    def info(self) -> CalibrationInfo:
        stretches, frames = self.sped_up.shape
        return CalibrationInfo(stretches=stretches, frames=stretches * frames, sha256=sha256(self.frames.tobytes()))


def read_calibration_frames(folders: Sequence[Path], bundle: Bundle) -> CalibrationFrames:
    """At most ``MOST_STRETCHES`` stretches, as far from each other as the footage allows; only their pictures are decoded.

    A folder of JPEGs and PNGs belongs to one camera, in natural order of their names; a folder without any stands for the folders
    in it. The footage may be that of the training.

    Raises:
        ConfigError: a folder cannot be read or holds no pictures, one of them cannot be decoded, or no camera has enough.
        BundleIncompatible: the bundle has no golden sequences.
    """
    golden = _subsample(read_sequences(bundle).frames.reshape(-1, *bundle.spec.frame_shape))
    cameras = [pictures for folder in folders for pictures in _cameras(folder)]
    stretches = [
        pictures[first : first + STRETCH_PICTURES]
        for pictures in cameras
        for first in range(0, len(pictures) - STRETCH_PICTURES + 1, STRETCH_PICTURES)
    ]
    if not stretches:
        longest = max(map(len, cameras))
        raise ConfigError(
            f"{_OPTION}: a camera must have at least {STRETCH_PICTURES} pictures, one after the other as they were taken; "
            f"the longest of {len(cameras)} has {longest}"
        )
    chosen = np.unique(np.linspace(0, len(stretches) - 1, MOST_STRETCHES).round().astype(int))
    decoded = (np.stack([_decode(path, bundle.spec) for path in stretches[number]]) for number in chosen)
    rows = [frames[sequence_indices(HALF_FRAMES)] for frames in decoded if not _shares_frame(_subsample(frames), golden)]
    if not rows:
        raise ConfigError(f"{_OPTION}: every stretch shows frames of the bundle's golden sequences; give other footage")
    sped_up = np.arange(2 * HALF_FRAMES) >= HALF_FRAMES
    return CalibrationFrames(np.stack(rows), np.broadcast_to(sped_up, (len(rows), len(sped_up))).copy())


def _cameras(folder: Path) -> Iterator[list[Path]]:
    if pictures := _pictures(folder):
        yield pictures
        return
    inner_pictures = [pictures for inner in _list(folder) if inner.is_dir() and (pictures := _pictures(inner))]
    if not inner_pictures:
        raise ConfigError(f"{_OPTION} {folder}: no .jpg, .jpeg or .png file in this folder or in those in it")
    yield from inner_pictures


def _pictures(folder: Path) -> list[Path]:
    return [path for path in _list(folder) if path.suffix.lower() in {".jpg", ".jpeg", ".png"} and path.is_file()]


def _list(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir(), key=natural_key)
    except OSError as error:
        raise ConfigError(f"{_OPTION} {folder}: {error.strerror}; give a folder of pictures") from error


def _decode(path: Path, spec: ClipSpec) -> Frame:
    try:
        return decode_image(path.read_bytes(), spec).frame
    except OSError as error:
        raise ConfigError(f"{_OPTION} {path}: {error.strerror}") from error
    except BadFrame as error:
        raise ConfigError(f"{_OPTION} {path}: {error}; delete it, or give other footage") from error


def _subsample(frames: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Every eighth pixel of frames uint8 (N, H, W, C), signed so that differences can be taken."""
    return frames[:, ::_EVERY_PX, ::_EVERY_PX].astype(np.int16)


def _shares_frame(frames: NDArray[np.int16], golden: NDArray[np.int16]) -> bool:
    return any(np.abs(golden - frame).max((1, 2, 3)).min() <= _SAME_FRAME_LEVELS for frame in frames)
