"""What a baseline is: it sees a clip's frames in order and gives a heat map of each, from that frame and earlier ones alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

HeatMap = NDArray[np.float32]
"""float32 (h, w), laid over the frame; its largest value is the frame's score. Higher is more anomalous."""


@dataclass(frozen=True, slots=True)
class Motion:
    """What a baseline sees of one frame."""

    before: NDArray[np.uint8]
    """uint8 (H, W): the readable frame before it."""
    now: NDArray[np.uint8]
    """uint8 (H, W)."""
    flow: NDArray[np.float32]
    """float32 (H, W, 2), in pixels a frame: from each pixel of ``now`` to where it was in ``before``, x first."""


Watch = Callable[[Motion], HeatMap]
"""Watches one clip; wants its frames in order."""


class Baseline(Protocol):
    """A measure without a learned network."""

    @property
    def name(self) -> str:
        """As it is called in results."""
        ...

    def watch(self) -> Watch:
        """Begin a clip: nothing is carried over from another one."""
        ...


@dataclass(frozen=True, slots=True)
class Learned:
    """A baseline that knows its training footage, and what it makes of that."""

    baseline: Baseline
    normal: NDArray[np.float32]
    """Scores of the training frames, float32 (N,); what is estimated place by place was estimated on the other clips."""

    @property
    def median(self) -> float:
        """Of the normal scores; without training footage nothing is known but that a still scene has no motion: 0."""
        return float(np.median(self.normal)) if len(self.normal) else 0.0


class Learner(Protocol):
    """Sees training footage, clip by clip."""

    def clip(self) -> Callable[[Motion], None]:
        """Begin a clip; what it gives wants the clip's frames in order."""
        ...

    def learned(self) -> Learned:
        """The end of the training footage."""
        ...


class ScoresOnly:
    """Learner of a baseline that estimates nothing: training footage only says which of its scores are normal."""

    def __init__(self, baseline: Baseline) -> None:
        self._baseline = baseline
        self._scores: list[float] = []

    def clip(self) -> Callable[[Motion], None]:
        """See :class:`Learner`."""
        watch = self._baseline.watch()
        return lambda motion: self._scores.append(float(watch(motion).max()))

    def learned(self) -> Learned:
        """See :class:`Learner`."""
        return Learned(self._baseline, np.asarray(self._scores, np.float32))
