"""Scores of footage, frame by frame and causally, by an engine."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from deploy.engine import Engine
from trainer.data import clip_windows
from trainer.footage import Footage


def score_footage(engine: Engine, footage: Footage) -> NDArray[np.float32]:
    """One score a frame of the source, float32 (total,); NaN where no clip ends: at the start and at unreadable frames."""
    scores = np.full(footage.total, np.nan, np.float32)
    for first, clips in clip_windows(footage.frames, engine.spec, engine.max_clips):
        scores[footage.index[first : first + len(clips)]] = engine.score(clips).score
    return scores


def score_clips(engine: Engine, clips: Iterable[Footage]) -> dict[str, NDArray[np.float32]]:
    """:func:`score_footage` of several clips, by name."""
    return {footage.name: score_footage(engine, footage) for footage in clips}
