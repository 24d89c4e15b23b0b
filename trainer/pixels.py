"""Area under the ROC curve over pixels: does the heat map point at what is anomalous?

*Streaming*: every pixel of every test frame has one value, that of the frame's heat map laid over the mask bilinearly, and one
global threshold is moved over all of them; nothing is normalised by clip or frame. The pixels of a frame without a heat map
point nowhere: they rank below all others, so its anomalous ones are missed at every threshold. This is not the "pixel-level
criterion" of Mahadevan et al. (CVPR 2010), which counts frames of which 40 % of the anomalous pixels are found.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

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
