"""Cut-outs, and pasting them into frames at subpixel positions."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

GrayImage = NDArray[np.float32]
"""Grey levels, float32 (h, w)."""


class Cutout(NamedTuple):
    """Something cut out of a frame."""

    image: GrayImage
    alpha: GrayImage
    """Opacity, float32 (h, w) in [0, 1]."""


class PlacedCutout(NamedTuple):
    """A cut-out and the position of its top left corner in the frame, in pixels."""

    cutout: Cutout
    x: float
    y: float


def paste(frame: GrayImage, placed: PlacedCutout) -> None:
    """Blend a cut-out into ``frame``, in place; parts outside the frame are clipped."""
    left, top = int(np.floor(placed.x)), int(np.floor(placed.y))
    shift = np.array([[1, 0, placed.x - left], [0, 1, placed.y - top]], np.float32)
    height, width = placed.cutout.image.shape
    size = (width + 1, height + 1)
    image = np.asarray(cv2.warpAffine(placed.cutout.image, shift, size, borderMode=cv2.BORDER_REPLICATE), np.float32)
    _blend(frame, image, np.asarray(cv2.warpAffine(placed.cutout.alpha, shift, size), np.float32), left, top)


def paint_mask(mask: GrayImage, placed: PlacedCutout, value: float = 1.0) -> None:
    """Set ``mask`` to ``value`` where the cut-out is opaque, in place."""
    _blend(mask, np.float32(value), placed.cutout.alpha, round(placed.x), round(placed.y))


def soft_alpha(mask: NDArray[np.uint8]) -> GrayImage:
    """A mask of 0 and 1 as an opacity with soft edges."""
    grown = cv2.dilate(mask, np.ones((3, 3), np.uint8)).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(grown, (5, 5), 0), np.float32)


def _blend(target: GrayImage, value: GrayImage | np.float32, alpha: GrayImage, left: int, top: int) -> None:
    """Blend ``value`` into the part of ``target`` that ``alpha`` covers with its top left corner at (left, top)."""
    height, width = alpha.shape
    x0, y0, x1, y1 = max(0, left), max(0, top), min(target.shape[1], left + width), min(target.shape[0], top + height)
    if x1 <= x0 or y1 <= y0:
        return
    covered, source = (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    values = value[source] if isinstance(value, np.ndarray) else value
    target[covered] += (values - target[covered]) * alpha[source]
