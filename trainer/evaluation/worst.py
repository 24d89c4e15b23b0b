"""The worst mistakes: where the scores lie furthest on the wrong side of the threshold. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.metrics import Labels, Scores

JOINED_S = 1.0
"""Wrong frames at most so far apart belong to one stretch, as dips of that length do not split an event."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """The worst frame of a stretch of wrong frames, or of a clip that has none."""

    clip: str
    frame: int
    """Its place in the clip, counted from 0."""
    score: float
    first_frame: int
    last_frame: int
    """The stretch, both ends included; without one the frame alone."""
    wrong: bool
    """Whether its score lies on the wrong side of the threshold."""


def worst_misses(scores: Scores, labels: Labels, threshold: float, fps: float) -> list[Mistake]:
    """Anomalous frames by their scores, the lowest first; wrong ones are below ``threshold``. One a stretch.

    Frames without a score are left out. Of a clip whose anomalous frames all pass, the lowest one is there with ``wrong`` False.
    """
    every = [
        mistake
        for name, row in scores.items()
        for mistake in _mistakes(name, row, labels[name] == 1, row < threshold, Order(worse=-1, joined=round(JOINED_S * fps)))
    ]
    return sorted(every, key=lambda mistake: mistake.score)


def worst_false_alarms(scores: Scores, labels: Labels, threshold: float, fps: float) -> list[Mistake]:
    """Normal frames by their scores, the highest first; wrong ones are at ``threshold`` or above. One a stretch, as above."""
    every = [
        mistake
        for name, row in scores.items()
        for mistake in _mistakes(name, row, labels[name] == 0, row >= threshold, Order(worse=1, joined=round(JOINED_S * fps)))
    ]
    return sorted(every, key=lambda mistake: -mistake.score)


class Order(NamedTuple):
    """How mistakes are told apart and compared."""

    worse: int
    """1 where high scores are worse, -1 where low ones are."""
    joined: int
    """Frames."""


def _mistakes(
    name: str, scores: NDArray[np.float32], wanted: NDArray[np.bool_], wrong: NDArray[np.bool_], order: Order
) -> Iterator[Mistake]:
    candidates = np.flatnonzero(wanted & np.isfinite(scores))
    mistaken = candidates[wrong[candidates]]
    for stretch in _stretches(mistaken, order.joined):
        frame = _worst(scores, stretch, order)
        yield Mistake(name, frame, float(scores[frame]), int(stretch[0]), int(stretch[-1]), wrong=True)
    if len(candidates) and not len(mistaken):
        frame = _worst(scores, candidates, order)
        yield Mistake(name, frame, float(scores[frame]), frame, frame, wrong=False)


def _worst(scores: NDArray[np.float32], frames: NDArray[np.int64], order: Order) -> int:
    return int(frames[(order.worse * scores[frames]).argmax()])


def _stretches(frames: NDArray[np.int64], joined: int) -> list[NDArray[np.int64]]:
    return np.split(frames, np.flatnonzero(np.diff(frames) > joined) + 1) if len(frames) else []
