"""Does an engine give the scores that the reference gave when the bundle was made?"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import Golden
from deploy.engine import Engine, ResidentEngine, Scores, State, upload_before
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
    max_state_error: float | None
    """Of the next states, each channel relative to its own largest value: channels have different units. None without a state."""


def compare(engine: Engine, golden: Golden) -> Parity:
    """Score the golden clips with ``engine`` and measure the distance from the reference.

    Raises:
        EngineFailed: there are no golden clips, or heat maps or states have another shape than the reference's.
    """
    if not len(golden.clips):
        raise EngineFailed("the bundle holds no golden clips to try an engine on; make it again with oddsight-train")
    scores = _score_all(engine, golden)
    if scores.heatmap.shape != golden.heatmap.shape:
        raise EngineFailed(f"{engine.name}: heat maps {scores.heatmap.shape}, the reference's are {golden.heatmap.shape}")
    if _shape(scores.state) != _shape(golden.next_state):
        raise EngineFailed(f"{engine.name}: states {_shape(scores.state)}, the reference's are {_shape(golden.next_state)}")
    score_error = np.abs(scores.score - golden.score) / _size(golden.score, golden.heatmap)
    return Parity(
        clips=len(golden.clips),
        max_score_error=float(score_error.max()),
        median_score_error=float(np.median(score_error)),
        max_heatmap_error=_heatmap_error(scores.heatmap, golden.heatmap),
        max_state_error=_state_error(scores.state, golden.next_state),
    )


def check(engine: Engine, golden: Golden, tolerance: float = F32_TOLERANCE) -> Parity:
    """Like :func:`compare`, and refuse an engine whose largest error is above ``tolerance``.

    Raises:
        EngineFailed: the engine computes something else than the reference.
    """
    parity = compare(engine, golden)
    state_error = parity.max_state_error or 0.0
    # numpy's maximum is no number if one of the errors is none; Python's would depend on their order.
    if not np.max([parity.max_score_error, parity.max_heatmap_error, state_error]) <= tolerance:
        raise EngineFailed(
            f"{engine.name}: scores differ from the reference's by up to {parity.max_score_error:.2g}, heat maps by up to "
            f"{parity.max_heatmap_error:.2g}, states by up to {state_error:.2g} (relative); at most {tolerance:g} is accepted; "
            "use another engine"
        )
    return parity


def check_resident(engine: ResidentEngine, golden: Golden, tolerance: float = F32_TOLERANCE) -> None:
    """Refuse an engine that gives other scores from frames and states on its device than from whole clips.

    The golden clips are scored in both ways, and once more as if each camera had shown its newest frame again.

    Raises:
        EngineFailed: scores differ by more than ``tolerance``, relative to the largest.
    """
    clips = golden.clips[: min(engine.max_clips, engine.gpu_cached_cameras)]
    again = np.concatenate([clips[:, 1:], clips[:, -1:]], axis=1)
    before = upload_before(engine, clips)
    whole = engine.score(clips)
    newest = engine.score_newest(clips[:, -1], before, [None] * len(clips))
    following = [[*frames, last][1:] for frames, last in zip(before, newest.frames, strict=True)]
    pairs = [(whole, newest), (engine.score(again, whole.state), engine.score_newest(clips[:, -1], following, newest.states))]
    error = float(np.max([np.abs(found.score - expected.score).max() / _size(expected.score) for expected, found in pairs]))
    if not error <= tolerance:
        raise EngineFailed(
            f"{engine.name}: scores from frames that stay on the device differ from those of whole clips by up to {error:.2g} "
            f"(relative); at most {tolerance:g} is accepted; set engine.gpu_cached_cameras to 0"
        )


def _score_all(engine: Engine, golden: Golden) -> Scores:
    parts = [
        engine.score(golden.clips[first:end], None if golden.state is None else golden.state[first:end])
        for first, end in _slices(len(golden.clips), engine.max_clips)
    ]
    states = [part.state for part in parts if part.state is not None]
    return Scores(
        score=np.concatenate([part.score for part in parts]),
        heatmap=np.concatenate([part.heatmap for part in parts]),
        state=np.concatenate(states) if states else None,
    )


def _slices(count: int, size: int) -> Iterator[tuple[int, int]]:
    return ((first, first + size) for first in range(0, count, size))


def _shape(state: State | None) -> tuple[int, ...] | None:
    return None if state is None else state.shape


def _heatmap_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(found - expected).max()) / _size(expected)


def _state_error(found: State | None, expected: State | None) -> float | None:
    if found is None or expected is None:
        return None
    # A channel that the reference leaves at zero is measured by the rounding of the others.
    floor = float(np.finfo(np.float32).eps) * _size(expected)
    return float(np.max([_channel_error(found[:, n], expected[:, n], floor) for n in range(expected.shape[1])]))


def _channel_error(found: NDArray[np.float32], expected: NDArray[np.float32], floor: float) -> float:
    return float(np.abs(found - expected).max()) / max(_size(expected), floor)


def _size(*expected: NDArray[np.float32]) -> float:
    return max(*(float(np.abs(values).max()) for values in expected), float(np.finfo(np.float32).tiny))
