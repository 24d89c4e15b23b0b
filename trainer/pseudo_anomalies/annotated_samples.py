"""What the video model learns from stretches that operators marked: crops of them, and crops with what was marked elsewhere.

A mark is a coarse label. Of an anomaly's region only what stands out from the place's background counts as anomalous (where
nothing does, what moves; where nothing moves, all of it); what else is in the frame nobody has judged, so it is left out of
account. Of an anomaly without a region everything that stands out is *perhaps* anomalous: which of it, the learner finds. A
false alarm's region, or the whole frame without one, is normal.

A labelled thing is also cut out and pasted into ordinary moments, anywhere on its row: seen in one place it teaches all places.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.annotations import AnnotatedClip, Region
from trainer.data.dis_flow import DisFlow, resize_flow
from trainer.errors import TooLittleFootage
from trainer.pseudo_anomalies.compositing import PlacedCutout
from trainer.pseudo_anomalies.objects import Offsets, PastedObject
from trainer.pseudo_anomalies.samples import SAMPLES, SceneCanvas, SceneSource, batch, objects_of, painted, shown_frames, window
from trainer.pseudo_anomalies.segments import CameraView, Segment, SegmentedView, find_view, single_video_view
from trainer.training.interfaces import Batch

EVERY = 4
"""One of so many samples is of what operators marked."""

_ELSEWHERE = 0.5
_COMPANIONS = 2
_MOVING_PX = 0.3
_ROW_PX = 6.0


@dataclass(frozen=True, slots=True)
class AnnotatedFrame:
    """One frame of a stretch that an operator marked."""

    seen: SegmentedView
    """Its video alone, before the background of its place."""
    home: SegmentedView | None
    """All else that was learned of that place; None where nothing was."""
    blob: Segment
    """What stands out in the region, or in the whole frame."""
    region: Region | None
    anomalous: bool

    def moment(self, offsets: Offsets) -> NDArray[np.uint8]:
        """The frame and those before it, uint8 (N, H, W)."""
        return self.seen.place.videos[0][[self.blob.frame - earlier for earlier in offsets]]

    def say(self, scene: SceneCanvas) -> None:
        """Write the operator's word into a scene of this frame."""
        region = _part(self.region or Region(0, 0, *scene.told.shape[::-1]))
        if not self.anomalous:
            scene.left_out[:] = 1.0
            scene.left_out[region], scene.told[region] = 0.0, 1.0
            return
        thing, mask = _part(Region(*self.blob.box)), self.blob.mask.astype(np.float32)
        scene.left_out[:] = 1.0
        scene.anomalous[thing], scene.told[thing] = mask, mask
        if self.region is not None:
            scene.left_out[thing] -= mask

    def actor(self, offsets: Offsets, rng: Generator) -> PastedObject | None:
        """What was marked, at its own pace, anywhere on its row; None where its way leaves the picture."""
        cuts = [self.seen.cut(self.blob, earlier) for earlier in offsets]
        left, _, width, _ = self.blob.box
        right = rng.uniform(0, self.seen.frame_px[1] - width) - left
        down = rng.uniform(-_ROW_PX, _ROW_PX)
        frames = tuple(PlacedCutout(cut.cutout, cut.x + right, cut.y + down) for cut in cuts if cut is not None)
        if len(frames) < len(cuts):
            return None
        return PastedObject(frames, anomalous=self.anomalous, looks_strange=False, told=True)


def find_annotated_frames(
    marked: Sequence[AnnotatedClip],
    crowds: Sequence[SegmentedView],
    oldest: int,
    frames: int,
    teacher: DisFlow,
    advance: Callable[[], None],
) -> list[AnnotatedFrame]:
    """About ``frames`` frames of the stretches, at even distances, that have ``oldest`` frames before them.

    Raises:
        TooLittleFootage: a stretch has none.
    """
    total = sum(mark.last - mark.first + 1 for mark in marked)
    return [shown for mark in marked for shown in _of_mark(mark, crowds, oldest, min(1.0, frames / total), teacher, advance)]


@dataclass(frozen=True, slots=True)
class AnnotatedSamples:
    """:class:`trainer.pseudo_anomalies.samples.PseudoAnomalySamples`, of which every fourth is of what operators marked.

    They have one channel more at the end: where an operator's word holds. What is anomalous and left out at once is perhaps
    anomalous. Anomalies and false alarms take turns by rng, so that many of one kind do not drown the other.
    """

    plan: SceneSource
    anomalies: Sequence[AnnotatedFrame]
    false_alarms: Sequence[AnnotatedFrame]

    def __len__(self) -> int:
        return SAMPLES

    def draw(self, numbers: Tensor) -> Batch:
        """See :class:`trainer.training.loop.Samples`."""
        rng = np.random.default_rng(numbers.tolist())
        return batch([self._crop(place, rng) for place in range(len(numbers))])

    def _crop(self, place: int, rng: Generator) -> Tensor:
        if place % EVERY:
            return painted(self.plan, self.plan.any_crowd(rng), (), rng)
        kinds = [kind for kind in (self.anomalies, self.false_alarms) if kind]
        kind = kinds[int(rng.integers(len(kinds)))]
        return _marked_crop(self.plan, kind[int(rng.integers(len(kind)))], rng)


def _marked_crop(plan: SceneSource, shown: AnnotatedFrame, rng: Generator) -> Tensor:
    if shown.home and shown.region and rng.random() < _ELSEWHERE:
        actor = shown.actor((0, *plan.history), rng)
        if actor is not None:
            return painted(plan, shown.home, (actor,), rng)
    return _in_place(plan, shown, rng)


def _in_place(plan: SceneSource, shown: AnnotatedFrame, rng: Generator) -> Tensor:
    """The marked frame itself, with few actors: they cover what is behind them."""
    offsets = (0, *plan.history)
    which = shown_frames(len(plan.history), rng, still=0.0)
    scene = SceneCanvas.of(shown.moment(offsets)[which])
    shown.say(scene)
    for actor in objects_of(shown.home, offsets, rng, _COMPANIONS) if shown.home else ():
        scene.add(actor, which)
    at = _somewhere(shown.blob, rng)
    return scene.crop(window((plan.height_px, plan.width_px), shown.seen.frame_px, at, rng), rng)


def _of_mark(
    mark: AnnotatedClip, crowds: Sequence[SegmentedView], oldest: int, share: float, teacher: DisFlow, advance: Callable[[], None]
) -> Iterator[AnnotatedFrame]:
    first = max(mark.first, oldest)
    if first > mark.last:
        raise TooLittleFootage(f"{mark.where}: no frame of the stretch has {oldest} frames before it; give a later last_frame")
    video = mark.footage.frames[..., 0]
    home, seen = _places(video, crowds)
    for frame in np.unique(np.linspace(first, mark.last, max(1, round(share * (mark.last - first + 1)))).astype(int)).tolist():
        yield AnnotatedFrame(seen, home, _thing(seen.place, frame, mark.region, teacher), mark.region, mark.anomalous)
        advance()


def _places(video: NDArray[np.uint8], crowds: Sequence[SegmentedView]) -> tuple[SegmentedView | None, SegmentedView]:
    """What was learned of the place that a video shows, and a crowd of the video alone, with the place's background."""
    place = find_view([crowd.place for crowd in crowds], video)
    home = next((crowd for crowd in crowds if crowd.place is place), None)
    if home is None:
        return None, SegmentedView(single_video_view(video), (), (0.0, 1.0, 1.0))
    return home, replace(home, place=CameraView((video,), home.place.background), blobs=())


def _thing(place: CameraView, frame: int, region: Region | None, teacher: DisFlow) -> Segment:
    """What stands out in the region; where nothing does, what moves; where nothing moves, all of it."""
    video = place.videos[0]
    part = _part(region or Region(0, 0, *video.shape[:0:-1]))
    flow = resize_flow(teacher.flow(video[frame], video[frame - 1]), video.shape[1:])[part]
    moving = np.hypot(flow[..., 0], flow[..., 1]) > _MOVING_PX
    outlines = (place.foreground(video[frame])[part], moving.astype(np.uint8), np.ones(moving.shape, np.uint8))
    mask = next(outline for outline in outlines if outline.any())
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    inner = _part(Region(int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1))
    box = (part[1].start + inner[1].start, part[0].start + inner[0].start, *mask[inner].shape[::-1])
    return Segment(0, frame, box, mask[inner], -flow[mask > 0].mean(axis=0))


def _somewhere(blob: Segment, rng: Generator) -> tuple[float, float]:
    """One of the blob's pixels: down, across."""
    rows, columns = np.nonzero(blob.mask)
    chosen = int(rng.integers(len(rows)))
    return float(blob.box[1] + rows[chosen]), float(blob.box[0] + columns[chosen])


def _part(region: Region) -> tuple[slice, slice]:
    return slice(region.y, region.y + region.height), slice(region.x, region.x + region.width)
