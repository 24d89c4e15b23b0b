"""Parity check: an engine must give the scores, heat maps and states that the reference gave on the bundle's golden clips."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import GoldenClips
from deploy.engine import CachingEngine, Engine, Scores, State, upload_history
from deploy.errors import EngineFailed

F32_TOLERANCE = 1e-4
"""Separates float32 from other precisions. Measured on an encoder-decoder-encoder of 0.2 M parameters as the larger of score and
heat map error: order of additions 6e-7, float16 1e-3, bfloat16 1e-2."""


@dataclass(frozen=True, slots=True)
class Parity:
    """Deviation of an engine's results on the golden clips from the reference's."""

    clips: int
    max_score_error: float
    """Relative to the largest value of the reference's scores and heat maps, since all golden scores may be small by chance."""
    median_score_error: float
    max_heatmap_error: float  # relative to the largest value of the reference's heat maps
    max_state_error: float | None
    """Of the next states, each channel relative to its own largest value: channels have different units. None without a state."""


def measure_parity(engine: Engine, golden: GoldenClips) -> Parity:
    """Score the golden clips with ``engine`` and compare the results with the reference's.

    Raises EngineFailed if there are no golden clips, or heat maps or states have another shape than the reference's.
    """
    if not len(golden.clips):
        raise EngineFailed("the bundle holds no golden clips to try an engine on; make it again with oddsight-train")
    scores = _score_all(engine, golden)
    if scores.heatmap.shape != golden.heatmap.shape:
        raise EngineFailed(f"{engine.name}: heat maps {scores.heatmap.shape}, the reference's are {golden.heatmap.shape}")
    actual, expected = (None if state is None else state.shape for state in (scores.state, golden.next_state))
    if actual != expected:
        raise EngineFailed(f"{engine.name}: states {actual}, the reference's are {expected}")
    score_error = np.abs(scores.score - golden.score) / _largest(golden.score, golden.heatmap)
    return Parity(
        clips=len(golden.clips),
        max_score_error=float(score_error.max()),
        median_score_error=float(np.median(score_error)),
        max_heatmap_error=_max_error(scores.heatmap, golden.heatmap),
        max_state_error=_state_error(scores.state, golden.next_state),
    )


def check_parity(engine: Engine, golden: GoldenClips, tolerance: float = F32_TOLERANCE) -> Parity:
    """Measure parity. Raises EngineFailed if the largest error is above ``tolerance``, and as :func:`measure_parity` does."""
    parity = measure_parity(engine, golden)
    state_error = parity.max_state_error or 0.0
    # If one error is NaN, so is NumPy's maximum; Python's depends on their order.
    if not np.max([parity.max_score_error, parity.max_heatmap_error, state_error]) <= tolerance:
        raise EngineFailed(
            f"{engine.name}: scores differ from the reference's by up to {parity.max_score_error:.2g}, heat maps by up to "
            f"{parity.max_heatmap_error:.2g}, states by up to {state_error:.2g} (relative); at most {tolerance:g} is accepted; "
            "use another engine"
        )
    return parity


def check_resident(engine: CachingEngine, golden: GoldenClips, tolerance: float = F32_TOLERANCE) -> None:
    """Refuse an engine that gives other scores from cached frames and states than from whole clips.

    The golden clips are scored both ways, and once more as if each camera had sent its newest frame again.
    Raises EngineFailed if scores differ by more than ``tolerance``, relative to the largest.
    """
    clips = golden.clips[: min(engine.max_clips, engine.gpu_cached_cameras)]
    again = np.concatenate([clips[:, 1:], clips[:, -1:]], axis=1)
    before = upload_history(engine, clips)
    whole = engine.score(clips)
    newest = engine.score_newest(clips[:, -1], before, [None] * len(clips))
    following = [[*frames, last][1:] for frames, last in zip(before, newest.frames, strict=True)]
    pairs = [(whole, newest), (engine.score(again, whole.state), engine.score_newest(clips[:, -1], following, newest.states))]
    error = float(np.max([_max_error(cached.score, expected.score) for expected, cached in pairs]))
    if not error <= tolerance:
        raise EngineFailed(
            f"{engine.name}: scores from frames that stay on the device differ from those of whole clips by up to {error:.2g} "
            f"(relative); at most {tolerance:g} is accepted; set engine.gpu_cached_cameras to 0"
        )


def _score_all(engine: Engine, golden: GoldenClips) -> Scores:
    def part_of(values: Any, batch: slice) -> Any:
        return None if values is None else values[batch]

    batches = [slice(first, first + engine.max_clips) for first in range(0, len(golden.clips), engine.max_clips)]
    parts = [engine.score(golden.clips[batch], part_of(golden.state, batch), part_of(golden.profile, batch)) for batch in batches]
    states = [part.state for part in parts if part.state is not None]
    return Scores(
        score=np.concatenate([part.score for part in parts]),
        heatmap=np.concatenate([part.heatmap for part in parts]),
        state=np.concatenate(states) if states else None,
    )


def _state_error(actual: State | None, expected: State | None) -> float | None:
    if actual is None or expected is None:
        return None
    # A channel that the reference leaves at zero is measured by the rounding of the others.
    floor = float(np.finfo(np.float32).eps) * _largest(expected)
    return float(np.max([_max_error(actual[:, n], expected[:, n], floor) for n in range(expected.shape[1])]))


def _max_error(actual: NDArray[np.float32], expected: NDArray[np.float32], floor: float = 0.0) -> float:
    """Largest difference, relative to the largest expected value or ``floor``."""
    return float(np.abs(actual - expected).max()) / max(_largest(expected), floor)


def _largest(*arrays: NDArray[np.float32]) -> float:
    return max(*(float(np.abs(values).max()) for values in arrays), float(np.finfo(np.float32).tiny))
