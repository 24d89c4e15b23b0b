"""What normal footage shows of the scores: the calibration that thresholds follow from (see :mod:`deploy.calibration`)."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import Bundle, read_bundle, replace_calibration, require_writable
from deploy.calibration import DEFAULT_BUDGET, Calibration, calibrate_scores, scored_at_rate, thresholds, with_peaks
from deploy.decision import DecisionTimes
from deploy.engine import EngineRequest
from deploy.registry import load_engine
from trainer.data.datasets import training_sources
from trainer.data.footage import footage_info, load_all_footage
from trainer.errors import OutputRefused, TooLittleFootage
from trainer.evaluation.runner import score_clips

MOST_CHANGE = 3.0  # light and season change a threshold by less, another view by far more
NORMAL_RANGE = 1.0  # score that one frame in a hundred of normal footage exceeds, see trainer.models.base.normal_range
MIN_FRAMES = 20  # fewer scored frames show no more than one situation


def calibrate(bundle_path: Path, data: Path) -> Bundle:
    """Recalibrate a bundle on normal footage, scored by the bundle's default engine.

    Raises:
        TooLittleFootage: too few frames.
        OutputRefused: the new threshold is so different that the footage shows another view; the bundle is unchanged.
        OddsightError: no footage, no usable bundle, or no engine.
    """
    bundle = read_bundle(bundle_path)
    require_writable(bundle, "its thresholds cannot be replaced; calibrate")
    sources = training_sources(data)
    clips = load_all_footage(sources, bundle.spec)
    with closing(load_engine(bundle, EngineRequest())) as engine:
        rows = [row for _, row in score_clips(engine, clips)]
    calibration = calibration_from(rows, footage_info(sources).fps)
    _require_same_view(bundle, calibration, data)
    return replace_calibration(bundle, calibration)


def _require_same_view(bundle: Bundle, new: Calibration, data: Path) -> None:
    before, after = (thresholds(each, DEFAULT_BUDGET, DecisionTimes()) for each in (bundle.calibration, new))
    ratio = (after.enter - before.median) / (before.enter - before.median)
    if not 1 / MOST_CHANGE <= ratio <= MOST_CHANGE:
        raise OutputRefused(
            f"{bundle.path}: the threshold would change from {before.enter:.3g} to {after.enter:.3g}, {ratio:.2g} times as far "
            f"from the median of normal scores; up to {MOST_CHANGE:g} times is taken for the same view. Check that {data} "
            "shows it; for another camera learn a profile (oddsight-train enrol) or train a bundle of its own"
        )


def calibration_from(
    rows: Sequence[NDArray[np.float32]], fps: float, known_peaks: Sequence[float] = (NORMAL_RANGE,)
) -> Calibration:
    """The calibration from scores of normal footage: float32 (frames,) for each clip or part of one, NaN without a score.

    ``known_peaks``: of other normal footage. Networks scale their scores so that the footage which set their ranges reached
    ``NORMAL_RANGE``; this keeps thresholds from falling below it where a few seconds of footage happen to be calm.

    Raises:
        TooLittleFootage: fewer than ``MIN_FRAMES`` scores.
    """
    require_frames(sum(int(np.isfinite(row).sum()) for row in rows))
    return with_peaks(calibrate_scores([scored_at_rate(row, fps) for row in rows], DecisionTimes()), known_peaks)


def require_frames(scored: int) -> None:
    """Raise TooLittleFootage if there are fewer than ``MIN_FRAMES`` scored normal frames to calibrate on."""
    if scored < MIN_FRAMES:
        raise TooLittleFootage(
            f"{scored} normal frames can be scored to calibrate on; at least {MIN_FRAMES} are needed, better 1000 "
            "(fit holds out a tenth of its footage for this): give more normal footage"
        )
