"""What the video model learns from: crops of footage with its motion, and crops with things pasted in.

Chance follows from the numbers of the samples that are asked for, so that a run that goes on from a checkpoint draws the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.dis_flow import DisFlow
from trainer.pseudo_anomalies.compositing import GrayImage, PlacedCutout, paint_mask, paste
from trainer.pseudo_anomalies.objects import PastedObject, anomalous_object, normal_object, textured_shape
from trainer.pseudo_anomalies.segments import CameraView, SegmentedView
from trainer.training.interfaces import NORMAL, Batch

CELL_PX = 4
"""Side of the cells in which motion is measured."""
SAMPLES = 1_000_000
"""An epoch has no meaning here: hardly any sample is ever seen twice."""

_STEPS = (1, 1, 2, 3)
"""Frames are taken so far apart: the network is to know higher speeds than those of its footage."""
_MOVING = 0.3
_SHAPES_SHARE, _TRUE_SHARE = 0.35, 0.5
_SHAPE_SPEEDS_PX = (0.2, 6.0)
_ACTORS = 6
_STILL_SHARE = 0.15
"""Of the scenes: a stream's first frame has nothing but looks to be judged by, and where things move the judge looks at that."""


@dataclass(frozen=True, slots=True)
class FlowExample:
    """A frame, the frames before it, and the motion between them."""

    frames: NDArray[np.uint8]
    """uint8 (1 + history, H, W), the newest first."""
    flow: NDArray[np.float16]
    """To the frame before, (H / 4, W / 4, 2), in pixels."""
    step: int
    """Frames of the video from one frame here to the next."""


def flow_examples(
    camera_views: Sequence[CameraView], history: Sequence[int], count: int, teacher: DisFlow, advance: Callable[[], None]
) -> list[FlowExample]:
    """About ``count`` moments at even distances over all videos; ``advance`` is told of each."""
    total = sum(len(video) for place in camera_views for video in place.videos)
    found = []
    for video in (video for place in camera_views for video in place.videos):
        for number in range(max(1, round(count * len(video) / total))):
            step = _STEPS[number % len(_STEPS)]
            oldest = step * history[-1]
            if len(video) > oldest:
                newest = oldest + number * (len(video) - oldest) // max(1, round(count * len(video) / total))
                frames = video[[newest - step * back for back in (0, *history)]]
                found.append(FlowExample(frames, teacher.flow(frames[0], frames[1]).astype(np.float16), step))
            advance()
    return found


@dataclass(frozen=True, slots=True)
class FlowSamples:
    """Crops to learn motion from: float32 (N, 1 + history + 2, side, side), frames, then the true flow of each pixel's cell."""

    flow_examples: Sequence[FlowExample]
    history: tuple[int, ...]
    side_px: int
    """At most the frames' height and width."""

    def __len__(self) -> int:
        return SAMPLES

    def draw(self, numbers: Tensor) -> Batch:
        """See :class:`trainer.training.loop.Samples`."""
        rng = np.random.default_rng(numbers.tolist())
        return batch([self._crop(rng) for _ in numbers])

    def _crop(self, rng: Generator) -> Tensor:
        moment = self.flow_examples[int(rng.integers(len(self.flow_examples)))]
        top, left = self._corner(moment, rng)
        side, cells = self.side_px, self.side_px // CELL_PX
        which = shown_frames(len(self.history), rng, still=0.0)
        frames = moment.frames[which, top * CELL_PX :, left * CELL_PX :][:, :side, :side].astype(np.float32)
        flow = moment.flow[top : top + cells, left : left + cells].astype(np.float32).transpose(2, 0, 1)
        if rng.random() < _SHAPES_SHARE:
            flow = _with_shape(frames, flow, [(0, *self.history)[number] for number in which], rng)
        frames, flow = _turned(frames, flow, rng)
        return torch.from_numpy(np.concatenate([_lit(frames, rng, 2.0), _in_pixels(flow)]))

    def _corner(self, moment: FlowExample, rng: Generator) -> tuple[int, int]:
        """In cells; four of five crops hold something that moves."""
        cells, (height, width) = self.side_px // CELL_PX, moment.flow.shape[:2]
        rows, columns = np.nonzero(np.hypot(*moment.flow.astype(np.float32).transpose(2, 0, 1)) > _MOVING * moment.step)
        if len(rows) and rng.random() < 0.8:
            chosen = int(rng.integers(len(rows)))
            top, left = (int(at[chosen]) - cells // 2 + int(rng.integers(-6, 7)) for at in (rows, columns))
        else:
            top, left = int(rng.integers(height)), int(rng.integers(width))
        return max(0, min(top, height - cells)), max(0, min(left, width - cells))


@dataclass(frozen=True, slots=True)
class SceneSource:
    """How crops with pasted things are made."""

    crowds: Sequence[SegmentedView]
    history: tuple[int, ...]
    height_px: int = 144
    width_px: int = 216

    def any_crowd(self, rng: Generator) -> SegmentedView:
        """One of the places, by the length of its videos."""
        frames = np.array([sum(len(video) for video in crowd.place.videos) for crowd in self.crowds], np.float64)
        return self.crowds[int(rng.choice(len(self.crowds), p=frames / frames.sum()))]


@dataclass(frozen=True, slots=True)
class PseudoAnomalySamples:
    """Crops to learn strangeness from: float32 (N, 2 (1 + history) + 4, height, width).

    Channels: the frames with things pasted in, the frames without, how surely each pixel is anomalous, whether that is to be
    left out of account, and the pixel's place in the frame from -1 to 1: across, then down.
    """

    plan: SceneSource

    def __len__(self) -> int:
        return SAMPLES

    def draw(self, numbers: Tensor) -> Batch:
        """See :class:`trainer.training.loop.Samples`."""
        rng = np.random.default_rng(numbers.tolist())
        return batch([self._crop(rng) for _ in numbers])

    def _crop(self, rng: Generator) -> Tensor:
        return painted(self.plan, self.plan.any_crowd(rng), (), rng)[:-1]


def painted(plan: SceneSource, crowd: SegmentedView, guests: Sequence[PastedObject], rng: Generator) -> Tensor:
    """A crop of an ordinary moment with actors of the crowd, and ``guests`` in front of them; see :meth:`SceneCanvas.crop`."""
    offsets = (0, *plan.history)
    which = shown_frames(len(plan.history), rng, still=_STILL_SHARE)
    scene = SceneCanvas.of(any_moment(crowd.place, offsets, rng)[which])
    place = None
    for actor in (*objects_of(crowd, offsets, rng), *guests):
        scene.add(actor, which)
        place = place if place and not (actor.anomalous or actor.told) else actor.frames[0]
    at = place and (place.y, place.x)
    return scene.crop(window((plan.height_px, plan.width_px), crowd.frame_px, at, rng), rng)


@dataclass(slots=True)
class SceneCanvas:
    """Frames being painted."""

    frames: NDArray[np.float32]
    clean: NDArray[np.float32]
    anomalous: GrayImage
    left_out: GrayImage
    told: GrayImage
    """Where an operator's word holds."""

    @classmethod
    def of(cls, clean: NDArray[np.uint8]) -> "SceneCanvas":
        """Frames (1 + history, H, W), the newest first, before anything is painted."""
        nothing = np.zeros(clean.shape[1:], np.float32)
        return cls(clean.astype(np.float32), clean.astype(np.float32), nothing, nothing.copy(), nothing.copy())

    def add(self, actor: PastedObject, which: list[int]) -> None:
        """Paste somebody in. Where nothing moves only strange looks can be told."""
        for frame, number in zip(self.frames, which, strict=True):
            paste(frame, actor.frames[number])
        still = not any(which)
        marked = actor.anomalous and (actor.looks_strange or not still)
        paint_mask(self.anomalous, actor.frames[0], float(marked))
        paint_mask(self.left_out, actor.frames[0], float(actor.anomalous and not marked))
        paint_mask(self.told, actor.frames[0], float(actor.told))

    def crop(self, window: tuple[slice, slice], rng: Generator) -> Tensor:
        """The part of all that lies in ``window``, mirrored or not, in some light: the channels of a sample, and ``told``."""
        count, (height, width) = len(self.frames), self.anomalous.shape
        down, across = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
        frames = np.concatenate([self.frames, self.clean])[:, *window]
        marks = np.stack([self.anomalous, self.left_out, self.told])[:, *window]
        if rng.random() < 0.5:  # a mirrored thing in the same place
            frames, marks = frames[:, :, ::-1], marks[:, :, ::-1]
        lit = _lit(frames.reshape(2, count, *frames.shape[1:]), rng, 1.5).reshape(frames.shape)
        return torch.from_numpy(np.concatenate([lit, marks[:2], np.stack([across, down])[:, *window], marks[2:]]))


def batch(crops: list[Tensor]) -> Batch:
    """Crops of one size, for a learner."""
    return Batch(torch.stack(crops), torch.full((len(crops),), NORMAL))


def shown_frames(history: int, rng: Generator, *, still: float) -> list[int]:
    """Which frame is shown in each place: now and then those of a stream that has just begun, where older ones are missing.

    ``still``: how often there is one frame alone.
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
    """Paste a shape that moves evenly; its motion is known exactly. It teaches that not only people move."""
    side = frames.shape[1]
    shape = textured_shape(rng.uniform(14, 44), rng)
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.5 else rng.choice([0, np.pi]) + rng.normal(0, 0.15)
    velocity = np.exp(rng.uniform(*np.log(_SHAPE_SPEEDS_PX))) * np.array([np.cos(angle), np.sin(angle)])
    height, width = shape.picture.shape
    x, y = rng.uniform(-10, side - width + 10), rng.uniform(-10, side - height + 10)
    for frame, earlier in zip(frames, offsets, strict=True):
        paste(frame, PlacedCutout(shape, x - velocity[0] * earlier, y - velocity[1] * earlier))
    mask = np.zeros((side, side), np.float32)
    paint_mask(mask, PlacedCutout(shape, x, y))
    covered = mask.reshape(side // CELL_PX, CELL_PX, side // CELL_PX, CELL_PX).mean(axis=(1, 3))
    return np.asarray(flow * (1 - covered) - covered * velocity[:, None, None], np.float32)


def _turned(frames: NDArray[np.float32], flow: GrayImage, rng: Generator) -> tuple[NDArray[np.float32], GrayImage]:
    """Mirrored, stood on its head, or turned by a right angle: the flow turns with it."""
    if rng.random() < 0.5:
        frames, flow = frames[:, :, ::-1], flow[:, :, ::-1] * np.array([-1, 1], np.float32)[:, None, None]
    if rng.random() < 0.3:
        frames, flow = frames[:, ::-1], flow[:, ::-1] * np.array([1, -1], np.float32)[:, None, None]
    if rng.random() < 0.2:
        frames, flow = frames.transpose(0, 2, 1), flow.transpose(0, 2, 1)[::-1]
    return frames, flow


def _lit(frames: NDArray[np.float32], rng: Generator, noise: float) -> NDArray[np.float32]:
    """In another light, with a camera's noise, the same in pictures that differ in the first axis alone."""
    grain = rng.normal(0, noise, frames.shape[-3:]).astype(np.float32)
    lit = (frames - 128) * rng.uniform(0.7, 1.3) + 128 + rng.uniform(-25, 25) + grain
    return np.asarray(np.clip(lit, 0, 255), np.float32)


def _in_pixels(flow: GrayImage) -> GrayImage:
    return flow.repeat(CELL_PX, axis=1).repeat(CELL_PX, axis=2)


def any_moment(place: CameraView, offsets: Sequence[int], rng: Generator) -> NDArray[np.uint8]:
    """A frame of any of the place's videos and the frames so long before it, uint8 (N, H, W)."""
    videos = [video for video in place.videos if len(video) > offsets[-1]]
    lengths = np.array([len(video) for video in videos], np.float64)
    video = videos[int(rng.choice(len(videos), p=lengths / lengths.sum()))]
    newest = int(rng.integers(offsets[-1], len(video)))
    return np.stack([video[newest - earlier] for earlier in offsets])


def objects_of(crowd: SegmentedView, offsets: Sequence[int], rng: Generator, count: int = _ACTORS) -> list[PastedObject]:
    """At most ``count``, strange and normal ones."""
    tried = [(anomalous_object if rng.random() < _TRUE_SHARE else normal_object) for _ in range(count)]
    return [actor for make in tried if (actor := make(crowd, offsets, rng)) is not None]


def window(size: tuple[int, int], frame: tuple[int, int], at: tuple[float, float] | None, rng: Generator) -> tuple[slice, slice]:
    """A crop of ``size`` of a frame, around the pixel ``at`` (down, across) or anywhere, on the grid of the coarsest maps."""
    sides = []
    for middle, wanted, whole in zip(at or (rng.uniform(0, frame[0]), rng.uniform(0, frame[1])), size, frame, strict=True):
        side = min(wanted, whole)
        first = int(np.clip((middle - side / 2 + rng.uniform(-side, side) / 4) // 8 * 8, 0, whole - side))
        sides.append(slice(first, first + side))
    return sides[0], sides[1]
