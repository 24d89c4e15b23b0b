"""Finds footage on disk and decodes it exactly as the streamer does.

Footage is a folder of frames, a folder of such folders, a folder of videos, a video file, or a *split* of a data set:
``frames/CLIP/*.jpg|png|tif|bmp`` and ``videos/CLIP.*``. Which splits a data set has is told by :mod:`trainer.data.datasets.registry`.

Pictures of data sets: besides JPEG and PNG also TIFF and BMP, in which some sets are published. The service takes neither.

Bytes are untrusted: the limits on bytes and pixels are those of :mod:`deploy.image`, which is loaded first.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deploy.errors import BadFrame
from deploy.image import MAX_PICTURE_BYTES, Frame, decode_picture, fit_frame, picture_size
from deploy.spec import ClipSpec
from deploy.video import VideoInfo
from trainer.errors import NoFootage

_STILL_MAGICS = (b"II*\0", b"MM\0*", b"BM")


def decode_dataset_image(encoded: bytes, spec: ClipSpec) -> Frame:
    """Decode one JPEG, PNG, TIFF or BMP and fit it to ``spec``; JPEG and PNG exactly as the service does.

    Raises:
        BadFrame: as :func:`deploy.image.decode_picture`.
    """
    if not encoded.startswith(_STILL_MAGICS):
        return decode_picture(encoded, spec).frame
    return fit_frame(_decode_still(encoded, cv2.IMREAD_GRAYSCALE if spec.colour == "gray" else cv2.IMREAD_COLOR), spec)


def dataset_image_size(encoded: bytes) -> tuple[int, int]:
    """Width and height of one JPEG, PNG, TIFF or BMP.

    Raises:
        BadFrame: as :func:`deploy.image.decode_picture`.
    """
    if not encoded.startswith(_STILL_MAGICS):
        return picture_size(encoded)
    height_px, width_px = _decode_still(encoded, cv2.IMREAD_GRAYSCALE).shape
    return width_px, height_px


def read_mask(path: Path) -> NDArray[np.bool_]:
    """A picture as a mask, bool (H, W): whatever is not black.

    Raises:
        BadFrame: as :func:`deploy.image.decode_picture`.
        OSError: the file cannot be read.
    """
    encoded = path.read_bytes()
    if not encoded.startswith(_STILL_MAGICS):
        picture_size(encoded)
    return _decode_still(encoded, cv2.IMREAD_GRAYSCALE) > 0


def _decode_still(encoded: bytes, flag: int) -> NDArray[np.uint8]:
    if len(encoded) > MAX_PICTURE_BYTES:
        raise BadFrame("too_large", f"{len(encoded)} bytes; at most {MAX_PICTURE_BYTES} are accepted")
    try:
        picture = cv2.imdecode(np.frombuffer(encoded, dtype=np.uint8), flag)
    except cv2.error as error:
        raise BadFrame("undecodable", f"OpenCV: {error.err}") from error
    if picture is None:
        raise BadFrame("undecodable", f"{len(encoded)} bytes that look like a picture do not decode: truncated or damaged")
    return np.asarray(picture, dtype=np.uint8)


IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset({".avi", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm"})
DEFAULT_FPS = 10.0
"""Assumed for folders of frames, which do not say."""


@dataclass(frozen=True, slots=True)
class Source:
    """One clip of footage on disk: a folder of frames or a video file."""

    name: str
    path: Path

    @property
    def is_video(self) -> bool:
        """Whether ``path`` is a video file."""
        return self.path.is_file()


@dataclass(frozen=True, slots=True)
class Footage:
    """A decoded clip, fitted to a spec."""

    name: str
    frames: NDArray[np.uint8]
    """uint8 (n, H, W, C): the readable frames, in order."""
    index: NDArray[np.int64]
    """int64 (n,): the place of each readable frame in the source."""
    total: int
    """Frames of the source, unreadable ones included."""
    problems: tuple[str, ...]
    """One line for each unreadable frame."""


def find_sources(path: Path) -> list[Source]:
    """The clips of one split, one folder or one video file, in natural order of their names.

    Raises:
        NoFootage: nothing usable is there.
    """
    if not path.exists():
        raise NoFootage(f"{path}: no such file or folder; give a folder of frames, a folder of videos or a video file")
    sources = _sources(path)
    if not sources:
        raise NoFootage(
            f"{path}: no footage; expected training/ or frames/CLIP/*.jpg|png or videos/CLIP.*, a folder of pictures, "
            f"or a video file ({', '.join(sorted(VIDEO_SUFFIXES))}); oddsight-train datasets lists what else is understood"
        )
    return sources


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which ``frame9`` comes before ``frame10``."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def footage_info(sources: list[Source]) -> VideoInfo:
    """Picture size and frame rate of the first source that tells.

    Raises:
        NoFootage: no source has a readable frame.
    """
    for source in sources:
        shape = _video_shape(source.path) if source.is_video else _folder_shape(source.path)
        if shape is not None:
            return shape
    raise NoFootage(f"none of {len(sources)} clips has a readable frame, the first is {sources[0].path}; check the files")


def estimate_frame_count(source: Source) -> int:
    """About how many frames a clip has: what its file says, 0 where it does not say; nothing is decoded."""
    if not source.is_video:
        return len(list_images(source.path))
    import av

    try:
        with av.open(str(source.path)) as container:
            stream = container.streams.video[0]
            seconds = float(container.duration or 0) / av.time_base
            return stream.frames or round(seconds * float(stream.average_rate or 0))
    except (av.FFmpegError, IndexError):
        return 0


def count_frames(source: Source) -> int:
    """How many frames a clip has, unreadable ones included: :attr:`Footage.total`. A video is decoded for it."""
    return sum(1 for _ in _video_pictures(source.path)) if source.is_video else len(list_images(source.path))


def load_footage(source: Source, spec: ClipSpec) -> Footage:
    """Decode every readable frame of ``source`` and fit it to ``spec``; unreadable ones are named in ``problems``."""
    frames: list[Frame] = []
    index: list[int] = []
    problems: list[str] = []
    total = 0
    for outcome in decode_frames(source, spec):
        if isinstance(outcome, str):
            problems.append(outcome)
        else:
            frames.append(outcome)
            index.append(total)
        total += 1
    stacked = np.stack(frames) if frames else np.empty((0, *spec.frame_shape), np.uint8)
    return Footage(source.name, stacked, np.asarray(index, np.int64), total, tuple(problems))


def load_all_footage(
    sources: list[Source],
    spec: ClipSpec,
    done: Callable[[Footage], None] = lambda _: None,
    load: Callable[[Source, ClipSpec], Footage] = load_footage,
) -> list[Footage]:
    """Decode all ``sources``; ``done`` is told of each. Clips without one readable frame are left out.

    Raises:
        NoFootage: nothing at all was readable.
    """
    clips: list[Footage] = []
    for source in sources:
        footage = load(source, spec)
        done(footage)
        if len(footage.frames):
            clips.append(footage)
    if not clips:
        raise NoFootage(f"none of {len(sources)} clips has a readable frame, the first is {sources[0].path}; check the files")
    return clips


def decode_frames(source: Source, spec: ClipSpec) -> Iterator[Frame | str]:
    """Frames in order, uint8 (H, W, C), fitted to ``spec``; a line of text in the place of each frame that cannot be read."""
    return _decoded_video(source.path, spec) if source.is_video else _decoded_folder(source.path, spec)


def list_images(folder: Path) -> list[Path]:
    """The pictures of a folder, in natural order of their names; hidden files are none."""
    found = [entry for entry in folder.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".")]
    return sorted(found, key=lambda entry: natural_key(entry.name))


def _sources(path: Path) -> list[Source]:
    if path.is_file():
        return [Source(path.stem, path)] if path.suffix.lower() in VIDEO_SUFFIXES else []
    folders = [path / "frames", path / "videos"]
    inside = [source for folder in folders if folder.is_dir() for source in _clips_in(folder)]
    return inside or _clips_in(path) or ([Source(path.name, path)] if list_images(path) else [])


def _clips_in(folder: Path) -> list[Source]:
    entries = sorted(folder.iterdir(), key=lambda entry: natural_key(entry.name))
    return [Source(entry.name if entry.is_dir() else entry.stem, entry) for entry in entries if _is_clip(entry)]


def _is_clip(entry: Path) -> bool:
    if entry.name.startswith("."):  # what other systems leave behind beside a video has its name and suffix
        return False
    if entry.is_dir():
        return bool(list_images(entry))
    return entry.suffix.lower() in VIDEO_SUFFIXES


def _folder_shape(folder: Path) -> VideoInfo | None:
    for picture in list_images(folder):
        try:
            width_px, height_px = dataset_image_size(picture.read_bytes())
        except (BadFrame, OSError):
            continue
        return VideoInfo(width_px, height_px, DEFAULT_FPS)
    return None


def _video_shape(path: Path) -> VideoInfo | None:
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rate = stream.average_rate
            return VideoInfo(stream.width, stream.height, float(rate) if rate else DEFAULT_FPS)
    except (av.FFmpegError, IndexError):
        return None


def _decoded_folder(folder: Path, spec: ClipSpec) -> Iterator[Frame | str]:
    for picture in list_images(folder):
        try:
            yield decode_dataset_image(picture.read_bytes(), spec)
        except (BadFrame, OSError) as error:
            yield f"{picture}: {error}"


def _decoded_video(path: Path, spec: ClipSpec) -> Iterator[Frame | str]:
    for picture in _video_pictures(path):
        yield picture if isinstance(picture, str) else fit_frame(_bgr(picture), spec)


def _video_pictures(path: Path) -> Iterator[Any]:
    """What PyAV decodes; a line of text in the place of the frame at which it gives up."""
    import av

    try:
        with av.open(str(path)) as container:
            yield from container.decode(video=0)
    except (av.FFmpegError, IndexError) as error:
        yield f"{path}: {error}"


def _bgr(picture: Any) -> NDArray[np.uint8]:
    return np.asarray(picture.to_ndarray(format="bgr24"), dtype=np.uint8)
