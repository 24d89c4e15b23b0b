"""A heat map drawn over its frame, in colours that mean the same in every picture."""

import cv2
import numpy as np
from numpy.typing import NDArray

from deploy.bundle import Calibration
from deploy.frames import Frame

_SHORT_SIDE_PX = 360
_FULL = 2.0
"""The strongest colour: so many times as far above the median as the threshold is."""
_OPACITY = 0.6
_REDDEST = 218  # of the 256 colours of Turbo: after it they darken again
_TOP = 0.8
_WHITE = (255, 255, 255)


def overlay(frame: Frame, heatmap: NDArray[np.float32], calibration: Calibration) -> NDArray[np.uint8]:
    """:func:`tinted`, with a line around where the map reaches four fifths of its own largest value: BGR uint8 (H', W', 3).

    So a frame without colours shows its strangest place, too. Small frames are enlarged by a whole factor.
    """
    factor = max(1, round(_SHORT_SIDE_PX / min(frame.shape[:2])))
    size = (frame.shape[1] * factor, frame.shape[0] * factor)
    enlarged = np.asarray(cv2.resize(_bgr(frame), size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return _outlined(tinted(enlarged, heatmap, calibration), heatmap)


def tinted(frame: Frame, heatmap: NDArray[np.float32], calibration: Calibration) -> NDArray[np.uint8]:
    """``frame``, uint8 (H, W, 1 or 3), under ``heatmap``, float32 (h, w) in score units: BGR uint8 (H, W, 3).

    Values up to the median of normal scores are clear; the threshold has half the opacity, twice its height above the median
    the full one.
    """
    size = (frame.shape[1], frame.shape[0])
    height = (heatmap - calibration.median) / (calibration.enter - calibration.median)
    strength = cv2.resize(np.clip(height / _FULL, 0.0, 1.0).astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap((strength * _REDDEST).astype(np.uint8), cv2.COLORMAP_TURBO).astype(np.float32)
    opacity = _OPACITY * strength[..., None]
    return np.asarray(_bgr(frame) * (1 - opacity) + colours * opacity, np.uint8)


def _outlined(picture: NDArray[np.uint8], heatmap: NDArray[np.float32]) -> NDArray[np.uint8]:
    lowest = float(heatmap.min())
    top = heatmap >= lowest + _TOP * (float(heatmap.max()) - lowest)
    mask = cv2.resize(top.astype(np.uint8), (picture.shape[1], picture.shape[0]), interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return np.asarray(cv2.drawContours(picture, contours, -1, _WHITE, 1), np.uint8)


def _bgr(frame: Frame) -> NDArray[np.uint8]:
    return np.repeat(frame, 3, axis=2) if frame.shape[2] == 1 else frame
