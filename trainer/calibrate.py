"""Thresholds from normal footage alone.

``enter`` is extrapolated from the median and the 99 % quantile, never read off the largest score: one strange frame in
the calibration footage must not move it. Where the tail of normal scores falls off exponentially, its distance above the
median grows with the logarithm of the rarity: q99 is a factor 50 below the median's rarity, so ``median + k * (q99 -
median)`` is passed by ``0.5 * 50 ** -k`` of normal frames.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import Bundle, Calibration, read_bundle, replace_calibration
from deploy.engine import DEFAULT_ENGINE, load_engine
from trainer.errors import TooLittleFootage
from trainer.footage import load_all, training_sources
from trainer.scoring import score_footage

MIN_FRAMES = 50
"""Fewer scored frames say nothing about a 99 % quantile."""

_ENTER_SPREADS = 1.5  # passed by one normal frame in 700, and an event needs several in a row
_EXIT_SPREADS = 1.0  # passed by one in 100: dips do not split an event, and normal frames seldom prolong it
_Q999_SPREADS = np.log(500.0) / np.log(50.0)


def calibration_from(scores: NDArray[np.float32]) -> Calibration:
    """Calibration from the scores of normal frames, float32 (N,).

    Raises:
        TooLittleFootage: fewer than ``MIN_FRAMES`` scores.
    """
    require_frames(len(scores))
    median, q99 = (float(value) for value in np.quantile(scores, (0.5, 0.99), method="inverted_cdf"))
    spread = max(q99 - median, abs(median) * 1e-3, 1e-9)
    return Calibration(
        median=median,
        q99=q99,
        q999=median + float(_Q999_SPREADS) * spread,
        enter=median + _ENTER_SPREADS * spread,
        exit=median + _EXIT_SPREADS * spread,
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
    clips = load_all(training_sources(data), bundle.spec)
    engine = load_engine(bundle, DEFAULT_ENGINE)
    try:
        scores = [score_footage(engine, footage) for footage in clips]
    finally:
        engine.close()
    every = np.concatenate(scores)
    return replace_calibration(bundle, calibration_from(every[np.isfinite(every)]))
