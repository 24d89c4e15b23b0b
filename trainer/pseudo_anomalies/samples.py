"""Training samples of the video model: crops of footage with optical flow, and crops with pasted objects.

Random numbers follow from the requested sample numbers alone, so that a run resumed from a checkpoint draws the same samples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from deploy.image import encode_jpeg, imdecode
from trainer.pseudo_anomalies.objects import PastedObject, anomalous_object, normal_object, textured_shape
from trainer.pseudo_anomalies.segments import (
    CameraView,
    DisFlow,
    GrayImage,
    PlacedCutout,
    SegmentedView,
    paint_mask,
    paste,
    view_weights,
)
from trainer.training.interfaces import NORMAL, Batch

CELL_PX = 4  # side of the cells in which flow is measured
SAMPLES = 1_000_000  # nominal length of an epoch; hardly any sample is ever seen twice

_STEPS = (1, 1, 2, 3)  # distances of frames: FlowNet should know higher speeds than those of its footage
_MOVING_PX = 0.3
_SHAPE_SHARE, _ANOMALOUS_SHARE = 0.35, 0.5
_SHAPE_SPEEDS_PX = (0.2, 6.0)
_OBJECTS = 6
# What happens to any camera, and is no anomaly of what it sees.
_SHAKE_SHARE, _SHAKE_PX = 0.15, 3
_COMPRESSED_SHARE, _QUALITIES = 0.1, (15, 60)
_EXPOSURE_SHARE, _EXPOSURE_STEP = 0.05, 0.2
_STILL_SHARE = 0.15  # scenes without motion: a stream's first frame is judged by looks alone, which motion would overshadow


@dataclass(frozen=True, slots=True)
class FlowExample:
    """A frame, the frames before it, and the flow between them."""

    frames: NDArray[np.uint8]  # uint8 (1 + history, H, W), the newest first
    flow: NDArray[np.float16]  # to the frame before, (H / 4, W / 4, 2), in pixels
    step: int  # distance of two consecutive frames of the example in the video


def flow_examples(
    views: Sequence[CameraView], history: Sequence[int], count: int, teacher: DisFlow, advance: Callable[[], None]
) -> list[FlowExample]:
    """About ``count`` evenly spaced examples of all videos, as many of each camera; calls ``advance`` for each."""
    total = sum(view.frames for view in views)
    weighted = zip(views, view_weights(views), strict=True)
    videos = [(video, weight / view.frames) for view, weight in weighted for video in view.videos]
    examples = []
    for video, weight in videos:
        of_video = max(1, round(count * (len(video) * weight) / total))
        for number in range(of_video):
            step = _STEPS[number % len(_STEPS)]
            oldest = step * history[-1]
            if len(video) > oldest:
                newest = oldest + number * (len(video) - oldest) // of_video
                frames = video[[newest - step * back for back in (0, *history)]]
                examples.append(FlowExample(frames, teacher.flow(frames[0], frames[1]).astype(np.float16), step))
            advance()
    return examples


class CropSamples:
    """Samples that are crops, drawn one after the other from one random generator; labels are not used."""

    def __len__(self) -> int:
        return SAMPLES

    def draw(self, numbers: Tensor) -> Batch:
        rng = np.random.default_rng(numbers.tolist())
        crops = [self._crop(index, rng) for index in range(len(numbers))]
        return Batch(torch.stack(crops), torch.full((len(crops),), NORMAL))

    def _crop(self, index: int, rng: Generator) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class FlowSamples(CropSamples):
    """Crops for FlowNet: float32 (N, 1 + history + 2, side, side), the frames, then the true flow of each pixel's cell."""

    examples: Sequence[FlowExample]
    history: tuple[int, ...]
    side_px: int  # at most the frames' height and width

    def _crop(self, index: int, rng: Generator) -> Tensor:
        example = self.examples[int(rng.integers(len(self.examples)))]
        top, left = self._corner(example, rng)
        side, cells = self.side_px, self.side_px // CELL_PX
        indices = frame_indices(len(self.history), rng, still=0.0)
        frames = example.frames[indices, top * CELL_PX :, left * CELL_PX :][:, :side, :side].astype(np.float32)
        flow = example.flow[top : top + cells, left : left + cells].astype(np.float32).transpose(2, 0, 1)  # (2, cells, cells)
        if rng.random() < _SHAPE_SHARE:
            flow = _with_shape(frames, flow, [(0, *self.history)[index] for index in indices], rng)
        shifts = _shake(len(frames), rng)
        frames, flow = _flipped(_shifted(frames, shifts), flow + shifts[1].astype(np.float32)[:, None, None], rng)
        pixel_flow = flow.repeat(CELL_PX, axis=1).repeat(CELL_PX, axis=2)  # (2, side, side)
        return torch.from_numpy(np.concatenate([_relit(frames, rng, 2.0), pixel_flow]))

    def _corner(self, example: FlowExample, rng: Generator) -> tuple[int, int]:  # in cells
        cells, (height, width) = self.side_px // CELL_PX, example.flow.shape[:2]
        rows, columns = np.nonzero(np.hypot(*example.flow.astype(np.float32).transpose(2, 0, 1)) > _MOVING_PX * example.step)
        if len(rows) and rng.random() < 0.8:  # near something that moves
            chosen = int(rng.integers(len(rows)))
            top, left = (int(at[chosen]) - cells // 2 + int(rng.integers(-6, 7)) for at in (rows, columns))
        else:
            top, left = int(rng.integers(height)), int(rng.integers(width))
        return max(0, min(top, height - cells)), max(0, min(left, width - cells))


@dataclass(frozen=True, slots=True)
class SceneSource:
    """What crops with pasted objects are made from."""

    views: Sequence[SegmentedView]
    history: tuple[int, ...]
    height_px: int = 144
    width_px: int = 216

    def random_view(self, rng: Generator) -> SegmentedView:
        """One of the views, each camera as likely; within a camera by the length of their videos."""
        weights = np.array(view_weights([view.view for view in self.views]))
        return self.views[int(rng.choice(len(self.views), p=weights / weights.sum()))]


@dataclass(frozen=True)
class PseudoAnomalySamples(CropSamples):
    """Crops for AnomalyNet: float32 (N, 2 (1 + history) + 4, height, width).

    Channels: the frames with pasted objects, the frames without, the share of each pixel that is anomalous, the share to ignore
    in the loss, and the pixel's position in the frame, -1 to 1 across, then down.
    """

    source: SceneSource

    def _crop(self, index: int, rng: Generator) -> Tensor:
        return composite_crop(self.source, self.source.random_view(rng), (), rng)[:-1]


def composite_crop(source: SceneSource, view: SegmentedView, extra: Sequence[PastedObject], rng: Generator) -> Tensor:
    """A crop of random frames of the view with random objects, and ``extra`` objects in front; see :meth:`SceneCanvas.crop`.

    It is placed around an anomalous or annotated object, if there is one.
    """
    offsets = (0, *source.history)
    indices = frame_indices(len(source.history), rng, still=_STILL_SHARE)
    canvas = SceneCanvas.of(random_frames(view.view, offsets, rng)[indices])
    centre = None
    for pasted in (*random_objects(view, offsets, rng), *extra):
        canvas.add(pasted, indices)
        centre = centre if centre and not (pasted.anomalous or pasted.annotated) else pasted.frames[0]
    at = centre and (centre.y, centre.x)
    return canvas.crop(crop_window((source.height_px, source.width_px), view.frame_px, at, rng), rng)


@dataclass(slots=True)
class SceneCanvas:
    """Frames with pasted objects, and the masks that go with them."""

    frames: NDArray[np.float32]  # (1 + history, H, W), the newest first
    clean: NDArray[np.float32]  # the frames before anything was pasted
    anomalous: GrayImage
    ignored: GrayImage
    annotated: GrayImage  # where an operator's annotation applies

    @classmethod
    def of(cls, clean: NDArray[np.uint8]) -> "SceneCanvas":
        """A canvas of frames (1 + history, H, W), the newest first."""
        empty = np.zeros(clean.shape[1:], np.float32)
        return cls(clean.astype(np.float32), clean.astype(np.float32), empty, empty.copy(), empty.copy())

    def add(self, pasted: PastedObject, indices: list[int]) -> None:
        """Paste an object. Without motion an anomaly of motion alone cannot be recognised, so it is ignored."""
        for frame, index in zip(self.frames, indices, strict=True):
            paste(frame, pasted.frames[index])
        visible = pasted.anomalous and (pasted.abnormal_looks or any(indices))
        paint_mask(self.anomalous, pasted.frames[0], float(visible))
        paint_mask(self.ignored, pasted.frames[0], float(pasted.anomalous and not visible))
        paint_mask(self.annotated, pasted.frames[0], float(pasted.annotated))

    def crop(self, window: tuple[slice, slice], rng: Generator) -> Tensor:
        """The channels of a :class:`PseudoAnomalySamples` sample inside ``window``, augmented, and ``annotated`` at the end."""
        count, (height, width) = len(self.frames), self.anomalous.shape
        down, across = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
        frames = np.concatenate([self.frames, self.clean])[:, *window]
        masks = np.stack([self.anomalous, self.ignored, self.annotated])[:, *window]
        if rng.random() < 0.5:  # mirror the content, but not the position
            frames, masks = frames[:, :, ::-1], masks[:, :, ::-1]
        lit = _relit(_disturbed(frames.reshape(2, count, *frames.shape[1:]), rng), rng, 1.5).reshape(frames.shape)
        return torch.from_numpy(np.concatenate([lit, masks[:2], np.stack([across, down])[:, *window], masks[2:]]))


def frame_indices(history: int, rng: Generator, *, still: float) -> list[int]:
    """Which frame to show at each position: sometimes those of a stream that has just begun, where older frames are missing.

    ``still``: probability that there is a single frame.
    """
    luck = rng.random()
    if luck < still:
        return [0] * (1 + history)
    if luck < still + 0.08:
        return [0] + [1] * history
    if luck < still + 0.12:
        return [0, 1] + [2] * (history - 1)
    return list(range(1 + history))


def _with_shape(frames: NDArray[np.float32], flow: GrayImage, offsets: list[int], rng: Generator) -> GrayImage:
    side = frames.shape[1]
    shape = textured_shape(rng.uniform(14, 44), rng)  # it teaches that not only people move
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.5 else rng.choice([0, np.pi]) + rng.normal(0, 0.15)
    velocity = np.exp(rng.uniform(*np.log(_SHAPE_SPEEDS_PX))) * np.array([np.cos(angle), np.sin(angle)])
    height, width = shape.image.shape
    x, y = rng.uniform(-10, side - width + 10), rng.uniform(-10, side - height + 10)
    for frame, earlier in zip(frames, offsets, strict=True):
        paste(frame, PlacedCutout(shape, x - velocity[0] * earlier, y - velocity[1] * earlier))
    mask = np.zeros((side, side), np.float32)
    paint_mask(mask, PlacedCutout(shape, x, y))
    covered = mask.reshape(side // CELL_PX, CELL_PX, side // CELL_PX, CELL_PX).mean(axis=(1, 3))  # (cells, cells)
    return np.asarray(flow * (1 - covered) - covered * velocity[:, None, None], np.float32)


def _flipped(frames: NDArray[np.float32], flow: GrayImage, rng: Generator) -> tuple[NDArray[np.float32], GrayImage]:
    if rng.random() < 0.5:
        frames, flow = frames[:, :, ::-1], flow[:, :, ::-1] * np.array([-1, 1], np.float32)[:, None, None]
    if rng.random() < 0.3:
        frames, flow = frames[:, ::-1], flow[:, ::-1] * np.array([1, -1], np.float32)[:, None, None]
    if rng.random() < 0.2:
        frames, flow = frames.transpose(0, 2, 1), flow.transpose(0, 2, 1)[::-1]
    return frames, flow


def _relit(frames: NDArray[np.float32], rng: Generator, noise: float) -> NDArray[np.float32]:
    grain = rng.normal(0, noise, frames.shape[-3:]).astype(np.float32)
    lit = (frames - 128) * rng.uniform(0.7, 1.3) + 128 + rng.uniform(-25, 25) + grain
    return np.asarray(np.clip(lit, 0, 255), np.float32)


def _disturbed(frames: NDArray[np.float32], rng: Generator) -> NDArray[np.float32]:
    """Frames (2, 1 + history, H, W) as a shaken camera sees them, compressed, or with a step of exposure; most are unchanged.

    A model that learns these as normal does not mistake them for anomalies.
    """
    disturbed, stands_still = frames, np.array_equal(*frames[1, :2])  # of a stream's first frame there is no other to differ from
    if not stands_still:
        shifts = _shake(frames.shape[1], rng)
        disturbed = np.stack([_shifted(part, shifts) for part in frames])
    if not stands_still and rng.random() < _EXPOSURE_SHARE:
        disturbed[:, 1:] *= 1 + rng.uniform(-_EXPOSURE_STEP, _EXPOSURE_STEP)
    if rng.random() < _COMPRESSED_SHARE:
        quality = int(rng.integers(*_QUALITIES))
        disturbed = np.stack([np.stack([_compressed(frame, quality) for frame in part]) for part in disturbed])
    return disturbed


def _shake(count: int, rng: Generator) -> NDArray[np.int64]:
    """How far each of ``count`` frames is shifted right and down, in pixels, (count, 2); the first, the newest, is not."""
    if rng.random() >= _SHAKE_SHARE:
        return np.zeros((count, 2), np.int64)
    most = int(rng.integers(1, _SHAKE_PX + 1))
    shifts = rng.integers(-most, most + 1, (count, 2))
    shifts[0] = 0
    return shifts


def _shifted(frames: NDArray[np.float32], shifts: NDArray[np.int64]) -> NDArray[np.float32]:
    matrices = [np.array([[1, 0, right], [0, 1, down]], np.float32) for right, down in shifts]
    moved = [
        cv2.warpAffine(frame, matrix, frame.shape[::-1], borderMode=cv2.BORDER_REPLICATE) if shift.any() else frame
        for frame, matrix, shift in zip(frames, matrices, shifts, strict=True)
    ]
    return np.stack(moved)


def _compressed(frame: NDArray[np.float32], quality: int) -> NDArray[np.float32]:
    pixels = np.clip(np.round(frame), 0, 255).astype(np.uint8)
    return np.asarray(imdecode(encode_jpeg(pixels, quality), cv2.IMREAD_GRAYSCALE), np.float32)


def random_frames(view: CameraView, offsets: Sequence[int], rng: Generator) -> NDArray[np.uint8]:
    """A random frame of the view's videos and the frames ``offsets`` before it, uint8 (N, H, W)."""
    videos = [video for video in view.videos if len(video) > offsets[-1]]
    lengths = np.array([len(video) for video in videos], np.float64)
    video = videos[int(rng.choice(len(videos), p=lengths / lengths.sum()))]
    newest = int(rng.integers(offsets[-1], len(video)))
    return np.stack([video[newest - earlier] for earlier in offsets])


def random_objects(view: SegmentedView, offsets: Sequence[int], rng: Generator, count: int = _OBJECTS) -> list[PastedObject]:
    """At most ``count`` anomalous and normal objects."""
    kinds = [(anomalous_object if rng.random() < _ANOMALOUS_SHARE else normal_object) for _ in range(count)]
    return [pasted for make in kinds if (pasted := make(view, offsets, rng)) is not None]


def crop_window(
    size: tuple[int, int], frame: tuple[int, int], at: tuple[float, float] | None, rng: Generator
) -> tuple[slice, slice]:
    """A window of ``size`` near the pixel ``at`` (down, across) or anywhere, aligned to multiples of 8 pixels."""
    sides = []
    for middle, length, whole in zip(at or (rng.uniform(0, frame[0]), rng.uniform(0, frame[1])), size, frame, strict=True):
        side = min(length, whole)
        first = int(np.clip((middle - side / 2 + rng.uniform(-side, side) / 4) // 8 * 8, 0, whole - side))
        sides.append(slice(first, first + side))
    return sides[0], sides[1]
