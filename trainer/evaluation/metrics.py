"""Frame AUC under two protocols that must not be mixed, its bootstrap interval, and pixel AUC.

*Streaming*: one global threshold on causal, unnormalised scores; frames without a score get a constant known before the test.
*Literature*: the scores of each clip are scaled to the clip's own minimum and maximum and smoothed around each frame. This uses
the clip's future and assumes that every clip contains an anomaly.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Scores = Mapping[str, NDArray[np.float32]]
"""Scores by clip name: float32 (frames,), NaN for frames without a score."""
Labels = Mapping[str, NDArray[np.uint8]]
"""Frame labels by clip name: uint8 (frames,), 1 = anomalous."""

SMOOTHING_FRAMES = 17
"""Length of the centred mean of the literature protocol."""


def fill(scores: Scores, value: float) -> Scores:
    """Replace NaN by ``value``."""
    return {name: np.where(np.isnan(row), np.float32(value), row) for name, row in scores.items()}


def auc(scores: NDArray[np.float32], labels: NDArray[np.uint8]) -> float | None:
    """Area under the ROC curve; None if only one class occurs."""
    from sklearn.metrics import roc_auc_score

    if labels.min() == labels.max():
        return None
    return float(roc_auc_score(labels, scores))


def frame_auc(scores: Scores, labels: Labels, fill_value: float) -> float | None:
    """Area under the ROC curve over all frames of all clips; None if only one class occurs."""
    return auc(*_concatenated(scores, labels, fill_value))


def clip_aucs(scores: Scores, labels: Labels, fill_value: float) -> dict[str, float]:
    """Area under the ROC curve of each clip in which both classes occur."""
    filled = fill(scores, fill_value)
    aucs = {name: auc(filled[name], row) for name, row in labels.items()}
    return {name: value for name, value in aucs.items() if value is not None}


def literature_scores(scores: Scores, fill_value: float) -> Scores:
    """Scores of each clip scaled to [0, 1] by the clip's own extremes, then smoothed by a centred mean."""
    return {name: _scaled_and_smoothed(row) for name, row in fill(scores, fill_value).items()}


def frame_roc(scores: Scores, labels: Labels, fill_value: float) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """False alarm rates and hit rates, float64 (N,) from 0 to 1: the curve of :func:`frame_auc`; None for only one class."""
    from sklearn.metrics import roc_curve

    all_scores, all_labels = _concatenated(scores, labels, fill_value)
    if all_labels.min() == all_labels.max():
        return None
    false_alarm_rate, hit_rate, _ = roc_curve(all_labels, all_scores)
    return false_alarm_rate, hit_rate


def _concatenated(scores: Scores, labels: Labels, fill_value: float) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    filled = fill(scores, fill_value)
    return np.concatenate([filled[name] for name in labels]), np.concatenate(list(labels.values()))


def _scaled_and_smoothed(row: NDArray[np.float32]) -> NDArray[np.float32]:
    span = row.max() - row.min()
    row = (row - row.min()) / span if span > 0 else np.zeros_like(row)
    window = np.ones(min(SMOOTHING_FRAMES, len(row)), np.float32)
    # Divided by the frames really under the window, so that a clip's ends are not pulled to zero.
    weight = np.convolve(np.ones_like(row), window, mode="same")
    return np.asarray(np.convolve(row, window, mode="same") / weight, np.float32)


# --- Bootstrap: whole clips are resampled, because the frames of one clip are far from independent.

RESAMPLES = 1000
MIN_CLIPS = 5
"""Fewer clips have too few distinct resamples (at most 35 of four clips) for a 95 % interval."""


@dataclass(frozen=True, slots=True)
class BootstrapInterval:
    """95 % percentile interval of a metric over resampled clips."""

    low: float
    high: float
    clips: int
    resamples: int
    """Resamples that the interval is made of."""
    skipped: int
    """Resamples left out because only one class occurred in them."""


def frame_auc_interval(scores: Scores, labels: Labels, fill_value: float) -> BootstrapInterval | None:
    """Interval of :func:`frame_auc`; None with fewer than ``MIN_CLIPS`` clips, or if most resamples contain one class only."""
    if len(labels) < MIN_CLIPS:
        return None
    filled = fill(scores, fill_value)
    normal = [np.sort(filled[name][row == 0]) for name, row in labels.items()]
    anomalous = [filled[name][row == 1] for name, row in labels.items()]
    # A frame AUC is the share of (anomalous, normal) pairs that are ranked rightly. Counted once per pair of clips, a resample
    # only weighs the counts by how often it drew either clip.
    wins = np.array([[_pairs_won(high, low) for low in normal] for high in anomalous])
    draws = _draws(len(labels))
    pairs = (draws @ [len(frames) for frames in anomalous]) * (draws @ [len(frames) for frames in normal])
    return _interval(((draws @ wins) * draws).sum(axis=1), pairs, len(labels))


def mean_clip_auc_interval(aucs: Iterable[float]) -> BootstrapInterval | None:
    """Interval of the mean of the :func:`clip_aucs`; None if there are fewer than ``MIN_CLIPS``."""
    values = np.fromiter(aucs, np.float64)
    if len(values) < MIN_CLIPS:
        return None
    draws = _draws(len(values))
    return _interval(draws @ values, draws.sum(axis=1), len(values))


def _pairs_won(anomalous: NDArray[np.float32], sorted_normal: NDArray[np.float32]) -> float:
    """Pairs in which the anomalous frame scores higher; ties count half."""
    left, right = (np.searchsorted(sorted_normal, anomalous, side).sum() for side in ("left", "right"))
    return float(left + right) / 2


def _draws(clips: int) -> NDArray[np.int64]:
    """How often each resample draws each clip: int64 (RESAMPLES, clips)."""
    return np.random.default_rng(0).multinomial(clips, np.full(clips, 1 / clips), size=RESAMPLES)


def _interval(sums: NDArray[np.float64], weights: NDArray[Any], clips: int) -> BootstrapInterval | None:
    usable = weights > 0
    resamples = int(usable.sum())
    if resamples < RESAMPLES / 2:
        return None
    low, high = np.quantile(sums[usable] / weights[usable], (0.025, 0.975))
    return BootstrapInterval(float(low), float(high), clips, resamples, RESAMPLES - resamples)


# --- Pixels

_BITS = 18
_DROPPED_BITS = np.uint32(32 - _BITS)
_SIGN = np.uint32(1 << 31)


class PixelHistogram:
    """Histograms of heat for normal and anomalous pixels, for the pixel AUC in constant memory.

    Each frame's heat map is resized bilinearly to its mask; one global threshold holds for the pixels of all frames. Pixels of a
    frame without a heat map rank below all others. A bin holds the float32 values that share the 18 highest bits (sign, exponent
    and 9 bits of the fraction), so values that differ by less than one part in 512 may count as ties, which are half right.
    """

    def __init__(self, origin: float) -> None:
        """``origin``: the usual score, subtracted first so that a large constant does not use up the bits."""
        self._origin = np.float32(origin)
        self._counts = np.zeros((2, 1 << _BITS), np.int64)

    def add(self, heatmap: NDArray[np.float32] | None, mask: NDArray[np.bool_]) -> None:
        """Count one frame. ``heatmap``: float32 (h, w), or None without one; ``mask``: bool (H, W), True = anomalous."""
        if heatmap is None:
            self._counts[:, 0] += (~mask).sum(), mask.sum()
            return
        resized = np.asarray(cv2.resize(heatmap - self._origin, mask.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
        # Integers in the order of the values: IEEE 754 numbers are ordered like their bits, negative ones in reverse.
        bits = np.ascontiguousarray(resized).view(np.uint32)
        bins = np.where(bits & _SIGN, ~bits, bits | _SIGN) >> _DROPPED_BITS
        for anomalous, pixels in enumerate((bins[~mask], bins[mask])):
            self._counts[anomalous] += np.bincount(pixels, minlength=1 << _BITS)

    def auc(self) -> float | None:
        """Area under the ROC curve; None if all counted pixels are of one class."""
        normal, anomalous = self._counts.astype(np.float64)
        pairs = normal.sum() * anomalous.sum()
        if pairs == 0:
            return None
        below = np.cumsum(normal) - normal
        return float((anomalous * (below + normal / 2)).sum() / pairs)
