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
from trainer.pseudo_anomalies.compositing import Placed
from trainer.pseudo_anomalies.objects import Actor, Offsets
from trainer.pseudo_anomalies.samples import SAMPLES, Scene, ScenePlan, actors_of, batch, painted, shown_frames, window
from trainer.pseudo_anomalies.segments import Blob, Crowd, Place, place_alone, place_of
from trainer.training.interfaces import Batch

EVERY = 4
"""One of so many samples is of what operators marked."""

_ELSEWHERE = 0.5
_COMPANIONS = 2
_MOVING_PX = 0.3
_ROW_PX = 6.0


@dataclass(frozen=True, slots=True)
class Shown:
    """One frame of a stretch that an operator marked."""

    seen: Crowd
    """Its video alone, before the background of its place."""
    home: Crowd | None
    """All else that was learned of that place; None where nothing was."""
    blob: Blob
    """What stands out in the region, or in the whole frame."""
    region: Region | None
    anomalous: bool

    def moment(self, offsets: Offsets) -> NDArray[np.uint8]:
        """The frame and those before it, uint8 (N, H, W)."""
        return self.seen.place.videos[0][[self.blob.frame - earlier for earlier in offsets]]

    def say(self, scene: Scene) -> None:
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

    def actor(self, offsets: Offsets, chance: Generator) -> Actor | None:
        """What was marked, at its own pace, anywhere on its row; None where its way leaves the picture."""
        cuts = [self.seen.cut(self.blob, earlier) for earlier in offsets]
        left, _, width, _ = self.blob.box
        right = chance.uniform(0, self.seen.frame_px[1] - width) - left
        down = chance.uniform(-_ROW_PX, _ROW_PX)
        frames = tuple(Placed(cut.cutout, cut.x + right, cut.y + down) for cut in cuts if cut is not None)
        if len(frames) < len(cuts):
            return None
        return Actor(frames, anomalous=self.anomalous, looks_strange=False, told=True)


def find_shown(
    marked: Sequence[AnnotatedClip],
    crowds: Sequence[Crowd],
    oldest: int,
    frames: int,
    teacher: DisFlow,
    advance: Callable[[], None],
) -> list[Shown]:
    """About ``frames`` frames of the stretches, at even distances, that have ``oldest`` frames before them.

    Raises:
        TooLittleFootage: a stretch has none.
    """
    total = sum(mark.last - mark.first + 1 for mark in marked)
    return [shown for mark in marked for shown in _of_mark(mark, crowds, oldest, min(1.0, frames / total), teacher, advance)]


@dataclass(frozen=True, slots=True)
class MarkedSamples:
    """:class:`trainer.pseudo_anomalies.samples.SceneSamples`, of which every fourth is of what operators marked.

    They have one channel more at the end: where an operator's word holds. What is anomalous and left out at once is perhaps
    anomalous. Anomalies and false alarms take turns by chance, so that many of one kind do not drown the other.
    """

    plan: ScenePlan
    anomalies: Sequence[Shown]
    false_alarms: Sequence[Shown]

    def __len__(self) -> int:
        return SAMPLES

    def draw(self, numbers: Tensor) -> Batch:
        """See :class:`trainer.training.loop.Samples`."""
        chance = np.random.default_rng(numbers.tolist())
        return batch([self._crop(place, chance) for place in range(len(numbers))])

    def _crop(self, place: int, chance: Generator) -> Tensor:
        if place % EVERY:
            return painted(self.plan, self.plan.any_crowd(chance), (), chance)
        kinds = [kind for kind in (self.anomalies, self.false_alarms) if kind]
        kind = kinds[int(chance.integers(len(kinds)))]
        return _marked_crop(self.plan, kind[int(chance.integers(len(kind)))], chance)


def _marked_crop(plan: ScenePlan, shown: Shown, chance: Generator) -> Tensor:
    if shown.home and shown.region and chance.random() < _ELSEWHERE:
        actor = shown.actor((0, *plan.history), chance)
        if actor is not None:
            return painted(plan, shown.home, (actor,), chance)
    return _in_place(plan, shown, chance)


def _in_place(plan: ScenePlan, shown: Shown, chance: Generator) -> Tensor:
    """The marked frame itself, with few actors: they cover what is behind them."""
    offsets = (0, *plan.history)
    which = shown_frames(len(plan.history), chance, still=0.0)
    scene = Scene.of(shown.moment(offsets)[which])
    shown.say(scene)
    for actor in actors_of(shown.home, offsets, chance, _COMPANIONS) if shown.home else ():
        scene.add(actor, which)
    at = _somewhere(shown.blob, chance)
    return scene.crop(window((plan.height_px, plan.width_px), shown.seen.frame_px, at, chance), chance)


def _of_mark(
    mark: AnnotatedClip, crowds: Sequence[Crowd], oldest: int, share: float, teacher: DisFlow, advance: Callable[[], None]
) -> Iterator[Shown]:
    first = max(mark.first, oldest)
    if first > mark.last:
        raise TooLittleFootage(f"{mark.where}: no frame of the stretch has {oldest} frames before it; give a later last_frame")
    video = mark.footage.frames[..., 0]
    home, seen = _places(video, crowds)
    for frame in np.unique(np.linspace(first, mark.last, max(1, round(share * (mark.last - first + 1)))).astype(int)).tolist():
        yield Shown(seen, home, _thing(seen.place, frame, mark.region, teacher), mark.region, mark.anomalous)
        advance()


def _places(video: NDArray[np.uint8], crowds: Sequence[Crowd]) -> tuple[Crowd | None, Crowd]:
    """What was learned of the place that a video shows, and a crowd of the video alone, with the place's background."""
    place = place_of([crowd.place for crowd in crowds], video)
    home = next((crowd for crowd in crowds if crowd.place is place), None)
    if home is None:
        return None, Crowd(place_alone(video), (), (0.0, 1.0, 1.0))
    return home, replace(home, place=Place((video,), home.place.background), blobs=())


def _thing(place: Place, frame: int, region: Region | None, teacher: DisFlow) -> Blob:
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
    return Blob(0, frame, box, mask[inner], -flow[mask > 0].mean(axis=0))


def _somewhere(blob: Blob, chance: Generator) -> tuple[float, float]:
    """One of the blob's pixels: down, across."""
    rows, columns = np.nonzero(blob.mask)
    chosen = int(chance.integers(len(rows)))
    return float(blob.box[1] + rows[chosen]), float(blob.box[0] + columns[chosen])


def _part(region: Region) -> tuple[slice, slice]:
    return slice(region.y, region.y + region.height), slice(region.x, region.x + region.width)
