"""Area under the ROC curve over pixels: does the heat map point at what is anomalous?

*Streaming*: every pixel of every test frame has one value, that of the frame's heat map laid over the mask bilinearly, and one
global threshold is moved over all of them; nothing is normalised by clip or frame. The pixels of a frame without a heat map
point nowhere: they rank below all others, so its anomalous ones are missed at every threshold. This is not the "pixel-level
criterion" of Mahadevan et al. (CVPR 2010), which counts frames of which 40 % of the anomalous pixels are found.

Frame-level measures under two protocols that must never be mixed.

*Streaming*: one global threshold, scores as they come, no normalisation and no look-ahead; frames that could not be
scored get a constant known beforehand. *Literature*: scores of each clip scaled to its own minimum and maximum and smoothed
around each frame, which uses the clip's future and takes for granted that every clip holds an anomaly.
"""

from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Scores = Mapping[str, NDArray[np.float32]]
"""One score a frame, float32 (frames,), by clip name; NaN for frames without a score."""
Labels = Mapping[str, NDArray[np.uint8]]
"""One label a frame, uint8 (frames,), by clip name; 1 = anomalous."""

SMOOTHING_FRAMES = 17
"""Length of the centred mean of the literature protocol."""


def fill(scores: Scores, value: float) -> Scores:
    """``scores`` with ``value`` in place of NaN."""
    return {name: np.where(np.isnan(row), np.float32(value), row) for name, row in scores.items()}


def frame_auc(scores: Scores, labels: Labels, fill_value: float) -> float | None:
    """Area under the ROC curve over all frames of all clips; None where only one class occurs."""
    filled = fill(scores, fill_value)
    return auc(np.concatenate([filled[name] for name in labels]), np.concatenate(list(labels.values())))


def clip_aucs(scores: Scores, labels: Labels, fill_value: float) -> dict[str, float]:
    """Area under the ROC curve of each clip in which both classes occur."""
    filled = fill(scores, fill_value)
    every = {name: auc(filled[name], row) for name, row in labels.items()}
    return {name: value for name, value in every.items() if value is not None}


def literature_scores(scores: Scores, fill_value: float) -> Scores:
    """Each clip scaled to [0, 1] by its own extremes, then smoothed by a centred mean."""
    return {name: _smoothed(_scaled(row)) for name, row in fill(scores, fill_value).items()}


def auc(scores: NDArray[np.float32], labels: NDArray[np.uint8]) -> float | None:
    """Area under the ROC curve; None where only one class occurs."""
    from sklearn.metrics import roc_auc_score

    if labels.min() == labels.max():
        return None
    return float(roc_auc_score(labels, scores))


class Roc(NamedTuple):
    """Points of a ROC curve, each float64 (N,) in [0, 1], from (0, 0) to (1, 1)."""

    false_alarm_rate: NDArray[np.float64]
    hit_rate: NDArray[np.float64]


def frame_roc(scores: Scores, labels: Labels, fill_value: float) -> Roc | None:
    """The curve whose area is :func:`frame_auc`; None where only one class occurs."""
    from sklearn.metrics import roc_curve

    every = np.concatenate(list(labels.values()))
    if every.min() == every.max():
        return None
    filled = fill(scores, fill_value)
    false_alarm_rate, hit_rate, _ = roc_curve(every, np.concatenate([filled[name] for name in labels]))
    return Roc(false_alarm_rate, hit_rate)


def _scaled(row: NDArray[np.float32]) -> NDArray[np.float32]:
    span = row.max() - row.min()
    return (row - row.min()) / span if span > 0 else np.zeros_like(row)


def _smoothed(row: NDArray[np.float32]) -> NDArray[np.float32]:
    window = np.ones(min(SMOOTHING_FRAMES, len(row)), np.float32)
    # Divided by the frames really under the window, so that a clip's ends are not pulled to zero.
    weight = np.convolve(np.ones_like(row), window, mode="same")
    return np.asarray(np.convolve(row, window, mode="same") / weight, np.float32)


_BITS = 18
_DROPPED_BITS = np.uint32(32 - _BITS)
_SIGN = np.uint32(1 << 31)


class PixelCounts:
    """Counts of normal and of anomalous pixels by heat: memory is the same for any number of frames.

    Values are counted by the 18 highest bits of their float32 representation: sign, exponent and 9 bits of the fraction. Values
    that differ by less than one part in 512 may count as ties, which are half right.
    """

    def __init__(self, origin: float) -> None:
        """``origin``: the usual score, from which values are measured, lest a large constant take up all bits."""
        self._origin = np.float32(origin)
        self._counts = np.zeros((2, 1 << _BITS), np.int64)

    def add(self, heatmap: NDArray[np.float32] | None, mask: NDArray[np.bool_]) -> None:
        """Count one frame. ``heatmap``: float32 (h, w), or None where there is none; ``mask``: bool (H, W), True = anomalous."""
        if heatmap is None:
            self._counts[:, 0] += (~mask).sum(), mask.sum()
            return
        laid = np.asarray(cv2.resize(heatmap - self._origin, mask.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
        places = _rank(laid)
        for anomalous, pixels in enumerate((places[~mask], places[mask])):
            self._counts[anomalous] += np.bincount(pixels, minlength=1 << _BITS)

    def auc(self) -> float | None:
        """Area under the ROC curve; None where all pixels counted are of one class."""
        normal, anomalous = self._counts.astype(np.float64)
        pairs = normal.sum() * anomalous.sum()
        if pairs == 0:
            return None
        below = np.cumsum(normal) - normal
        return float((anomalous * (below + normal / 2)).sum() / pairs)


def _rank(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Integers in the order of the values: IEEE 754 numbers are ordered like their bits, negative ones in reverse."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    return ordered >> _DROPPED_BITS
