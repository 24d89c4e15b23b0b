"""Change of brightness from frame to frame: the cheapest measure there is.

Footage as baselines see it: grey, of moderate size, with dense optical flow, which is computed once for all of them.

Averages carried along with what moves, so that a person's own speed is averaged, not that of the places passed.

Means of windows: a frame's score is that of its most unusual part, not of the whole.

Speed: what moves fastest is the anomaly.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from deploy.spec import ClipSpec
from deploy.video import VideoInfo
from trainer.baselines.base import HeatMap, Motion, Watch
from trainer.data.footage import Source, decode_frames
from trainer.errors import NoFootage

AREA_PX = 86_400
"""360 x 240, at which people of the benchmark sets are a few dozen pixels tall; larger footage is scaled down to it."""

_SIDE_LIMITS_PX = (32, 2048)
_BACKGROUND_FRAMES = 256


def baseline_spec(shape: VideoInfo) -> ClipSpec:
    """Grey frames at the footage's own size, or scaled down to ``AREA_PX`` where that is larger."""
    scale = min(1.0, (AREA_PX / (shape.width_px * shape.height_px)) ** 0.5)
    sides_px = (int(np.clip(round(side * scale), *_SIDE_LIMITS_PX)) for side in (shape.width_px, shape.height_px))
    width_px, height_px = sides_px
    return ClipSpec(length=2, height_px=height_px, width_px=width_px, colour="gray", fps=shape.fps)


def motions(source: Source, spec: ClipSpec) -> Iterator[Motion | None]:
    """One entry a frame of the source, in order; None where there is no motion: unreadable frames and the first readable one.

    The flow is DIS (Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016), OpenCV's preset MEDIUM, from
    each readable frame to the readable one before it.
    """
    algorithm = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    before: NDArray[np.uint8] | None = None
    for outcome in decode_frames(source, spec):
        if isinstance(outcome, str):
            yield None
            continue
        now = outcome[..., 0]
        yield None if before is None else Motion(before, now, _flow(algorithm, now, before))
        before = now


def half_size(picture: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Area-averaged to half the sides: (H, W) or (H, W, C) to float32 (H // 2, W // 2) or with the same C."""
    height, width = picture.shape[:2]
    halved = cv2.resize(picture.astype(np.float32), (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return np.asarray(halved, np.float32)


def median_background(sources: Iterable[Source], spec: ClipSpec, frames: int) -> NDArray[np.float32]:
    """Median of each pixel over about 256 of about ``frames`` frames at even distances, at half size: float32 (H // 2, W // 2).

    Raises:
        NoFootage: no frame is readable.
    """
    every = (frame for source in sources for frame in decode_frames(source, spec) if not isinstance(frame, str))
    chosen = [half_size(frame[..., 0]) for frame in islice(every, 0, None, max(1, frames // _BACKGROUND_FRAMES))]
    if not chosen:
        raise NoFootage("no frame of the training footage is readable; check the files")
    return np.median(np.stack(chosen), axis=0).astype(np.float32)


def _flow(algorithm: Any, frame: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.float32]:
    # OpenCV's type stubs do not know that the initial flow may be None.
    return np.asarray(algorithm.calc(frame, target, None), np.float32)


_NEWEST_SHARE = 0.2
_FIRST_VARIANCE = 0.3**2


class Averages(NamedTuple):
    """Of what is seen at each place, in cells of the grid a frame."""

    velocity: NDArray[np.float32]
    """Mean, float32 (h, w, 2), x first."""
    variance: NDArray[np.float32]
    """Of the velocity, both directions together: float32 (h, w)."""
    age: NDArray[np.float32]
    """Frames since it entered the picture, float32 (h, w)."""

    @property
    def speed(self) -> NDArray[np.float32]:
        """Length of the mean velocity, float32 (h, w)."""
        return np.hypot(self.velocity[..., 0], self.velocity[..., 1])

    @property
    def spread(self) -> NDArray[np.float32]:
        """Standard deviation of the velocity, float32 (h, w)."""
        return np.sqrt(self.variance)


def first_averages(backward: NDArray[np.float32]) -> Averages:
    """Of what is seen for the first time. ``backward``: flow to the frame before, float32 (h, w, 2), in cells a frame."""
    shape = backward.shape[:2]
    return Averages(-backward, np.full(shape, _FIRST_VARIANCE, np.float32), np.ones(shape, np.float32))


def next_averages(last: Averages, backward: NDArray[np.float32]) -> Averages:
    """Carry ``last`` along the flow and take the newest velocity in; what comes from outside the picture begins anew."""
    height, width = backward.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    from_x, from_y = columns + backward[..., 0], rows + backward[..., 1]
    carried = _carried(last, from_x, from_y)
    age = carried.age + 1
    share = np.maximum(np.float32(_NEWEST_SHARE), 1 / (age + 1))
    deviation = -backward - carried.velocity
    variance = (1 - share) * (carried.variance + share * np.square(deviation).sum(axis=-1))
    updated = Averages(carried.velocity + share[..., None] * deviation, variance, age)
    outside = (np.abs(from_x - (width - 1) / 2) > (width - 1) / 2) | (np.abs(from_y - (height - 1) / 2) > (height - 1) / 2)
    return _chosen(outside, first_averages(backward), updated)


def _carried(last: Averages, from_x: NDArray[np.float32], from_y: NDArray[np.float32]) -> Averages:
    state = np.dstack([last.velocity, last.variance, last.age])
    moved = np.asarray(cv2.remap(state, from_x, from_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)
    return Averages(moved[..., :2], moved[..., 2], moved[..., 3])


def _chosen(first: NDArray[np.bool_], one: Averages, other: Averages) -> Averages:
    return Averages(
        np.where(first[..., None], one.velocity, other.velocity),
        np.where(first, one.variance, other.variance),
        np.where(first, one.age, other.age),
    )


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


class FlowMagnitude:
    """Mean length of the optical flow, in pixels a frame, of windows of 28 x 28 pixels."""

    name = "flow_magnitude"

    def watch(self) -> Watch:
        """See :class:`~trainer.baselines.base.Baseline`."""
        return _magnitude


def _magnitude(motion: Motion) -> HeatMap:
    speed = np.hypot(motion.flow[..., 0], motion.flow[..., 1])
    return over_frame(window_means(speed, WINDOW_PX), speed.shape)


class FrameDifference:
    """Mean absolute difference, in grey levels, of windows of 28 x 28 pixels."""

    name = "frame_difference"

    def watch(self) -> Watch:
        """See :class:`~trainer.baselines.base.Baseline`."""
        return _difference


def _difference(motion: Motion) -> HeatMap:
    change = np.abs(motion.now.astype(np.float32) - motion.before)
    return over_frame(window_means(change, WINDOW_PX), change.shape)
