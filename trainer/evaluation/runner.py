"""Runs detectors over test footage, frame by frame and causally; keeps scores and counts, but no heat maps."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.calibration import Thresholds
from deploy.dwell import DWELL_S
from deploy.engine import Engine, Frames
from deploy.spec import ClipSpec
from trainer.data.clips import ClipDataset
from trainer.data.footage import Footage, footage_info
from trainer.data.labels import LabelledClip
from trainer.evaluation.baselines import HeatMap
from trainer.evaluation.metrics import PixelHistogram, Scores
from trainer.evaluation.region_metrics import RegionCounter, RegionMetrics, TrackLinker, TrueRegions

PARALLEL_CLIPS = 8
"""Clips, or stretches of one, that a recurrent model scores at once: enough to keep an engine busy, few enough for memory."""
_LEADS_PER_STRETCH = 4  # a stretch has at least four times as many frames as build up its state: a fifth is scored twice

Advance = Callable[[int], None]

FrameResult = tuple[float, HeatMap]
"""Score and heat map of one frame, both in score units."""


def scored_frames(engine: Engine, footage: Footage) -> Iterator[tuple[int, float, HeatMap]]:
    """Lazily yield (frame number in the source, score, heat map) of every frame that completes a clip of the model, in order."""
    recurrent = engine.spec.state_shape is not None
    state = None
    numbers = iter(footage.index[engine.spec.length - 1 :])
    for clips in ClipDataset((footage,), engine.spec.length).batches(1 if recurrent else engine.max_clips):
        scores = engine.score(clips, state)
        state = scores.state
        for score, heatmap in zip(scores.score, scores.heatmap, strict=True):
            yield int(next(numbers)), float(score), heatmap


def score_footage(
    engine: Engine, footage: Footage, advance: Advance = lambda _: None, fps: float | None = None
) -> NDArray[np.float32]:
    """Scores of a source, float32 (total,); NaN at frames that complete no clip of the model: the first and unreadable ones.

    ``advance`` is called with the number of newly scored frames. ``fps``: of the engine's profile, by default the bundle's. A
    recurrent model scores stretches of long footage side by side, each after :func:`lead_frames` frames from before it.
    """
    ((_, scores),) = score_clips(engine, [footage], advance, fps)
    return scores


def lead_frames(spec: ClipSpec, fps: float) -> int:
    """Frames after which a state without history is as that of a camera which has long been running, up to rounding.

    With a profile, of ``fps`` frames a second, a state counts how long things stay where they are.
    """
    return max(spec.warmup_frames, round(DWELL_S * fps)) if spec.profile_size else spec.warmup_frames


def score_clips(
    engine: Engine, clips: Iterable[Footage], advance: Advance = lambda _: None, fps: float | None = None
) -> list[tuple[str, NDArray[np.float32]]]:
    """Name and :func:`score_footage` of each clip, in order; few are held in memory."""
    if engine.spec.state_shape is None:
        return [(footage.name, _score_stateless(engine, footage, advance)) for footage in clips]
    scored: list[tuple[str, NDArray[np.float32]]] = []
    lead = lead_frames(engine.spec, fps or engine.spec.fps)
    remaining = (stretch for footage in clips for stretch in _stretches(engine.spec, footage, lead, scored))
    while group := list(islice(remaining, min(PARALLEL_CLIPS, engine.max_clips))):
        _score_side_by_side(engine, group, advance)
    return scored


class _Stretch(NamedTuple):
    """Frames of a clip, of which the first ``lead`` build up the state alone."""

    frames: Frames
    lead: int
    numbers: NDArray[np.int64]
    """Numbers in the source of the frames after the lead."""
    scores: NDArray[np.float32]
    """Of the whole clip: all its stretches write to the same array."""


def _stretches(spec: ClipSpec, footage: Footage, lead: int, scored: list[tuple[str, NDArray[np.float32]]]) -> Iterator[_Stretch]:
    """The stretches of a clip, whose empty scores are added to ``scored``."""
    scores, frames = np.full(footage.total, np.nan, np.float32), len(footage.frames)
    scored.append((footage.name, scores))
    size = max(-(-frames // PARALLEL_CLIPS), _LEADS_PER_STRETCH * lead) if spec.state_warmup_frames else frames
    for first in range(0, frames, max(size, 1)):
        last = min(first + size, frames)
        yield _Stretch(*footage.part(first, last, lead), footage.index[first:last], scores)


def _score_stateless(engine: Engine, footage: Footage, advance: Advance) -> NDArray[np.float32]:
    scores = np.full(footage.total, np.nan, np.float32)
    for number, score, _ in scored_frames(engine, footage):
        scores[number] = score
        advance(1)
    return scores


def _score_side_by_side(engine: Engine, group: list[_Stretch], advance: Advance) -> None:
    """Score a batch of one frame from every stretch at a time, because a recurrent model needs frames in order."""
    length = engine.spec.length
    states = np.zeros((len(group), *(engine.spec.state_shape or ())), np.float32)
    for end in range(length, 1 + max(len(stretch.frames) for stretch in group)):
        active = [number for number, stretch in enumerate(group) if end <= len(stretch.frames)]
        result = engine.score(np.stack([group[number].frames[end - length : end] for number in active]), states[active])
        states[active] = result.state
        for number, score in zip(active, result.score, strict=True):
            stretch = group[number]
            if end > stretch.lead:
                stretch.scores[stretch.numbers[end - 1 - stretch.lead]] = score
                advance(1)


@dataclass(frozen=True, slots=True)
class NormalScores:
    """What is known of a detector's scores of normal footage before the test."""

    median: float
    """Stands in for the score of frames without one."""
    thresholds: Thresholds | None
    """None if there was too little training footage."""


@dataclass(frozen=True, slots=True)
class DetectorOutput:
    """What a detector made of the test footage."""

    scores: Scores
    normal: NormalScores
    pixel_auc: float | None
    """None if the data set has no masks."""
    region_metrics: RegionMetrics | None
    """None without masks, and without thresholds, which place those of the regions."""


def run_detectors(
    clips: Sequence[LabelledClip],
    frames: Callable[[LabelledClip], Iterator[tuple[FrameResult | None, ...]]],
    normal: Sequence[NormalScores],
    advance: Callable[[int], None],
) -> list[DetectorOutput]:
    """Run detectors side by side over ``clips``; ``normal`` has one entry per detector.

    ``frames`` yields, for every frame of a clip's source in order, one result per detector, None where it gives no score.
    ``advance`` is called with the number of frames that were done.
    """
    frame_total = sum(len(clip.labels) for clip in clips)
    recorders = [_Recorder(one, frame_total) for one in normal]
    linker = TrackLinker()
    has_masks = all(clip.masks is not None or not clip.labels.any() for clip in clips)
    for clip in clips:
        linker.start_clip()
        for recorder in recorders:
            recorder.start_clip(clip)
        masks = _masks(clip) if has_masks else repeat(None)
        for number, (results, mask) in enumerate(zip(frames(clip), masks, strict=False)):
            regions = None if mask is None else linker.next_frame(mask)
            for recorder, result in zip(recorders, results, strict=True):
                recorder.add(number, result, mask, regions)
            advance(1)
    return [recorder.output() for recorder in recorders]


class _Recorder:
    def __init__(self, normal: NormalScores, frame_total: int) -> None:
        self._normal = normal
        self._scores: dict[str, NDArray[np.float32]] = {}
        self._row: NDArray[np.float32] = np.empty(0, np.float32)
        self._pixels = PixelHistogram(normal.median)
        self._regions = None if normal.thresholds is None else RegionCounter(normal.thresholds, frame_total)

    def start_clip(self, clip: LabelledClip) -> None:
        self._row = self._scores[clip.source.name] = np.full(len(clip.labels), np.nan, np.float32)

    def add(self, number: int, result: FrameResult | None, mask: NDArray[np.bool_] | None, regions: TrueRegions | None) -> None:
        score, heatmap = (np.nan, None) if result is None else result
        self._row[number] = score
        if mask is not None:
            self._pixels.add(heatmap, mask)
        if regions is not None and self._regions is not None:
            self._regions.add(heatmap, regions)

    def output(self) -> DetectorOutput:
        region_metrics = None if self._regions is None else self._regions.metrics()
        return DetectorOutput(self._scores, self._normal, self._pixels.auc(), region_metrics)


def all_frames(scored: Iterable[tuple[int, float, HeatMap]], total: int) -> Iterator[tuple[FrameResult | None]]:
    """One entry per frame of a source of ``total`` frames, for a single detector that scores only some of them."""
    expected = 0
    for number, score, heatmap in scored:
        yield from repeat((None,), number - expected)
        yield ((score, heatmap),)
        expected = number + 1
    yield from repeat((None,), total - expected)


def _masks(clip: LabelledClip) -> Iterator[NDArray[np.bool_]]:
    if clip.masks is not None:
        yield from (clip.masks[frame] for frame in range(len(clip.labels)))
        return
    info = footage_info([clip.source])
    yield from repeat(np.zeros((info.height_px, info.width_px), np.bool_), len(clip.labels))
