"""Means of windows: a frame's score is that of its most unusual part, not of the whole."""

import cv2
import numpy as np
from numpy.typing import NDArray

WINDOW_PX = 28
"""Side of the windows of the plain measures: about a person's height in the benchmark sets."""


def window_means(values: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Mean of every window wholly inside ``values``, float32 (h, w): float32 (h - side + 1, w - side + 1).

    Where ``values`` is smaller than a window, the window is as large as fits.
    """
    side = min(side, *values.shape)
    # OpenCV names a window by its element number side // 2.
    first, last = side // 2, side - side // 2 - 1
    means = cv2.blur(values, (side, side))
    return np.asarray(means[first : values.shape[0] - last, first : values.shape[1] - last])


def over_frame(windows: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Give each place of a map of ``shape`` (h, w) the window around it; at the borders the nearest one inside."""
    rows, columns = (whole - inside for whole, inside in zip(shape, windows.shape, strict=True))
    before_and_after = [(missing - missing // 2, missing // 2) for missing in (rows, columns)]
    return np.pad(windows, before_and_after, mode="edge")
