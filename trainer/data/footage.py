"""Finds footage on disk and decodes it exactly as the streamer does.

Footage is a folder of images, a folder of such folders, a folder of videos, a video file, or one split of a data set:
``frames/CLIP/*.jpg|png|tif|bmp`` and ``videos/CLIP.*``. :mod:`trainer.data.datasets` knows the splits of data sets.
Files are untrusted; the limits on bytes and pixels are those of :mod:`deploy.image`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from deploy.dwell import reduce_frame
from deploy.errors import BadFrame, VideoUnreadable
from deploy.image import Frame, decode_image, fit_frame, image_size, imdecode, natural_key
from deploy.spec import ClipSpec
from deploy.video import AvFrame, VideoInfo, open_video, to_bgr
from trainer.errors import NoFootage

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset({".avi", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm"})
DEFAULT_FPS = 10.0
"""Assumed for footage that does not state its frame rate."""

_TIFF_OR_BMP = (b"II*\0", b"MM\0*", b"BM")
"""First bytes of the formats in which some data sets are published; the service does not accept them."""
_PROBLEMS_SHOWN = 5

MOST_FRAMES = 54_000
"""Frames of one camera that are looked at one after the other, at most: an hour and a half at 10 frames/s."""
WINDOW_FRAMES = 3000
"""Of longer footage, windows of this length are looked at."""


@dataclass(frozen=True, slots=True)
class Source:
    """One clip on disk: a folder of images or a video file."""

    name: str
    path: Path

    @property
    def is_video(self) -> bool:
        return self.path.is_file()


@dataclass(frozen=True, slots=True)
class Footage:
    """A decoded clip, fitted to a spec."""

    name: str
    frames: NDArray[np.uint8]
    """uint8 (n, H, W, C): the readable frames, in order."""
    index: NDArray[np.int64]
    """int64 (n,): the number of each readable frame in the source, from 0."""
    total: int
    """Frames of the source, unreadable ones included."""
    problems: tuple[str, ...]
    """One line for each unreadable frame."""
    camera: str = ""
    """Name of the camera, where there are several."""
    before: NDArray[np.uint8] | None = None
    """uint8 (m, H, W, C): frames that come just before, of footage that was cut out of a clip. They build up the state of a
    recurrent model and are used for nothing else."""

    def part(self, first: int, last: int, lead: int) -> tuple[NDArray[np.uint8], int]:
        """Frames ``first`` to ``last`` (exclusive) after at most ``lead`` frames from before them, and how many these are."""
        begin = first - lead
        frames = self.frames[max(0, begin) : last]
        if begin >= 0 or self.before is None:
            return frames, first - max(0, begin)
        earlier = self.before[begin:]
        return np.concatenate([earlier, frames]), first + len(earlier)


class PlaceFootage(NamedTuple):
    """Ordinary footage of one camera reduced to places (:mod:`deploy.dwell`), which makes hours of it fit into memory."""

    stretches: Sequence[NDArray[np.uint8]]
    """Consecutive frames, (n, a, b) with n > 0 each."""
    fps: float


LoadFootage = Callable[[Source, ClipSpec], Footage]


class Block(NamedTuple):
    """Consecutive frames of a clip."""

    clip: int  # number of the clip
    first: int
    last: int  # exclusive


def plan_windows(counts: Sequence[int]) -> list[Block]:
    """What is looked at of clips with so many frames: all, or of long footage windows that are spread evenly over it."""
    total = sum(counts)
    if total <= MOST_FRAMES:
        return [Block(clip, 0, count) for clip, count in enumerate(counts) if count]
    windows = [
        Block(clip, first, min(first + WINDOW_FRAMES, count))
        for clip, count in enumerate(counts)
        for first in range(0, count, WINDOW_FRAMES)
    ]
    return spread(windows, len(windows) * MOST_FRAMES // total)


def spread(blocks: Sequence[Block], most: int) -> list[Block]:
    """At most so many of the blocks, spread evenly."""
    return [blocks[number] for number in np.unique(np.linspace(0, len(blocks) - 1, min(most, len(blocks))).astype(int))]


def reduced_footage(footage: Sequence[Footage], fps: float) -> PlaceFootage:
    """Footage of one camera reduced to places; of long footage some windows."""
    windows = plan_windows([len(clip.frames) for clip in footage])
    return PlaceFootage([np.stack([*map(reduce_frame, footage[clip].frames[first:last])]) for clip, first, last in windows], fps)


def find_sources(path: Path) -> list[Source]:
    """The clips in a folder, or the one video file, in natural order of their names. Raises NoFootage if there are none."""
    if not path.exists():
        raise NoFootage(f"{path}: no such file or folder; give a folder of images, a folder of videos or a video file")
    sources = _sources(path)
    if not sources:
        raise NoFootage(
            f"{path}: no footage; expected training/ or frames/CLIP/*.jpg|png or videos/CLIP.*, a folder of images, "
            f"or a video file ({', '.join(sorted(VIDEO_SUFFIXES))}); `oddsight-train datasets` lists all supported layouts"
        )
    return sources


def _sources(path: Path) -> list[Source]:
    if path.is_file():
        return [Source(path.stem, path)] if path.suffix.lower() in VIDEO_SUFFIXES else []
    in_split = [source for name in ("frames", "videos") if (path / name).is_dir() for source in _clips_in(path / name)]
    return in_split or _clips_in(path) or ([Source(path.name, path)] if list_images(path) else [])


def _clips_in(folder: Path) -> list[Source]:
    # Hidden files are left out: macOS leaves files such as ._gate.mp4 beside a video.
    entries = sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=natural_key)
    return [
        Source(entry.name if entry.is_dir() else entry.stem, entry)
        for entry in entries
        if (list_images(entry) if entry.is_dir() else entry.suffix.lower() in VIDEO_SUFFIXES)
    ]


def list_images(folder: Path) -> list[Path]:
    """The images of a folder, in natural order of their names, without hidden files."""
    found = [entry for entry in folder.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".")]
    return sorted(found, key=natural_key)


def footage_info(sources: list[Source]) -> VideoInfo:
    """Size and frame rate of the first source that has a readable frame. Raises NoFootage if none has."""
    for source in sources:
        if source.is_video:
            with suppress(VideoUnreadable), open_video(source.path) as video:
                return video.info(DEFAULT_FPS)
        for image in [] if source.is_video else list_images(source.path):
            with suppress(BadFrame, OSError):
                return VideoInfo(*dataset_image_size(image.read_bytes()), DEFAULT_FPS)
    raise _nothing_readable(sources)


def estimate_frame_count(source: Source) -> int:
    """The number of frames as the file states it, 0 where it does not; nothing is decoded."""
    if not source.is_video:
        return len(list_images(source.path))
    with suppress(VideoUnreadable), open_video(source.path) as video:
        return video.estimate_frame_count()
    return 0


def footage_sizes(sources: list[Source]) -> dict[str, int]:
    """Clip name -> bytes of its files: by this a network knows the footage that it was trained on."""
    files = {source.name: [source.path] if source.is_video else list_images(source.path) for source in sources}
    return {name: sum(file.stat().st_size for file in clip) for name, clip in files.items()}


def count_frames(source: Source) -> int:
    """The exact number of frames, as in :attr:`Footage.total`; a video is decoded for it."""
    return sum(1 for _ in _video_frames(source.path)) if source.is_video else len(list_images(source.path))


def load_footage(source: Source, spec: ClipSpec) -> Footage:
    """Decode a source into memory and fit its frames to ``spec``."""
    frames: list[Frame] = []
    index, total, problems = collect_frames(decode_frames(source, spec), frames.append)
    stacked = np.stack(frames) if frames else np.empty((0, *spec.frame_shape), np.uint8)
    return Footage(source.name, stacked, np.asarray(index, np.int64), total, tuple(problems))


def load_all_footage(
    sources: list[Source], spec: ClipSpec, done: Callable[[Footage], None] = lambda _: None, load: LoadFootage = load_footage
) -> list[Footage]:
    """Decode all sources, calling ``done`` with each, without those that have no readable frame. Raises NoFootage if none has."""
    clips: list[Footage] = []
    for source in sources:
        footage = load(source, spec)
        done(footage)
        if len(footage.frames):
            clips.append(footage)
    if not clips:
        raise _nothing_readable(sources)
    return clips


def _nothing_readable(sources: list[Source]) -> NoFootage:
    return NoFootage(f"none of {len(sources)} clips has a readable frame, the first is {sources[0].path}; check the files")


def collect_frames(outcomes: Iterable[Frame | str], add: Callable[[Frame], Any]) -> tuple[list[int], int, list[str]]:
    """Pass every readable frame of :func:`decode_frames` to ``add``; returns :class:`Footage`'s index, total and problems."""
    index: list[int] = []
    problems: list[str] = []
    number = -1
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, str):
            problems.append(outcome)
        else:
            index.append(number)
            add(outcome)
    return index, number + 1, problems


def decode_frames(source: Source, spec: ClipSpec) -> Iterator[Frame | str]:
    """Frames in order, uint8 (H, W, C), fitted to ``spec``; in place of an unreadable one a line saying why."""
    if source.is_video:
        for frame in _video_frames(source.path):
            yield frame if isinstance(frame, str) else fit_frame(to_bgr(frame), spec)
        return
    for image in list_images(source.path):
        try:
            yield decode_dataset_image(image.read_bytes(), spec)
        except (BadFrame, OSError) as error:
            yield f"{image}: {error}"


def _video_frames(path: Path) -> Iterator[AvFrame | str]:
    try:
        with open_video(path) as video:
            yield from video.frames()
    except VideoUnreadable as error:
        yield str(error)


def decode_dataset_image(encoded: bytes, spec: ClipSpec) -> Frame:
    """Decode one JPEG, PNG, TIFF or BMP and fit it to ``spec``; JPEG and PNG exactly as the service does. Raises BadFrame."""
    if not encoded.startswith(_TIFF_OR_BMP):
        return decode_image(encoded, spec).frame
    return fit_frame(imdecode(encoded, cv2.IMREAD_GRAYSCALE if spec.colour == "gray" else cv2.IMREAD_COLOR), spec)


def dataset_image_size(encoded: bytes) -> tuple[int, int]:
    """Width and height of one JPEG, PNG, TIFF or BMP. Raises BadFrame as :func:`deploy.image.decode_image`."""
    if not encoded.startswith(_TIFF_OR_BMP):
        return image_size(encoded)
    height_px, width_px = imdecode(encoded, cv2.IMREAD_GRAYSCALE).shape
    return width_px, height_px


def read_mask(path: Path) -> NDArray[np.bool_]:
    """An image as a mask, bool (H, W): True where it is not black. Raises BadFrame, and OSError if the file cannot be read."""
    encoded = path.read_bytes()
    if not encoded.startswith(_TIFF_OR_BMP):
        image_size(encoded)
    return imdecode(encoded, cv2.IMREAD_GRAYSCALE) > 0


def print_unreadable_frames(console: Console, footage: Footage) -> None:
    """Name the first unreadable frames of a clip, if there are any."""
    print_problems(console, footage.name, footage.problems, footage.total)


def print_problems(console: Console, clip: str, problems: Sequence[str], frames: int) -> None:
    """Name the first problems of a clip of so many frames, if there are any."""
    if not problems:
        return
    console.print(f"{clip}: {len(problems)} of {frames} frames unreadable, skipped:")
    for problem in problems[:_PROBLEMS_SHOWN]:
        console.print(f"  {problem}", markup=False, highlight=False)
