"""The moments of some footage that a model finds most unusual. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy.decide import DecisionRule
from trainer.events import announced_events

APART_S = 2.0
"""Between a moment below the threshold and any other one."""

Scores = Mapping[str, NDArray[np.float32]]
"""Clip -> one score a frame of its source, float32 (frames,); NaN where there is none."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A stretch of frames of one clip, counted from 0, both ends included."""

    clip: str
    first_frame: int
    last_frame: int
    peak_frame: int
    """The frame with the highest score of the stretch."""
    peak_score: float
    announced: bool
    """Whether the service would have announced it. If not, it is its peak alone."""


def unusual_moments(rule: DecisionRule, scores: Scores, fps: float, at_least: int) -> list[Moment]:
    """The announced events, highest peak first, and then the highest scores elsewhere until there are ``at_least`` moments."""
    announced = [
        _stretch(clip, row, event.started, event.ended)
        for clip, row in scores.items()
        for event in announced_events(rule, row, fps)
    ]
    left = {clip: row.copy() for clip, row in scores.items()}
    apart = max(1, round(APART_S * fps))
    for moment in announced:
        _take_out(left, moment, apart)
    others: list[Moment] = []
    while len(announced) + len(others) < at_least and any(np.isfinite(row).any() for row in left.values()):
        clip = max(left, key=lambda name: np.nanmax(left[name], initial=-np.inf))
        peak = int(np.nanargmax(left[clip]))
        others.append(Moment(clip, peak, peak, peak, float(left[clip][peak]), announced=False))
        _take_out(left, others[-1], apart)
    return [*sorted(announced, key=lambda moment: -moment.peak_score), *others]


def _stretch(clip: str, row: NDArray[np.float32], first: int, last: int) -> Moment:
    peak = first + int(np.nanargmax(row[first : last + 1]))
    return Moment(clip, first, last, peak, float(row[peak]), announced=True)


def _take_out(left: dict[str, NDArray[np.float32]], moment: Moment, apart: int) -> None:
    left[moment.clip][max(0, moment.first_frame - apart) : moment.last_frame + apart + 1] = np.nan
