"""Change of brightness from frame to frame: the cheapest measure there is."""

import numpy as np

from trainer.baselines.baseline import HeatMap, Motion, Watch
from trainer.baselines.windows import WINDOW_PX, over_frame, window_means


class FrameDifference:
    """Mean absolute difference, in grey levels, of windows of 28 x 28 pixels."""

    name = "frame_difference"

    def watch(self) -> Watch:
        """See :class:`~trainer.baselines.baseline.Baseline`."""
        return _difference


def _difference(motion: Motion) -> HeatMap:
    change = np.abs(motion.now.astype(np.float32) - motion.before)
    return over_frame(window_means(change, WINDOW_PX), change.shape)
