"""Training samples from annotated clips: crops of the annotated frames, and crops with annotated objects pasted elsewhere.

An annotation is a coarse label. In an anomaly's region only the foreground counts as anomalous (without foreground, what moves;
without motion, the whole region). The rest of the frame is unlabelled and ignored. Without a region all foreground is *possibly*
anomalous, and the learner selects which part is. The region of a false alarm, or the whole frame without one, is normal.

An annotated object is also cut out and pasted into normal frames of its view, anywhere on its row: an annotation in one place
teaches all places.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.annotations import AnnotatedClip, Region
from trainer.errors import TooLittleFootage
from trainer.pseudo_anomalies.objects import Offsets, PastedObject
from trainer.pseudo_anomalies.samples import (
    CropSamples,
    SceneCanvas,
    SceneSource,
    composite_crop,
    crop_window,
    frame_indices,
    random_objects,
)
from trainer.pseudo_anomalies.segments import DisFlow, PlacedCutout, Segment, SegmentedView, find_view, resize_flow

ANNOTATED_EVERY = 4  # one sample of so many comes from an annotation

_PASTED_ELSEWHERE_SHARE = 0.5
_OBJECTS = 2  # fewer than usual: objects cover what is behind them
_MOVING_PX = 0.3
_ROW_PX = 6.0


@dataclass(frozen=True, slots=True)
class AnnotatedFrame:
    """One frame of an annotated clip."""

    own: SegmentedView  # the annotated video alone, with the background of its view
    known: SegmentedView | None  # the same view in the training footage; None if it is not in there
    segment: Segment  # the foreground of the region, or of the whole frame
    region: Region | None
    anomalous: bool

    def frames(self, offsets: Offsets) -> NDArray[np.uint8]:
        """The frame and those before it, uint8 (N, H, W)."""
        return self.own.view.videos[0][[self.segment.frame - earlier for earlier in offsets]]

    def rasterize(self, canvas: SceneCanvas) -> None:
        """Draw the annotation into the masks of a canvas of this frame. Anomalous and ignored: possibly anomalous."""
        canvas.ignored[:] = 1.0
        if not self.anomalous:
            region = _slices(self.region or Region(0, 0, *canvas.annotated.shape[::-1]))
            canvas.ignored[region], canvas.annotated[region] = 0.0, 1.0
            return
        box, mask = _slices(Region(*self.segment.box)), self.segment.mask.astype(np.float32)
        canvas.anomalous[box], canvas.annotated[box] = mask, mask
        if self.region is not None:
            canvas.ignored[box] -= mask

    def cut_object(self, offsets: Offsets, rng: Generator) -> PastedObject | None:
        """The annotated object at its own speed, anywhere on its row; None if its track leaves the image."""
        cuts = [self.own.cut(self.segment, earlier) for earlier in offsets]
        left, _, width, _ = self.segment.box
        right = rng.uniform(0, self.own.frame_px[1] - width) - left
        down = rng.uniform(-_ROW_PX, _ROW_PX)
        frames = tuple(PlacedCutout(cut.cutout, cut.x + right, cut.y + down) for cut in cuts if cut is not None)
        if len(frames) < len(cuts):
            return None
        return PastedObject(frames, anomalous=self.anomalous, abnormal_looks=False, annotated=True)


def find_annotated_frames(
    clips: Sequence[AnnotatedClip],
    views: Sequence[SegmentedView],
    oldest: int,
    frames: int,
    teacher: DisFlow,
    advance: Callable[[], None],
) -> list[AnnotatedFrame]:
    """About ``frames`` evenly spaced frames of the clips that have ``oldest`` frames before them; calls ``advance`` for each.

    Raises:
        TooLittleFootage: a clip has no such frame.
    """
    share = min(1.0, frames / sum(clip.last - clip.first + 1 for clip in clips))
    annotated = []
    for clip in clips:
        first = max(clip.first, oldest)
        if first > clip.last:
            raise TooLittleFootage(
                f"{clip.where}: no frame of the stretch has {oldest} frames before it; give a later last_frame"
            )
        known, own = find_view(views, clip.footage.frames[..., 0])
        count = max(1, round(share * (clip.last - first + 1)))
        for frame in np.unique(np.linspace(first, clip.last, count).astype(int)).tolist():
            annotated.append(AnnotatedFrame(own, known, _segment(own, frame, clip.region, teacher), clip.region, clip.anomalous))
            advance()
    return annotated


@dataclass(frozen=True)
class AnnotatedSamples(CropSamples):
    """:class:`PseudoAnomalySamples` with one more channel, where an annotation applies; every fourth is from an annotation.

    Anomalies and false alarms are equally likely, so that many of one kind do not outweigh the other.
    """

    source: SceneSource
    anomalies: Sequence[AnnotatedFrame]
    false_alarms: Sequence[AnnotatedFrame]

    def _crop(self, index: int, rng: Generator) -> Tensor:
        if index % ANNOTATED_EVERY:
            return composite_crop(self.source, self.source.random_view(rng), (), rng)
        kinds = [kind for kind in (self.anomalies, self.false_alarms) if kind]
        kind = kinds[int(rng.integers(len(kinds)))]
        annotated = kind[int(rng.integers(len(kind)))]
        if annotated.known and annotated.region and rng.random() < _PASTED_ELSEWHERE_SHARE:
            pasted = annotated.cut_object((0, *self.source.history), rng)
            if pasted is not None:
                return composite_crop(self.source, annotated.known, (pasted,), rng)
        return _original_crop(self.source, annotated, rng)


def _original_crop(source: SceneSource, annotated: AnnotatedFrame, rng: Generator) -> Tensor:
    offsets = (0, *source.history)
    indices = frame_indices(len(source.history), rng, still=0.0)
    canvas = SceneCanvas.of(annotated.frames(offsets)[indices])
    annotated.rasterize(canvas)
    for pasted in random_objects(annotated.known, offsets, rng, _OBJECTS) if annotated.known else ():
        canvas.add(pasted, indices)
    at = _random_pixel(annotated.segment, rng)
    return canvas.crop(crop_window((source.height_px, source.width_px), annotated.own.frame_px, at, rng), rng)


def _segment(own: SegmentedView, frame: int, region: Region | None, teacher: DisFlow) -> Segment:
    video = own.view.videos[0]
    part = _slices(region or Region(0, 0, *video.shape[:0:-1]))
    flow = resize_flow(teacher.flow(video[frame], video[frame - 1]), video.shape[1:])[part]
    moving = np.hypot(flow[..., 0], flow[..., 1]) > _MOVING_PX
    masks = (own.view.foreground(video[frame])[part], moving.astype(np.uint8), np.ones(moving.shape, np.uint8))
    mask = next(mask for mask in masks if mask.any())
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    inner = _slices(Region(int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1))
    box = (part[1].start + inner[1].start, part[0].start + inner[0].start, *mask[inner].shape[::-1])
    return Segment(0, frame, box, mask[inner], -flow[mask > 0].mean(axis=0))


def _random_pixel(segment: Segment, rng: Generator) -> tuple[float, float]:
    rows, columns = np.nonzero(segment.mask)
    chosen = int(rng.integers(len(rows)))
    return float(segment.box[1] + rows[chosen]), float(segment.box[0] + columns[chosen])


def _slices(region: Region) -> tuple[slice, slice]:
    return slice(region.y, region.y + region.height), slice(region.x, region.x + region.width)
