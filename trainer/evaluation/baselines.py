"""What a baseline is, the optical flow that all of them share, and the two baselines that only average it over windows.

Baselines see grey footage of moderate size, the frames of a clip in order, and give a heat map per frame from that frame and
earlier ones only.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from deploy.spec import ClipSpec
from deploy.video import VideoInfo
from trainer.data.footage import Source, decode_frames

MAX_AREA_PX = 86_400
"""360 x 240, at which people in the benchmark sets are a few dozen pixels tall; larger footage is scaled down to it."""

_SIDE_LIMITS_PX = (32, 2048)
_WINDOW_PX = 28  # about a person's height in the benchmark sets

HeatMap = NDArray[np.float32]
"""float32 (h, w), to be stretched over the frame. Higher is more anomalous; a baseline's score is the largest value."""


@dataclass(frozen=True, slots=True)
class FramePair:
    """A frame, the readable frame before it, and the flow between them."""

    previous: NDArray[np.uint8]
    """uint8 (H, W)."""
    current: NDArray[np.uint8]
    """uint8 (H, W)."""
    flow: NDArray[np.float32]
    """float32 (H, W, 2), x first: from each pixel of ``current`` to where it was in ``previous``, in pixels per frame."""


ClipScorer = Callable[[FramePair], HeatMap]
"""Scores the frames of one clip, which must come in order."""


class Baseline(Protocol):
    """An anomaly detector without a learned network."""

    @property
    def name(self) -> str:
        """Name in results."""

    def start_clip(self) -> ClipScorer:
        """Start a clip without anything carried over from another one."""


@dataclass(frozen=True, slots=True)
class FittedBaseline:
    """A baseline and its scores of the normal footage that it was fitted on."""

    baseline: Baseline
    normal_scores: NDArray[np.float32]
    """float32 (frames,). What is estimated per place was estimated on the other clips (leave one out)."""

    @property
    def median(self) -> float:
        """Median of the normal scores; 0, the score of a still scene, without training footage."""
        return float(np.median(self.normal_scores)) if len(self.normal_scores) else 0.0


def baseline_spec(info: VideoInfo) -> ClipSpec:
    """Grey frames at the footage's own size, or scaled down to ``MAX_AREA_PX`` if it is larger."""
    scale = min(1.0, (MAX_AREA_PX / (info.width_px * info.height_px)) ** 0.5)
    width_px, height_px = (int(np.clip(round(side * scale), *_SIDE_LIMITS_PX)) for side in (info.width_px, info.height_px))
    return ClipSpec(length=2, height_px=height_px, width_px=width_px, colour="gray", fps=info.fps)


def frame_pairs(source: Source, spec: ClipSpec) -> Iterator[FramePair | None]:
    """One entry per frame of the source, in order; None for unreadable frames and for the first readable one.

    The flow is OpenCV's DIS, preset MEDIUM (Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016).
    """
    # OpenCV's type stubs do not know that the initial flow may be None.
    algorithm: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    previous: NDArray[np.uint8] | None = None
    for frame in decode_frames(source, spec):
        if isinstance(frame, str):
            yield None
            continue
        current = frame[..., 0]
        yield None if previous is None else FramePair(previous, current, algorithm.calc(current, previous, None))
        previous = current


def window_means(values: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Mean of every window that lies inside ``values``, float32 (h, w): float32 (h - side + 1, w - side + 1).

    Where ``values`` is smaller than a window, the window shrinks to what fits.
    """
    side = min(side, *values.shape)
    # cv2.blur puts the mean of a window at its element number side // 2.
    first, last = side // 2, side - side // 2 - 1
    means = cv2.blur(values, (side, side))
    return np.asarray(means[first : values.shape[0] - last, first : values.shape[1] - last])


def pad_windows(windows: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Pad :func:`window_means` to the ``shape`` (h, w) of their values: each place gets the window around it, or the nearest."""
    missing = [full - inner for full, inner in zip(shape, windows.shape, strict=True)]
    return np.pad(windows, [(count - count // 2, count // 2) for count in missing], mode="edge")


@dataclass(frozen=True, slots=True)
class WindowBaseline:
    """Mean of a measure of each pixel over windows of 28 x 28 pixels."""

    name: str
    measure: Callable[[FramePair], NDArray[np.float32]]
    """Gives float32 (H, W)."""

    def start_clip(self) -> ClipScorer:
        def heatmap(pair: FramePair) -> HeatMap:
            values = self.measure(pair)
            return pad_windows(window_means(values, _WINDOW_PX), values.shape)

        return heatmap


FLOW_MAGNITUDE = WindowBaseline("flow_magnitude", lambda pair: np.hypot(pair.flow[..., 0], pair.flow[..., 1]))
"""Length of the flow, in pixels per frame."""
FRAME_DIFFERENCE = WindowBaseline("frame_difference", lambda pair: np.abs(pair.current.astype(np.float32) - pair.previous))
"""Absolute difference from the previous frame, in grey levels."""


class ScoreCollector:
    """Fits a baseline that has nothing to estimate on normal footage, clip by clip: it only collects the scores."""

    def __init__(self, baseline: Baseline) -> None:
        self._baseline = baseline
        self._scores: list[float] = []

    def start_clip(self) -> Callable[[FramePair], None]:
        """Start a clip; the result takes the clip's frames in order."""
        scorer = self._baseline.start_clip()
        return lambda pair: self._scores.append(float(scorer(pair).max()))

    def fitted(self) -> FittedBaseline:
        """The fitted baseline, after the last clip."""
        return FittedBaseline(self._baseline, np.asarray(self._scores, np.float32))
