"""Speed: what moves fastest is the anomaly."""

import numpy as np

from trainer.baselines.baseline import HeatMap, Motion, Watch
from trainer.baselines.windows import WINDOW_PX, over_frame, window_means


class FlowMagnitude:
    """Mean length of the optical flow, in pixels a frame, of windows of 28 x 28 pixels."""

    name = "flow_magnitude"

    def watch(self) -> Watch:
        """See :class:`~trainer.baselines.baseline.Baseline`."""
        return _magnitude


def _magnitude(motion: Motion) -> HeatMap:
    speed = np.hypot(motion.flow[..., 0], motion.flow[..., 1])
    return over_frame(window_means(speed, WINDOW_PX), speed.shape)
