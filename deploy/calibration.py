"""From the scores of ordinary footage to thresholds that keep a budget of false events.

What counts is events, so events are what is measured: how many the decision rule would announce in the footage at each ``enter``
threshold. A :class:`Calibration` keeps the result as *peaks*: the k-th is the highest threshold at which the rule announces k
events. So one calibration serves any budget, and several stretches of footage are merged by sorting their peaks.

Footage of the same length that is yet to come is expected to have k events at the k-th peak, whatever the distribution of scores
is, so :func:`thresholds` reads the threshold for a budget from the peaks. For fewer events than one it extrapolates: how far high
peaks lie above a level is distributed about exponentially (peaks over threshold, see Coles, An Introduction to Statistical
Modeling of Extreme Values, 2001, chapter 4). Where it is not, the promise that comes with the thresholds holds still: it counts.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from deploy.decision import DecisionTimes

DEFAULT_BUDGET = 1.0
"""False events that a camera may raise a day, unless the operator says otherwise."""
MOST_PEAKS = 256
"""Peaks that are kept: a budget of 100 events a day is read from up to two days of footage."""
TAIL_PEAKS = 20
"""Peaks that the extrapolation rests on: more would show the bulk of the scores instead of their tail."""
LEAST_EXTRAPOLATION, EXTRAPOLATION_PER_HOUR = 3.0, 10.0
"""A threshold is at most the one that is expected to be reached once in so many times the observed time: three times, and from 18
minutes on ten times for each hour of it, because a few minutes do not show what a day brings. An hour and a half is enough for a
budget of one event a day."""
EXIT_HEIGHT = 2 / 3
"""Height of ``exit`` above the median score, relative to that of ``enter``."""

_LEVELS = 200  # thresholds at which events are counted
_RUNS = 100.0  # stretches of the observed time that may each hold an event of its own, or the count would end at a few
_LEAST_HEIGHT = 1e-3  # relative to the median: scores that never change get a threshold above them, too
_DAY_S = 86_400.0
_DEVIATES = 1.645  # standard normal deviates of a one-sided 95 % limit


Score = Annotated[float, Field(ge=-1e30, le=1e30, allow_inf_nan=False)]
"""Far beyond the scores of any model, and far below where a difference of two becomes infinite and a threshold NaN."""


class Calibration(BaseModel):
    """What ordinary footage of one camera showed of its scores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    median: Score
    """Median score."""
    peaks: tuple[Score, ...] = Field(max_length=MOST_PEAKS)
    """Falling; the k-th is the highest ``enter`` at which the rule announces k events, in score units."""
    observed_s: float = Field(gt=0, le=1e10, allow_inf_nan=False)
    """Duration of the footage."""
    times: DecisionTimes
    """Of the rule by which the events were counted."""

    @property
    def calibration_id(self) -> str:
        """Short hash of the content, part of every event."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]


class ScoredFrames(NamedTuple):
    """Frames of one camera that follow each other without a gap."""

    captured_at_ms: NDArray[np.int64]
    """(N,), rising."""
    scores: NDArray[np.float32]
    """(N,); NaN for a frame without a score."""


class Thresholds(NamedTuple):
    """Thresholds of one camera and its median score, in score units, and what they promise."""

    median: float
    enter: float
    exit: float
    bound: float
    """False events a day at most, with 95 % confidence, while what is ordinary stays as it was in the observed footage.
    Infinite if the rule announces events sooner, or merges fewer, than the one by which the calibration's were counted."""


def scored_at_rate(scores: NDArray[np.float32], fps: float) -> ScoredFrames:
    """The frames of footage with so many frames per second; ``scores``: float32 (N,)."""
    return ScoredFrames(np.round(np.arange(len(scores)) * (1000.0 / fps)).astype(np.int64), scores)


def split_at_gaps(captured_at_ms: NDArray[np.int64], scores: NDArray[np.float32], max_gap_ms: float) -> list[ScoredFrames]:
    """The parts of a camera's frames between times without any; ``captured_at_ms`` and ``scores``: (N,)."""
    gaps = np.flatnonzero(np.abs(np.diff(captured_at_ms)) > max_gap_ms) + 1
    return [ScoredFrames(*part) for part in zip(np.split(captured_at_ms, gaps), np.split(scores, gaps), strict=True)]


def calibrate_scores(parts: Sequence[ScoredFrames], times: DecisionTimes) -> Calibration:
    """The calibration of ordinary footage in some parts, with gaps between them; at least two frames of one must have scores.

    ``times``: of the rule that will decide.
    """
    observed_s = sum(map(_duration_s, parts))
    scores = np.concatenate([part.scores for part in parts])
    median = float(np.nanmedian(scores))
    gap_ms = max(min(times.merge_gap_ms, 1000), min(times.merge_gap_ms, round(1000 * observed_s / _RUNS)))
    times = times.model_copy(update={"merge_gap_ms": gap_ms})
    heights = [_announcing_heights(part, median, times) for part in parts]
    levels = _levels(np.concatenate(heights))
    counts = [
        sum(_count(part, height, median, level, times) for part, height in zip(parts, heights, strict=True)) for level in levels
    ]
    peaks = [
        median + level
        for level, more in zip(levels, np.diff(np.maximum.accumulate([0, *counts])), strict=True)
        for _ in range(more)
    ]
    return Calibration(median=median, peaks=tuple(peaks[:MOST_PEAKS]), observed_s=observed_s, times=times)


def with_peaks(calibration: Calibration, known: Sequence[float]) -> Calibration:
    """The calibration with peaks that are known of other ordinary footage, in score units."""
    peaks = sorted((*calibration.peaks, *known), reverse=True)[:MOST_PEAKS]
    return calibration.model_copy(update={"peaks": tuple(peaks)})


def merge(earlier: Calibration, later: Calibration, memory_s: float) -> Calibration:
    """One calibration of the footage of both; of more than ``memory_s`` seconds together, the earlier counts for less."""
    share = min(1.0, max(0.0, memory_s - later.observed_s) / earlier.observed_s)
    kept = _thinned(earlier.peaks, share) if share else []
    observed_s = share * earlier.observed_s + later.observed_s
    median = (share * earlier.observed_s * earlier.median + later.observed_s * later.median) / observed_s
    times = DecisionTimes(
        min_duration_ms=max(earlier.times.min_duration_ms, later.times.min_duration_ms),
        merge_gap_ms=max(earlier.times.merge_gap_ms, later.times.merge_gap_ms),
    )
    peaks = sorted([*kept, *later.peaks], reverse=True)[:MOST_PEAKS]
    return Calibration(median=median, peaks=tuple(peaks), observed_s=observed_s, times=times)


def _thinned(peaks: Sequence[float], share: float) -> list[float]:
    """So large a share of falling peaks, spread evenly over them: the n-th is the n / share-th of before."""
    return [peaks[math.ceil((number + 1) / share) - 1] for number in range(int(len(peaks) * share))]


def thresholds(calibration: Calibration, budget: float, times: DecisionTimes) -> Thresholds:
    """The thresholds at which a rule with these times announces about ``budget`` false events a day, and what they promise.

    Footage that is too short for the budget gives lower thresholds, see ``LEAST_EXTRAPOLATION``. The bound says so.
    """
    least = 1 / max(LEAST_EXTRAPOLATION, EXTRAPOLATION_PER_HOUR * calibration.observed_s / 3600)
    events = max(budget * calibration.observed_s / _DAY_S, least)
    return thresholds_at(calibration, _enter(calibration, events), times)


def thresholds_at(calibration: Calibration, enter: float, times: DecisionTimes) -> Thresholds:
    """The thresholds with this ``enter``, and what they promise if a rule with these times decides."""
    counted = calibration.times
    holds = times.min_duration_ms >= counted.min_duration_ms and times.merge_gap_ms >= counted.merge_gap_ms
    seen = sum(peak >= enter for peak in calibration.peaks)
    bound = _most(seen) * _DAY_S / calibration.observed_s if holds and seen < MOST_PEAKS else math.inf
    exit_ = min(enter, calibration.median + EXIT_HEIGHT * (enter - calibration.median))
    return Thresholds(calibration.median, enter, exit_, bound)


def _enter(calibration: Calibration, events: float) -> float:
    """The threshold at which so many events are expected in the observed time."""
    peaks = np.asarray(calibration.peaks)
    lowest = calibration.median + max(_LEAST_HEIGHT * abs(calibration.median), 1e-9)
    if not len(peaks):
        return lowest
    if events >= 1:
        return max(lowest, float(np.interp(math.log(events), np.log(np.arange(1, 1 + len(peaks))), peaks)))
    # An exponential tail above a level, by its maximum likelihood: the highest peak alone says little about the tail.
    count = min(TAIL_PEAKS, len(peaks))
    level = float(peaks[count]) if count < len(peaks) else calibration.median
    return max(lowest, float(peaks[0]), level + (float(peaks[:count].mean()) - level) * math.log(count / events))


def _most(count: int) -> float:
    """One-sided 95 % limit of a Poisson mean after ``count``, by Wilson and Hilferty's root of the chi-squared distribution."""
    shape = count + 1
    return float(shape * (1 - 1 / (9 * shape) + _DEVIATES / (3 * math.sqrt(shape))) ** 3)


def count_events(part: ScoredFrames, median: float, enter: float, times: DecisionTimes) -> int:
    """The events that the rule announces in a part at a threshold, as :func:`deploy.decision.decide` would, only faster."""
    height = enter - median
    return _count(part, _announcing_heights(part, median, times), median, height, times)


def _announcing_heights(part: ScoredFrames, median: float, times: DecisionTimes) -> NDArray[np.float64]:
    """The highest threshold, as height above the median, at which an event that is announced begins at each frame, (N,)."""
    scores = np.nan_to_num(part.scores.astype(np.float64) - median, nan=-np.inf)
    ends = np.searchsorted(part.captured_at_ms, part.captured_at_ms + times.min_duration_ms)
    lowest = scores.copy()
    for step in range(1, 1 + int((ends - np.arange(len(ends))).max(initial=0))):
        reached = np.flatnonzero(np.arange(len(ends)) + step <= ends)
        after = np.append(scores, -np.inf)[reached + step]  # what the footage does not show is not announced
        lowest[reached] = np.minimum(lowest[reached], after)
    return np.minimum(scores, lowest / EXIT_HEIGHT)


def _levels(heights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Falling heights above 0, closer to each other where fewer frames are: every one of the highest, one in many below."""
    falling = np.sort(heights[heights > 0])[::-1]
    ranks = np.unique(np.geomspace(1, max(len(falling), 1), _LEVELS).astype(int)) - 1
    return np.unique(falling[ranks])[::-1] if len(falling) else falling


def _count(part: ScoredFrames, heights: NDArray[np.float64], median: float, height: float, times: DecisionTimes) -> int:
    active = np.flatnonzero(part.scores >= median + EXIT_HEIGHT * height)
    if not len(active):
        return 0
    new = np.diff(part.captured_at_ms[active], prepend=part.captured_at_ms[active[0]]) > times.merge_gap_ms
    return len(np.unique(np.cumsum(new)[heights[active] >= height]))


def _duration_s(part: ScoredFrames) -> float:
    """The time that the frames with a score stand for."""
    scored = part.captured_at_ms[np.isfinite(part.scores)]
    return len(scored) * float(np.median(np.diff(scored))) / 1000 if len(scored) > 1 else 0.0
