"""What no learning at all achieves: the classical measures that every model is reported next to."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deploy.spec import ClipSpec
from trainer.footage import Footage, FootageShape

WINDOW_PX = 28
"""Side of the windows, in pixels of the original picture."""
_SIDE_LIMITS_PX = (32, 2048)


def baseline_spec(shape: FootageShape) -> ClipSpec:
    """Frames as the baseline wants them: gray, at the footage's full size; pairs of them."""
    width_px, height_px = (int(np.clip(side, *_SIDE_LIMITS_PX)) for side in (shape.width_px, shape.height_px))
    return ClipSpec(length=2, height_px=height_px, width_px=width_px, colour="gray", fps=shape.fps)


def flow_magnitude(footage: Footage) -> NDArray[np.float32]:
    """Largest mean speed, in pixels a frame, of a window of the frame: float32 (total,), NaN where there is no frame before.

    Dense optical flow (DIS, preset MEDIUM) from each readable frame to the one before.
    """
    algorithm = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    scores = np.full(footage.total, np.nan, np.float32)
    frames = footage.frames[..., 0]
    for place, before, now in zip(footage.index[1:], frames[:-1], frames[1:], strict=True):
        scores[place] = _largest_window(_flow(algorithm, now, before))
    return scores


def _flow(algorithm: Any, frame: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.float32]:
    # OpenCV's type stubs do not know that the initial flow may be None.
    return np.asarray(algorithm.calc(frame, target, None), np.float32)


def _largest_window(flow: NDArray[np.float32]) -> float:
    speed = np.hypot(flow[..., 0], flow[..., 1])
    side = min(WINDOW_PX, *speed.shape)
    means = cv2.blur(speed, (side, side))
    inside = slice(side // 2, speed.shape[0] - side // 2), slice(side // 2, speed.shape[1] - side // 2)
    return float(means[inside].max())
