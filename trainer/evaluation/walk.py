"""Walks over the test footage once for each engine, once for all baselines, and keeps scores and counts, not heat maps."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from deploy.spec import ClipSpec
from trainer.baselines.baseline import Baseline
from trainer.baselines.run import watch
from trainer.footage import Source, footage_shape
from trainer.labelled import LabelledClip
from trainer.metrics import Scores
from trainer.pixels import PixelCounts

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
    shape = footage_shape([clip.source])
    yield from repeat(np.zeros((shape.height_px, shape.width_px), np.bool_), len(clip.labels))


def _count(counts: Sequence[PixelCounts], seen: tuple[Seen | None, ...], mask: NDArray[np.bool_] | None) -> None:
    if mask is None:
        return
    for pixels, one in zip(counts, seen, strict=True):
        pixels.add(None if one is None else one[1], mask)
