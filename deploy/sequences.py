"""Sequences of frames that engines of other precisions than float32 need: golden ones validate them, and ``int8`` is calibrated.

Such an engine does not reproduce the reference's scores exactly. What counts is that it ranks frames in the same order, also
after many frames of a recurrent state. The second half of each sequence is sped up, so that it holds normal and anomalous scores.
Golden sequences are in the bundle, with the reference's scores. Calibration frames are drawn evenly from folders of pictures;
stretches that show a golden frame are left out, because the golden sequences validate the result.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import SEQUENCES_NAME, Bundle, TensorKind, read_tensors, sha256
from deploy.engine import Clips, Engine, Scores, State
from deploy.errors import BadFrame, BundleCorrupt, BundleIncompatible, ConfigError
from deploy.image import Frame, decode_image, encode_png, natural_key
from deploy.records import CalibrationInfo
from deploy.spec import ClipSpec

SPEEDUP: Final = 3  # sped-up footage consists of every third frame
HALF_FRAMES: Final = 24  # half of a calibration stretch: long enough for a state to settle
STRETCH_PICTURES: Final = HALF_FRAMES * (1 + SPEEDUP)  # consecutive pictures of a camera that one stretch needs
MOST_STRETCHES: Final = 4

_KINDS: Final[Mapping[str, TensorKind]] = {
    "pictures": (np.uint8, (None,)),
    "sizes_bytes": (np.int64, (None, None)),
    "hurried": (np.bool_, (None, None)),
    "score": (np.float32, (None, None)),
}
_OPTION: Final = "--calibration-data"
_EVERY_PX: Final = 8
_SAME_FRAME_LEVELS: Final = 16
"""The same frame, as a JPEG of quality 75, is at most 13 grey levels off in every eighth pixel; the next frame, where anything
moves, is 100 and more off in some."""


@dataclass(frozen=True, slots=True)
class GoldenSequences:
    """Consecutive frames of some cameras with the reference's scores."""

    frames: NDArray[np.uint8]  # (S, F, H, W, C)
    sped_up: NDArray[np.bool_]  # (S, F): the frames of the sped-up half
    score: NDArray[np.float32]  # (S, F); NaN for the first length - 1 frames, which complete no clip


def sequence_indices(half: int) -> NDArray[np.int64]:
    """Indices int64 (2 * half,) of a sequence's frames in a stretch of ``half * (1 + SPEEDUP)`` frames."""
    return np.concatenate([np.arange(half), half + SPEEDUP * np.arange(half)])


def sequences_bytes(sequences: GoldenSequences) -> bytes:
    """Content of ``sequences.safetensors``; the frames are stored as concatenated PNGs."""
    from safetensors.numpy import save

    images = [encode_png(frame) for sequence in sequences.frames for frame in sequence]
    return save(
        {
            "pictures": np.frombuffer(b"".join(images), np.uint8),
            "sizes_bytes": np.array([len(image) for image in images]).reshape(sequences.sped_up.shape),
            # safetensors writes the memory as it is and ignores strides.
            "hurried": np.ascontiguousarray(sequences.sped_up),
            "score": np.ascontiguousarray(sequences.score),
        }
    )


def read_sequences(bundle: Bundle) -> GoldenSequences:
    """The bundle's golden sequences.

    Raises:
        BundleIncompatible: it has none, because an earlier version made it.
        BundleCorrupt: they are damaged.
    """
    if SEQUENCES_NAME not in bundle.manifest.files:
        raise BundleIncompatible(
            f"{bundle.path}: has no golden sequences, which engines of other precisions than f32 are validated with; "
            "make the bundle again with oddsight-train"
        )
    content = read_tensors(bundle, SEQUENCES_NAME, _KINDS)
    sizes, pictures = content["sizes_bytes"], content["pictures"]
    if not sizes.size or {content["hurried"].shape, content["score"].shape} != {sizes.shape}:
        raise _corrupt(bundle, "there must be a size, a mark and a score for each frame")
    if sizes.min() < 1 or sizes.max() > len(pictures) or sizes.sum() != len(pictures):
        raise _corrupt(bundle, f"the sizes of its pictures do not add up to their {len(pictures)} bytes")
    images = np.split(pictures, np.cumsum(sizes.ravel())[:-1])
    try:
        frames = np.stack([decode_image(image.tobytes(), bundle.spec).frame for image in images])
    except BadFrame as error:
        raise _corrupt(bundle, str(error)) from error
    return GoldenSequences(frames.reshape(*sizes.shape, *bundle.spec.frame_shape), content["hurried"], content["score"])


def _corrupt(bundle: Bundle, reason: str) -> BundleCorrupt:
    return BundleCorrupt(f"{bundle.path / SEQUENCES_NAME}: {reason}; make the bundle again with oddsight-train")


def score_sequences(engine: Engine, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scores float32 (S, F) of sequences uint8 (S, F, H, W, C), S <= ``max_clips``; NaN where no clip is complete."""
    result = np.full(frames.shape[:2], np.nan, np.float32)
    for frame, (_, _, scores) in enumerate(run_sequences(engine, frames), engine.spec.length - 1):
        result[:, frame] = scores.score
    return result


def run_sequences(engine: Engine, frames: NDArray[np.uint8]) -> Iterator[tuple[Clips, State | None, Scores]]:
    """Score sequences uint8 (S, F, H, W, C) frame by frame; yields the inputs and outputs of each call."""
    length = engine.spec.length
    state = None
    for end in range(length, frames.shape[1] + 1):
        clips = frames[:, end - length : end]
        scores = engine.score(clips, state)
        yield clips, state, scores
        state = scores.state


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
