"""Thresholds from the scores of normal footage.

``enter`` is extrapolated from the median and the tail of the scores (see :mod:`deploy.statistics`) instead of read from the
largest one, so that one unusual moment in the footage does not move it. If the tail is exponential, ``0.5 * 50 ** -k`` of normal
frames exceed ``median + k * (q99 - median)``. Two standard errors of the tail are added to the distance of both thresholds from
the median, so that little footage gives thresholds that are too high rather than too low.
"""

from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import Bundle, Calibration, read_bundle, replace_calibration, require_writable
from deploy.engine import EngineRequest
from deploy.registry import load_engine
from deploy.statistics import normal_tail
from trainer.data.datasets import training_sources
from trainer.data.footage import load_all_footage
from trainer.errors import OutputRefused, TooLittleFootage
from trainer.evaluation.runner import score_clips

MOST_CHANGE = 3.0  # light and season change a threshold by less, another view by far more
MIN_FRAMES = 50  # fewer scored frames do not show a tail

_ENTER_SPREADS = 1.5  # exceeded by one normal frame in 700, and an event needs several in a row
_EXIT_SPREADS = 1.0  # exceeded by one in 100: short dips do not split an event, and normal frames seldom prolong it
# In simulation one threshold in 20 is still too low if frames are independent, and one in ten if they are not.
_STANDARD_ERRORS = 2.0


def calibrate(bundle_path: Path, data: Path) -> Bundle:
    """Recalibrate a bundle on normal footage, scored by the bundle's default engine.

    Raises:
        TooLittleFootage: too few frames for a quantile.
        OutputRefused: the new threshold is so different that the footage shows another view; the bundle is unchanged.
        OddsightError: no footage, no usable bundle, or no engine.
    """
    bundle = read_bundle(bundle_path)
    require_writable(bundle, "its thresholds cannot be replaced; calibrate")
    clips = load_all_footage(training_sources(data), bundle.spec)
    with closing(load_engine(bundle, EngineRequest())) as engine:
        scores = np.concatenate([row for _, row in score_clips(engine, clips)])
    calibration = calibration_from(scores[np.isfinite(scores)])
    _require_same_view(bundle, calibration, data)
    return replace_calibration(bundle, calibration)


def _require_same_view(bundle: Bundle, new: Calibration, data: Path) -> None:
    old = bundle.calibration
    ratio = (new.enter - old.median) / max(old.enter - old.median, 1e-9)
    if not 1 / MOST_CHANGE <= ratio <= MOST_CHANGE:
        raise OutputRefused(
            f"{bundle.path}: the threshold would change from {old.enter:.3g} to {new.enter:.3g}, {ratio:.2g} times as far from "
            f"the median of normal scores; up to {MOST_CHANGE:g} times is taken for the same view. Check that {data} shows it; "
            "for another camera learn a profile (oddsight-train enrol) or train a bundle of its own"
        )


def calibration_from(scores: NDArray[np.float32]) -> Calibration:
    """The calibration from scores of normal frames in temporal order, float32 (N,).

    Raises:
        TooLittleFootage: fewer than ``MIN_FRAMES`` scores.
    """
    require_frames(len(scores))
    tail = normal_tail(scores)
    spread = max(tail.q99 - tail.median, abs(tail.median) * 1e-3, 1e-9) * (1.0 + _STANDARD_ERRORS * tail.error)
    return Calibration(
        median=tail.median,
        q99=tail.q99,
        q999=tail.return_level(1000.0),
        enter=tail.median + _ENTER_SPREADS * spread,
        exit=tail.median + _EXIT_SPREADS * spread,
        frames=len(scores),
    )


def require_frames(scored: int) -> None:
    """Raise TooLittleFootage if there are fewer than ``MIN_FRAMES`` scored normal frames to calibrate on."""
    if scored < MIN_FRAMES:
        raise TooLittleFootage(
            f"{scored} normal frames can be scored to calibrate on; at least {MIN_FRAMES} are needed, better 1000 "
            "(fit holds out a fifth of its footage for this): give more normal footage"
        )
