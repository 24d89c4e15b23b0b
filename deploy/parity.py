"""Does an engine give the scores that the reference gave when the bundle was made?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import Golden
from deploy.engine import Engine, Scores
from deploy.errors import EngineFailed

F32_TOLERANCE = 1e-4
"""Between what float32 engines differ by and what another precision does, measured on an encoder-decoder-encoder of 0.2 M
parameters as the larger of score and heat map error: order of additions 6e-7, float16 1e-3, bfloat16 1e-2."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How far an engine's answers on the golden clips are from the reference's."""

    clips: int
    max_score_error: float
    """Relative to the largest value of the reference's scores and heat maps, which a score is the summit of: its own zero is
    anywhere, so that all golden scores may be small by chance."""
    median_score_error: float
    max_heatmap_error: float
    """Relative to the largest value of the reference's heat maps."""


def compare(engine: Engine, golden: Golden) -> Parity:
    """Score the golden clips with ``engine`` and measure the distance from the reference.

    Raises:
        EngineFailed: there are no golden clips, or the heat maps have another shape than the reference's.
    """
    if not len(golden.clips):
        raise EngineFailed("the bundle holds no golden clips to try an engine on; make it again with oddsight-train")
    scores = _score_all(engine, golden.clips)
    if scores.heatmap.shape != golden.heatmap.shape:
        raise EngineFailed(f"{engine.name}: heat maps {scores.heatmap.shape}, the reference's are {golden.heatmap.shape}")
    score_error = np.abs(scores.score - golden.score) / _size(golden.score, golden.heatmap)
    return Parity(
        clips=len(golden.clips),
        max_score_error=float(score_error.max()),
        median_score_error=float(np.median(score_error)),
        max_heatmap_error=_heatmap_error(scores.heatmap, golden.heatmap),
    )


def check(engine: Engine, golden: Golden, tolerance: float = F32_TOLERANCE) -> Parity:
    """Like :func:`compare`, and refuse an engine whose largest error is above ``tolerance``.

    Raises:
        EngineFailed: the engine computes something else than the reference.
    """
    parity = compare(engine, golden)
    worst = max(parity.max_score_error, parity.max_heatmap_error)
    if not worst <= tolerance:
        raise EngineFailed(
            f"{engine.name}: scores differ from the reference's by up to {parity.max_score_error:.2g}, heat maps by up to "
            f"{parity.max_heatmap_error:.2g} (relative); at most {tolerance:g} is accepted; use another engine"
        )
    return parity


def _score_all(engine: Engine, clips: NDArray[np.uint8]) -> Scores:
    parts = [engine.score(clips[first : first + engine.max_clips]) for first in range(0, len(clips), engine.max_clips)]
    return Scores(score=np.concatenate([part.score for part in parts]), heatmap=np.concatenate([part.heatmap for part in parts]))


def _heatmap_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(found - expected).max()) / _size(expected)


def _size(*expected: NDArray[np.float32]) -> float:
    return max(*(float(np.abs(values).max()) for values in expected), float(np.finfo(np.float32).tiny))
