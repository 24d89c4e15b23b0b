"""The cameras of a training run: one, or several that one network shall serve.

Footage of several cameras is told apart by :attr:`trainer.data.footage.Footage.camera`, and its clips are named ``CAMERA/CLIP``.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, median_low

from deploy.errors import ConfigError
from deploy.spec import ClipSpec
from deploy.video import VideoInfo
from trainer.data.clips import Split, excerpts, split_by_video, split_off_last_tenth
from trainer.data.datasets import is_plain_footage, training_sources
from trainer.data.footage import Footage, LoadFootage, Source, footage_info, load_all_footage


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
