"""Scores of footage, frame by frame and causally, by an engine."""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from deploy.engine import Engine
from trainer.data import clip_windows
from trainer.footage import Footage

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


def score_clips(engine: Engine, clips: Iterable[Footage]) -> dict[str, NDArray[np.float32]]:
    """:func:`score_footage` of several clips, by name."""
    return dict(score_each(engine, clips))


def score_each(engine: Engine, clips: Iterable[Footage]) -> list[tuple[str, NDArray[np.float32]]]:
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
