"""Cut-outs, and how they are pasted into frames at fractions of a pixel."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

GrayImage = NDArray[np.float32]
"""Grey levels, float32 (h, w)."""


class Cutout(NamedTuple):
    """Something cut out of a frame."""

    picture: GrayImage
    alpha: GrayImage
    """How much of it covers what is behind, float32 (h, w) in [0, 1]."""


class PlacedCutout(NamedTuple):
    """A cut-out and where its upper left corner lies in the frame, in pixels."""

    cutout: Cutout
    x: float
    y: float


def paste(frame: GrayImage, placed: PlacedCutout) -> None:
    """Draw a cut-out into ``frame``, in place; what lies outside is left out."""
    left, top = int(np.floor(placed.x)), int(np.floor(placed.y))
    shift = np.array([[1, 0, placed.x - left], [0, 1, placed.y - top]], np.float32)
    height, width = placed.cutout.picture.shape
    size = (width + 1, height + 1)
    picture = cv2.warpAffine(placed.cutout.picture, shift, size, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(placed.cutout.alpha, shift, size)
    inside = _inside(frame.shape, left, top, size)
    if inside is not None:
        there, here = inside
        frame[there] += (picture[here] - frame[there]) * alpha[here]


def paint_mask(mask: GrayImage, placed: PlacedCutout, value: float = 1.0) -> None:
    """Draw the cut-out's alpha times ``value`` into ``mask``, in place, where it covers."""
    alpha = placed.cutout.alpha
    left, top = round(placed.x), round(placed.y)
    inside = _inside(mask.shape, left, top, (alpha.shape[1], alpha.shape[0]))
    if inside is not None:
        there, here = inside
        mask[there] += (value - mask[there]) * alpha[here]


def soft_alpha(mask: NDArray[np.uint8]) -> GrayImage:
    """A mask of 0 and 1 as an alpha with soft edges."""
    grown = cv2.dilate(mask, np.ones((3, 3), np.uint8)).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(grown, (5, 5), 0), np.float32)


def _inside(
    shape: tuple[int, ...], left: int, top: int, size: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """The part of the frame that is covered, and the part of the cut-out that covers it; None where they do not meet."""
    x0, y0, x1, y1 = max(0, left), max(0, top), min(shape[1], left + size[0]), min(shape[0], top + size[1])
    if x1 <= x0 or y1 <= y0:
        return None
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
