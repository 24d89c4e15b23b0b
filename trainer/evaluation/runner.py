"""Walks over the test footage once for each engine, once for all baselines, and keeps scores and counts, not heat maps.

Scores of footage, frame by frame and causally, by an engine.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, repeat

import numpy as np
from numpy.typing import NDArray

from deploy.engine import Engine
from deploy.spec import ClipSpec
from trainer.baselines.base import Baseline
from trainer.baselines.run import watch
from trainer.data.clips import clip_windows
from trainer.data.footage import Footage, Source, footage_info
from trainer.data.labels import LabelledClip
from trainer.evaluation.metrics import PixelCounts, Scores

SIDE_BY_SIDE = 8
"""Clips of footage that a recurrent model walks through at once: enough to keep an engine busy, and in memory all the while."""


def scored_frames(engine: Engine, footage: Footage) -> Iterator[tuple[int, float, NDArray[np.float32]]]:
    """Place in the source, score and heat map, float32 (h, w), of every frame that ends a clip, in order; lazily."""
    recurrent = engine.spec.state_shape is not None
    state = None
    for first, clips in clip_windows(footage.frames, engine.spec, 1 if recurrent else engine.max_clips):
        scores = engine.score(clips, state)
        state = scores.state
        places = footage.index[first : first + len(clips)]
        for place, score, heatmap in zip(places, scores.score, scores.heatmap, strict=True):
            yield int(place), float(score), heatmap


def score_footage(engine: Engine, footage: Footage) -> NDArray[np.float32]:
    """One score a frame of the source, float32 (total,); NaN where no clip ends: at the start and at unreadable frames."""
    scores = _unscored(footage)
    for place, score, _ in scored_frames(engine, footage):
        scores[place] = score
    return scores


def score_clips(engine: Engine, clips: Iterable[Footage]) -> list[tuple[str, NDArray[np.float32]]]:
    """Name and :func:`score_footage` of several clips, in their order; at most ``SIDE_BY_SIDE`` are held at a time."""
    if engine.spec.state_shape is None:
        return [(footage.name, score_footage(engine, footage)) for footage in clips]
    waiting = iter(clips)
    scored: list[tuple[str, NDArray[np.float32]]] = []
    while group := list(islice(waiting, min(SIDE_BY_SIDE, engine.max_clips))):
        scored += zip([footage.name for footage in group], _score_side_by_side(engine, group), strict=True)
    return scored


def _score_side_by_side(engine: Engine, group: list[Footage]) -> list[NDArray[np.float32]]:
    """One frame of every clip a call, because the frames of one clip must follow one another."""
    length = engine.spec.length
    scores = [_unscored(footage) for footage in group]
    states = np.zeros((len(group), *(engine.spec.state_shape or ())), np.float32)
    for end in range(length, 1 + max(len(footage.frames) for footage in group)):
        going = [number for number, footage in enumerate(group) if end <= len(footage.frames)]
        found = engine.score(np.stack([group[number].frames[end - length : end] for number in going]), states[going])
        states[going] = found.state
        for number, score in zip(going, found.score, strict=True):
            scores[number][group[number].index[end - 1]] = score
    return scores


def _unscored(footage: Footage) -> NDArray[np.float32]:
    return np.full(footage.total, np.nan, np.float32)


HeatMap = NDArray[np.float32]
"""float32 (h, w), in the units of the score."""
Seen = tuple[float, HeatMap]
"""What a detector makes of one frame: score and heat map."""
Scored = tuple[int, float, HeatMap]
"""The same with the frame's place in its source before it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a detector made of the test footage."""

    scores: Scores
    fill_value: float
    """Stands in for the score of frames without one."""
    pixel_auc: float | None
    """None where the data set does not say which pixels are anomalous."""


def walk(
    clips: Sequence[LabelledClip],
    frames: Callable[[LabelledClip], Iterator[tuple[Seen | None, ...]]],
    fill_values: Sequence[float],
    step: Callable[[int], None],
) -> list[Outcome]:
    """Let detectors that go side by side see all ``clips``.

    ``frames`` gives one entry a frame of a clip's source, in order, and in it one a detector: None where it says nothing.
    ``step`` is told of every frame.
    """
    scores: list[dict[str, NDArray[np.float32]]] = [{} for _ in fill_values]
    counts = [PixelCounts(value) for value in fill_values]
    measurable = all(clip.masks is not None or not clip.labels.any() for clip in clips)
    for clip in clips:
        rows = np.full((len(fill_values), len(clip.labels)), np.nan, np.float32)
        masks = _masks(clip) if measurable else repeat(None)
        for place, (seen, mask) in enumerate(zip(frames(clip), masks, strict=False)):
            rows[:, place] = [np.nan if one is None else one[0] for one in seen]
            _count(counts, seen, mask)
            step(1)
        for by_clip, row in zip(scores, rows, strict=True):
            by_clip[clip.source.name] = row
    aucs = [one.auc() for one in counts]
    return [Outcome(*parts) for parts in zip(scores, fill_values, aucs, strict=True)]


def every_frame(scored: Iterable[Scored], total: int) -> Iterator[tuple[Seen | None]]:
    """One entry a frame of a source of ``total`` frames, for a single detector that leaves some of them out."""
    expected = 0
    for place, score, heatmap in scored:
        yield from repeat((None,), place - expected)
        yield ((score, heatmap),)
        expected = place + 1
    yield from repeat((None,), total - expected)


def baseline_frames(baselines: Sequence[Baseline], source: Source, spec: ClipSpec) -> Iterator[tuple[Seen | None, ...]]:
    """One entry a frame of ``source``, and in it one a baseline; a baseline's score is the largest value of its heat map."""
    for heatmaps in watch(baselines, source, spec):
        yield tuple(None if heatmap is None else (float(heatmap.max()), heatmap) for heatmap in heatmaps)


def _masks(clip: LabelledClip) -> Iterator[NDArray[np.bool_]]:
    if clip.masks is not None:
        yield from (clip.masks[frame] for frame in range(len(clip.labels)))
        return
    shape = footage_info([clip.source])
    yield from repeat(np.zeros((shape.height_px, shape.width_px), np.bool_), len(clip.labels))


def _count(counts: Sequence[PixelCounts], seen: tuple[Seen | None, ...], mask: NDArray[np.bool_] | None) -> None:
    if mask is None:
        return
    for pixels, one in zip(counts, seen, strict=True):
        pixels.add(None if one is None else one[1], mask)
