"""Calibrations with given thresholds."""

from deploy.calibration import Calibration, Thresholds, thresholds
from deploy.decision import DecisionTimes


def calibration_of(*, enter: float, exit_: float) -> Calibration:
    """The calibration that gives these thresholds at a budget of one event a day, whatever the times of the rule."""
    # The exit threshold lies two thirds of the way from the median to the enter threshold.
    median = 3 * exit_ - 2 * enter
    return Calibration(median=median, peaks=(enter,), observed_s=86_400.0, times=DecisionTimes(min_duration_ms=0, merge_gap_ms=0))


def limits_of(calibration: Calibration, budget: float = 1.0) -> Thresholds:
    """The thresholds of a rule with the default times."""
    return thresholds(calibration, budget, DecisionTimes())
