"""The teacher of motion: classical dense optical flow, from which the network learns what it is to see for itself."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Flow = NDArray[np.float32]
"""Pixels right and down from a frame to an earlier one, float32 (h, w, 2)."""


class DisFlow:
    """DIS (Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016), OpenCV's preset MEDIUM.

    Presets that stop at a coarser scale miss half of what people do: measured, the speeds of the preset FAST separate
    anomalies on UCSD Ped2 with an AUC of 0.90 instead of 0.97.
    """

    def __init__(self) -> None:
        self._algorithm: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def flow(self, frame: NDArray[np.uint8], earlier: NDArray[np.uint8]) -> Flow:
        """From ``frame`` to ``earlier``, both uint8 (H, W), averaged to a quarter of the sides, still in frame pixels."""
        height, width = frame.shape
        flow = self._algorithm.calc(np.ascontiguousarray(frame), np.ascontiguousarray(earlier), None)
        return np.asarray(cv2.resize(flow, (width // 4, height // 4), interpolation=cv2.INTER_AREA), np.float32)


def resize_flow(flow: Flow, shape: tuple[int, ...]) -> Flow:
    """A flow laid over a frame of ``shape`` (H, W)."""
    return np.asarray(cv2.resize(flow, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR), np.float32)
