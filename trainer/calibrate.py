"""Thresholds from normal footage alone.

``enter`` is extrapolated from the median and the tail of normal scores (see :mod:`trainer.statistics`), never read off the largest
score: one strange moment in the calibration footage must not move it. Where the tail falls off exponentially,
``median + k * (q99 - median)`` is passed by ``0.5 * 50 ** -k`` of normal frames. Both thresholds lie farther from the median by
twice the standard error of the tail: little footage makes a careful threshold, not a lucky one.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import Bundle, Calibration, read_bundle, replace_calibration
from deploy.engine import EngineRequest
from deploy.engines.registry import load_engine
from trainer.data.datasets.registry import training_sources
from trainer.data.footage import load_all_footage
from trainer.errors import TooLittleFootage
from trainer.evaluation.runner import score_clips
from trainer.statistics import normal_tail

MIN_FRAMES = 50
"""Fewer scored frames say nothing about a tail."""

_ENTER_SPREADS = 1.5  # passed by one normal frame in 700, and an event needs several in a row
_EXIT_SPREADS = 1.0  # passed by one in 100: dips do not split an event, and normal frames seldom prolong it
_STANDARD_ERRORS = 2.0
"""In simulation one threshold in 20 is still lower than meant where frames are independent, one in ten where they are not."""


def calibration_from(scores: NDArray[np.float32]) -> Calibration:
    """Calibration from the scores of normal frames in the order of time, float32 (N,).

    Raises:
        TooLittleFootage: fewer than ``MIN_FRAMES`` scores.
    """
    require_frames(len(scores))
    tail = normal_tail(scores)
    surely = 1.0 + _STANDARD_ERRORS * tail.error
    spread = max(tail.q99 - tail.median, abs(tail.median) * 1e-3, 1e-9) * surely
    return Calibration(
        median=tail.median,
        q99=tail.q99,
        q999=tail.return_level(1000.0),
        enter=tail.median + _ENTER_SPREADS * spread,
        exit=tail.median + _EXIT_SPREADS * spread,
        frames=len(scores),
    )


def require_frames(scored: int) -> None:
    """Make sure that there are enough scored normal frames for a calibration.

    Raises:
        TooLittleFootage: there are fewer than ``MIN_FRAMES``.
    """
    if scored < MIN_FRAMES:
        raise TooLittleFootage(
            f"{scored} normal frames can be scored to calibrate on; at least {MIN_FRAMES} are needed, better 1000 "
            "(fit holds out a fifth of its footage for this): give more normal footage"
        )


def calibrate(bundle_path: Path, data: Path) -> Bundle:
    """Give a bundle thresholds made from somebody's own normal footage, scored by the bundle's default engine.

    Raises:
        TooLittleFootage: too few frames for a quantile.
        OddsightError: no footage, no usable bundle, or no engine.
    """
    bundle = read_bundle(bundle_path)
    clips = load_all_footage(training_sources(data), bundle.spec)
    engine = load_engine(bundle, EngineRequest())
    try:
        scores = [row for _, row in score_clips(engine, clips)]
    finally:
        engine.close()
    every = np.concatenate(scores)
    return replace_calibration(bundle, calibration_from(every[np.isfinite(every)]))
