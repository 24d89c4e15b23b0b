"""Decoded footage as training data: a cache of frames on disk, the split into parts, clips as windows of frames, and cameras.

Footage of several cameras is told apart by :attr:`trainer.data.footage.Footage.camera`, and its clips are named ``CAMERA/CLIP``.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median, median_low

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import replace_file
from deploy.engine import Clips
from deploy.errors import ConfigError
from deploy.image import Frame
from deploy.spec import ClipSpec
from deploy.video import VideoInfo
from trainer.data.annotations import AnnotatedClip
from trainer.data.datasets import is_plain_footage, training_sources
from trainer.data.footage import Footage, LoadFootage, Source, collect_frames, decode_frames, footage_info, load_all_footage
from trainer.errors import TooLittleFootage

VALIDATION_SHARE = 0.2
STRETCH_FRAMES = 2560
"""Of one long video, the end of each stretch of about this length is kept for validation."""
_MOST_STRETCHES = 6

EXCERPT_FRAMES = 256
LEAD_FRAMES = 64
"""Frames before a cut that stay at hand: as many as build up the state of a recurrent model."""

_BLOCKS, _BLOCK_FRAMES = 8, (32, 128)
_AREA_TOLERANCE = 0.15
_MAX_SIDE_PX = 2048


@dataclass(frozen=True, slots=True)
class FrameCache:
    """A folder of decoded clips: footage is decoded once, also if the run is interrupted, and need not fit into memory.

    A clip has two files, named by a hash of its files' paths, sizes and times and of the clip spec: raw frames, which are
    memory-mapped, and a JSON that is written last.
    """

    folder: Path
    on_frame: Callable[[], None] = lambda: None
    """Called for every frame that is decoded."""

    def load(self, source: Source, spec: ClipSpec) -> Footage:
        """The clip's frames, read-only; decoded if they are not in the cache."""
        name = _cache_name(source, spec)
        frames_path, index_path = self.folder / f"{name}.raw", self.folder / f"{name}.json"
        if not index_path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            with frames_path.open("wb") as file:
                outcomes = self._counted(decode_frames(source, spec))
                index, total, problems = collect_frames(outcomes, lambda frame: file.write(frame.tobytes()))
            replace_file(index_path, json.dumps({"index": index, "total": total, "problems": problems}).encode())
        content = json.loads(index_path.read_text())
        numbers = np.asarray(content["index"], np.int64)
        shape = (len(numbers), *spec.frame_shape)
        # An empty file cannot be mapped.
        frames = np.memmap(frames_path, np.uint8, "r", shape=shape) if len(numbers) else np.empty(shape, np.uint8)
        return Footage(source.name, frames, numbers, content["total"], tuple(content["problems"]))

    def _counted(self, outcomes: Iterable[Frame | str]) -> Iterator[Frame | str]:
        for outcome in outcomes:
            self.on_frame()
            yield outcome


def _cache_name(source: Source, spec: ClipSpec) -> str:
    files = [source.path] if source.is_video else sorted(source.path.iterdir())
    stats = [(str(file.resolve()), (status := file.stat()).st_size, status.st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([spec.model_dump(), stats]).encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class ClipDataset:
    """Every run of ``length`` consecutive readable frames of one video, numbered through all footage; made on demand."""

    footage: tuple[Footage, ...]
    length: int

    def __len__(self) -> int:
        return sum(self._counts())

    def locate(self, number: int) -> tuple[Footage, int]:
        """The video of a clip, and the number of the clip's first frame in it."""
        starts = np.cumsum([0, *self._counts()])
        video = int(np.searchsorted(starts, number, side="right")) - 1
        return self.footage[video], number - int(starts[video])

    def take(self, indices: NDArray[np.int64]) -> Clips:
        """The clips with these numbers, uint8 (N, T, H, W, C)."""
        starts = np.cumsum([0, *self._counts()])
        videos = np.searchsorted(starts, indices, side="right") - 1
        firsts = indices - starts[videos]
        pairs = zip(videos, firsts, strict=True)
        return np.stack([self.footage[video].frames[first : first + self.length] for video, first in pairs])

    def evenly_spaced(self, count: int, batch_size: int) -> Iterator[Clips]:
        """Batches of at most ``count`` clips, spread evenly over the data set."""
        return self._batches(np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).astype(np.int64)), batch_size)

    def batches(self, batch_size: int) -> Iterator[Clips]:
        """Batches of all clips, in order."""
        return self._batches(np.arange(len(self)), batch_size)

    def _batches(self, indices: NDArray[np.int64], batch_size: int) -> Iterator[Clips]:
        for first in range(0, len(indices), batch_size):
            yield self.take(indices[first : first + batch_size])

    def _counts(self) -> list[int]:
        return [max(0, len(footage.frames) - self.length + 1) for footage in self.footage]


def choose_frame_size(info: VideoInfo, area_px: int, step_px: int) -> tuple[int, int]:
    """Height and width for a network, multiples of ``step_px``: about ``area_px`` in area, the footage's aspect, never enlarged.

    Among sizes of equal aspect the one nearest in area, so that footage of just that size is not scaled at all.
    """
    area = min(area_px, info.width_px * info.height_px)
    aspect = info.width_px / info.height_px
    sides = range(step_px, _MAX_SIDE_PX + 1, step_px)
    near = [(h, w) for h in sides for w in sides if abs(h * w / area - 1) <= _AREA_TOLERANCE]
    if not near:
        height, width = ((area / aspect) ** 0.5, (area * aspect) ** 0.5)
        return max(step_px, round(height / step_px) * step_px), max(step_px, round(width / step_px) * step_px)

    def mismatch(size: tuple[int, int]) -> tuple[float, float]:
        height, width = size
        return round(abs(np.log(width / height / aspect)), 3), abs(height * width / area - 1)

    return min(near, key=mismatch)


@dataclass(frozen=True, slots=True)
class Split:
    """The parts of some footage."""

    train: tuple[Footage, ...]
    validation: tuple[Footage, ...]
    """Not trained on: for validation, ranges and thresholds."""
    holdout: tuple[Footage, ...] = ()
    """Used for nothing but the report at the end."""
    annotated: tuple[AnnotatedClip, ...] = ()
    """Operators' feedback, trained on beside ``train`` by models that can."""


def split_by_video(footage: list[Footage], length: int) -> Split:
    """Keep about a fifth for validation: whole videos, spread over the list; of a single video the last fifth of each stretch.

    Raises:
        TooLittleFootage: a part has no full clip of ``length`` frames.
    """
    if len(footage) == 1:
        count = min(max(len(footage[0].frames) // STRETCH_FRAMES, 1), _MOST_STRETCHES)
        stretches = [_cut(part, round(len(part.frames) * (1 - VALIDATION_SHARE))) for part in _equal_parts(footage[0], count)]
        split = Split(tuple(before for before, _ in stretches), tuple(after for _, after in stretches))
    else:
        count = max(1, round(len(footage) * VALIDATION_SHARE))
        # Spread evenly, because neighbours in a data set are often the same hour of the same place.
        chosen = {int((number + 0.5) * len(footage) / count) for number in range(count)}
        train = tuple(video for number, video in enumerate(footage) if number not in chosen)
        split = Split(train, tuple(footage[number] for number in sorted(chosen)))
    for part in (split.train, split.validation):
        if len(ClipDataset(part, length)) == 0:
            frames = sum(len(video.frames) for video in footage)
            raise TooLittleFootage(
                f"{frames} frames in {len(footage)} videos leave no clip of {length} frames for training or for validation; "
                f"give at least {length * 10} frames of one video, or two videos of {length} frames"
            )
    return split


def split_off_last_tenth(footage: list[Footage]) -> tuple[list[Footage], tuple[Footage, ...]]:
    """Divide the footage before the last tenth of its frames, in the order of the list; a video may be cut in two."""
    cut = round(sum(len(video.frames) for video in footage) * (1 - 0.1))
    first: list[Footage] = []
    last: list[Footage] = []
    for video in footage:
        before, after = _cut(video, min(max(cut, 0), len(video.frames)))
        first += [before] if len(before.frames) else []
        last += [after] if len(after.frames) else []
        cut -= len(video.frames)
    return first, tuple(last)


def excerpts(footage: Sequence[Footage], frames: int) -> tuple[Footage, ...]:
    """About ``frames`` frames of the footage: stretches of ``EXCERPT_FRAMES``, spread evenly. All of it, if it has no more."""
    if sum(len(video.frames) for video in footage) <= frames:
        return tuple(footage)
    starts = [(video, first) for video in footage for first in range(0, len(video.frames), EXCERPT_FRAMES)]
    chosen = np.unique(np.linspace(0, len(starts) - 1, max(1, round(frames / EXCERPT_FRAMES))).astype(int))
    return tuple(_cut(_cut(starts[number][0], starts[number][1])[1], EXCERPT_FRAMES)[0] for number in chosen)


def alternate_blocks(footage: Sequence[Footage]) -> tuple[tuple[Footage, ...], tuple[Footage, ...]]:
    """Divide footage into halves: blocks of some ten seconds take turns, so that each half sees all of the time."""
    target = min(_BLOCK_FRAMES[1], max(_BLOCK_FRAMES[0], sum(len(video.frames) for video in footage) // _BLOCKS))
    least = 2 if len(footage) == 1 else 1
    blocks = [part for video in footage for part in _equal_parts(video, max(least, len(video.frames) // target))]
    return tuple(blocks[::2]), tuple(blocks[1::2])


def _equal_parts(video: Footage, count: int) -> list[Footage]:
    ends = np.linspace(0, len(video.frames), count + 1).round().astype(int).tolist()
    return [_cut(_cut(video, last)[0], first)[1] for first, last in pairwise(ends)]


def _cut(video: Footage, position: int) -> tuple[Footage, Footage]:
    before, _ = video.part(position, position, LEAD_FRAMES)
    return (
        replace(video, frames=video.frames[:position], index=video.index[:position]),
        replace(video, frames=video.frames[position:], index=video.index[position:], before=before if len(before) else None),
    )


@dataclass(frozen=True, slots=True)
class Camera:
    """One camera's normal footage on disk."""

    name: str
    """Empty if it is the only camera."""
    sources: tuple[Source, ...]
    info: VideoInfo
    sets_last_tenth_aside: bool
    """Plain footage does; a data set has test clips instead."""

    def load(self, spec: ClipSpec, done: Callable[[Footage], None], load: LoadFootage) -> list[Footage]:
        """Decode all clips, calling ``done`` with each. Raises NoFootage if none has a readable frame."""
        return [replace(clip, camera=self.name) for clip in load_all_footage(list(self.sources), spec, done, load)]


def find_cameras(paths: Sequence[Path]) -> list[Camera]:
    """The camera whose footage is at each path.

    Raises:
        ConfigError: there is no path, or one is given twice.
        NoFootage: a path has no usable footage.
    """
    names = _names(paths)
    return [_find_camera(name, path) for name, path in zip(names, paths, strict=True)]


def _find_camera(name: str, path: Path) -> Camera:
    sources = training_sources(path)
    info = footage_info(sources)
    if name:
        sources = [replace(source, name=f"{name}/{source.name}") for source in sources]
    return Camera(name, tuple(sources), info, is_plain_footage(path))


def _names(paths: Sequence[Path]) -> list[str]:
    """A name for each camera: of its file or folder; where those are not all different, the whole path."""
    if not paths:
        raise ConfigError("--data is missing; give normal footage, once for each camera")
    whole = [path.resolve() for path in paths]
    twice = next((path for number, path in enumerate(whole) if path in whole[:number]), None)
    if twice is not None:
        raise ConfigError(f"--data gives {twice} twice; give each camera's footage once")
    if len(paths) == 1:
        return [""]
    short = [path.stem if path.is_file() else path.name for path in whole]
    return short if len(set(short)) == len(short) else [str(path) for path in whole]


def common_info(cameras: Sequence[Camera]) -> VideoInfo:
    """Size and frame rate that suit all cameras: the median aspect and area, and the median rate (the lower one of two).

    The rate is one that a camera really has. Motion is measured per frame and relative to what is usual at each camera, so the
    others lose little; the rate only tells how long things last.
    """
    if len(cameras) == 1:
        return cameras[0].info
    sizes = [(camera.info.width_px, camera.info.height_px) for camera in cameras]
    aspect = math.exp(median(math.log(width / height) for width, height in sizes))
    area_px = math.exp(median(math.log(width * height) for width, height in sizes))
    fps = median_low(camera.info.fps for camera in cameras)
    return VideoInfo(round(math.sqrt(area_px * aspect)), round(math.sqrt(area_px / aspect)), fps)


def split_cameras(cameras: Sequence[Camera], footage: Sequence[Sequence[Footage]], length: int) -> Split:
    """Split the footage of each camera by itself: every camera has a part in training and in validation.

    Raises:
        TooLittleFootage: a camera has no full clip of ``length`` frames in one of the two.
    """
    parts = [_split_camera(camera, clips, length) for camera, clips in zip(cameras, footage, strict=True)]
    return Split(
        train=tuple(clip for part in parts for clip in part.train),
        validation=tuple(clip for part in parts for clip in part.validation),
        holdout=tuple(clip for part in parts for clip in part.holdout),
    )


def _split_camera(camera: Camera, clips: Sequence[Footage], length: int) -> Split:
    learnable, holdout = split_off_last_tenth(list(clips)) if camera.sets_last_tenth_aside else (list(clips), ())
    return replace(split_by_video(learnable, length), holdout=holdout)


def group_by_camera(footage: Iterable[Footage]) -> list[tuple[Footage, ...]]:
    """The clips of each camera, in the order in which the cameras first come."""
    groups: dict[str, list[Footage]] = {}
    for clip in footage:
        groups.setdefault(clip.camera, []).append(clip)
    return [tuple(group) for group in groups.values()]


def balanced(footage: Sequence[Footage]) -> tuple[Footage, ...]:
    """The footage with no camera longer than the median camera; of one camera all of it."""
    groups = group_by_camera(footage)
    most = int(median(sum(len(clip.frames) for clip in group) for group in groups))
    return tuple(clip for group in groups for clip in excerpts(group, most))
