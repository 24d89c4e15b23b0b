"""Decoded footage to clips: split by video, windows for training and scoring.

Decoded frames on disk: footage is decoded once a run, also when the run is interrupted, and needs not fit into memory.

Two files a clip, named after what they were made from: raw frames, memory-mapped when used, and a JSON that is written last.
A clip whose files changed, or another clip spec, has another name.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.engine import Clips
from deploy.image import Frame
from deploy.spec import ClipSpec
from deploy.video import VideoInfo
from trainer.data.annotations import AnnotatedClip
from trainer.data.footage import Footage, Source, decode_frames
from trainer.errors import TooLittleFootage


@dataclass(frozen=True, slots=True)
class FrameCache:
    """A folder of decoded clips."""

    folder: Path
    on_frame: Callable[[], None] = lambda: None
    """Told of every frame that is decoded."""

    def load(self, source: Source, spec: ClipSpec) -> Footage:
        """The clip's frames, decoded unless that was done before; read-only."""
        name = _name(source, spec)
        frames, card = self.folder / f"{name}.raw", self.folder / f"{name}.json"
        if not card.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            content = _decode_into(frames, self._ticked(decode_frames(source, spec)))
            card.with_suffix(".new").write_text(json.dumps(content))
            card.with_suffix(".new").replace(card)
        return _footage(source.name, frames, json.loads(card.read_text()), spec)

    def _ticked(self, outcomes: Iterable[Frame | str]) -> Iterator[Frame | str]:
        for outcome in outcomes:
            self.on_frame()
            yield outcome


def _decode_into(path: Path, outcomes: Iterable[Frame | str]) -> dict[str, Any]:
    """Write every readable frame; where they were in the source, and what could not be read."""
    index: list[int] = []
    problems: list[str] = []
    place = -1
    with path.open("wb") as file:
        for place, outcome in enumerate(outcomes):
            if isinstance(outcome, str):
                problems.append(outcome)
            else:
                index.append(place)
                file.write(outcome.tobytes())
    return {"index": index, "total": place + 1, "problems": problems}


def _footage(name: str, path: Path, content: dict[str, Any], spec: ClipSpec) -> Footage:
    index = np.asarray(content["index"], np.int64)
    return Footage(name, _mapped(path, (len(index), *spec.frame_shape)), index, content["total"], tuple(content["problems"]))


def _mapped(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    # An empty file cannot be mapped.
    return np.memmap(path, np.uint8, "r", shape=shape) if shape[0] else np.empty(shape, np.uint8)


def _name(source: Source, spec: ClipSpec) -> str:
    files = [source.path] if source.is_video else sorted(source.path.iterdir())
    marks = [(str(file.resolve()), *_stamp(file)) for file in files]
    return hashlib.sha256(json.dumps([spec.model_dump(), marks]).encode()).hexdigest()[:24]


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


HELD_OUT_SHARE = 0.2
SET_ASIDE_SHARE = 0.1

_AREA_TOLERANCE = 0.15


@dataclass(frozen=True, slots=True)
class Split:
    """Footage to learn from, and footage held out for validation and calibration."""

    train: tuple[Footage, ...]
    validation: tuple[Footage, ...]
    holdout: tuple[Footage, ...] = ()
    """Neither learned from nor calibrated on: looked at when all is done."""
    annotated: tuple[AnnotatedClip, ...] = ()
    """What operators said; learned from beside ``fit``, where a model can."""


@dataclass(frozen=True, slots=True)
class ClipDataset:
    """All full clips of some footage, made when asked for: every run of ``length`` readable frames of one video."""

    footage: tuple[Footage, ...]
    length: int

    def __len__(self) -> int:
        return sum(self._counts())

    def take(self, numbers: NDArray[np.int64]) -> Clips:
        """The clips with these numbers, uint8 (N, T, H, W, C); clips are numbered through all footage in order."""
        starts = np.cumsum([0, *self._counts()])
        videos = np.searchsorted(starts, numbers, side="right") - 1
        return np.stack([self._clip(int(v), int(n - starts[v])) for v, n in zip(videos, numbers, strict=True)])

    def evenly_spaced(self, count: int, size: int) -> Iterator[Clips]:
        """At most ``count`` clips at even distances, ``size`` at a time."""
        numbers = np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).astype(np.int64))
        for first in range(0, len(numbers), size):
            yield self.take(numbers[first : first + size])

    def batches(self, size: int) -> Iterator[Clips]:
        """All clips in order, ``size`` at a time."""
        for first in range(0, len(self), size):
            yield self.take(np.arange(first, min(first + size, len(self))))

    def _counts(self) -> list[int]:
        return [max(0, len(footage.frames) - self.length + 1) for footage in self.footage]

    def _clip(self, video: int, first: int) -> NDArray[np.uint8]:
        return self.footage[video].frames[first : first + self.length]


def choose_frame_size(shape: VideoInfo, area_px: int, step_px: int) -> tuple[int, int]:
    """Height and width, multiples of ``step_px``, near ``area_px`` in area and nearest to the footage's aspect; never enlarges.

    Of sizes of the same aspect the one nearest in area, so that footage of just that size is not scaled at all.
    """
    area = min(area_px, shape.width_px * shape.height_px)
    aspect = shape.width_px / shape.height_px
    sides = range(step_px, 2049, step_px)
    near = [(h, w) for h in sides for w in sides if abs(h * w / area - 1) <= _AREA_TOLERANCE]

    def misfit(size: tuple[int, int]) -> tuple[float, float]:
        height, width = size
        return round(abs(np.log(width / height / aspect)), 3), abs(height * width / area - 1)

    return min(near or [_nearest_size(area, aspect, step_px)], key=misfit)


def split_by_video(footage: list[Footage], length: int) -> Split:
    """Hold out about a fifth: whole videos, spread over the list; the last fifth in time of a single video.

    Raises:
        TooLittleFootage: a part has no full clip of ``length`` frames.
    """
    split = _split_in_time(footage[0]) if len(footage) == 1 else _split_whole(footage)
    for part in (split.train, split.validation):
        if len(ClipDataset(part, length)) == 0:
            frames = sum(len(video.frames) for video in footage)
            raise TooLittleFootage(
                f"{frames} frames in {len(footage)} videos leave no clip of {length} frames to learn from or to hold out; "
                f"give at least {length * 10} frames of one video, or two videos of {length} frames"
            )
    return split


def split_off_last_tenth(footage: list[Footage]) -> tuple[list[Footage], tuple[Footage, ...]]:
    """The footage without the last tenth of its frames, in the order of the list, and that tenth; a video may be cut in two."""
    cut = round(sum(len(video.frames) for video in footage) * (1 - SET_ASIDE_SHARE))
    kept: list[Footage] = []
    last: list[Footage] = []
    for video in footage:
        before, after = _cut(video, min(max(cut, 0), len(video.frames)))
        kept += [before] if len(before.frames) else []
        last += [after] if len(after.frames) else []
        cut -= len(video.frames)
    return kept, tuple(last)


def clip_windows(frames: NDArray[np.uint8], spec: ClipSpec, size: int) -> Iterator[tuple[int, Clips]]:
    """Batches of the clips that end at each frame from ``length - 1`` on, with the number of the first one's last frame."""
    last = spec.length - 1
    for first in range(last, len(frames), size):
        ends = range(first, min(first + size, len(frames)))
        yield first, np.stack([frames[end - last : end + 1] for end in ends])


def _nearest_size(area: int, aspect: float, step_px: int) -> tuple[int, int]:
    height = max(step_px, round((area / aspect) ** 0.5 / step_px) * step_px)
    width = max(step_px, round((area * aspect) ** 0.5 / step_px) * step_px)
    return height, width


def _split_whole(footage: list[Footage]) -> Split:
    count = max(1, round(len(footage) * HELD_OUT_SHARE))
    # Spread evenly, because neighbours in a data set are often the same hour of the same place.
    chosen = {int((number + 0.5) * len(footage) / count) for number in range(count)}
    return Split(
        train=tuple(video for number, video in enumerate(footage) if number not in chosen),
        validation=tuple(footage[number] for number in sorted(chosen)),
    )


def _split_in_time(video: Footage) -> Split:
    fit, held_out = _cut(video, round(len(video.frames) * (1 - HELD_OUT_SHARE)))
    return Split((fit,), (held_out,))


def _cut(video: Footage, place: int) -> tuple[Footage, Footage]:
    """The readable frames before a place and those from it on; both keep the places that they have in the source."""
    return (
        replace(video, frames=video.frames[:place], index=video.index[:place]),
        replace(video, frames=video.frames[place:], index=video.index[place:]),
    )
