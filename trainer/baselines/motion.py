"""Footage as baselines see it: grey, of moderate size, with dense optical flow, which is computed once for all of them."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deploy.spec import ClipSpec
from trainer.baselines.baseline import Motion
from trainer.errors import NoFootage
from trainer.footage import FootageShape, Source, decoded_frames

AREA_PX = 86_400
"""360 x 240, at which people of the benchmark sets are a few dozen pixels tall; larger footage is scaled down to it."""

_SIDE_LIMITS_PX = (32, 2048)
_BACKGROUND_FRAMES = 256


def baseline_spec(shape: FootageShape) -> ClipSpec:
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
    for outcome in decoded_frames(source, spec):
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
    every = (frame for source in sources for frame in decoded_frames(source, spec) if not isinstance(frame, str))
    chosen = [half_size(frame[..., 0]) for frame in islice(every, 0, None, max(1, frames // _BACKGROUND_FRAMES))]
    if not chosen:
        raise NoFootage("no frame of the training footage is readable; check the files")
    return np.median(np.stack(chosen), axis=0).astype(np.float32)


def _flow(algorithm: Any, frame: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.float32]:
    # OpenCV's type stubs do not know that the initial flow may be None.
    return np.asarray(algorithm.calc(frame, target, None), np.float32)
