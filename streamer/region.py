"""Heat map to region: where in the camera's picture the score comes from."""

import cv2
import numpy as np
from numpy.typing import NDArray

_HALF = 0.5
"""Cells at least half as hot as the hottest one belong to the region."""


def hot_region(heatmap: NDArray[np.float32], width_px: int, height_px: int) -> str:
    """The box around the hottest connected patch of ``heatmap``, float32 (h, w), as ``x,y,w,h`` in pixels of the picture."""
    floor = float(heatmap.min())
    hot = heatmap >= floor + _HALF * (float(heatmap.max()) - floor)
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(hot.astype(np.uint8), connectivity=8)
    peak = np.unravel_index(int(heatmap.argmax()), heatmap.shape)
    left, top, width, height = (int(value) for value in boxes[labels[peak]][:4])
    rows, columns = heatmap.shape
    x, right = left * width_px // columns, (left + width) * width_px // columns
    y, bottom = top * height_px // rows, (top + height) * height_px // rows
    return f"{x},{y},{max(right - x, 1)},{max(bottom - y, 1)}"
