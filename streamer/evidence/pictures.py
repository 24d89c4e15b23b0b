"""Pictures of cameras for people: decoded from frames as they were sent, with what nobody may see made black."""

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from deploy.image import decode_image, encode_jpeg, encode_png, image_size, imdecode
from deploy.spec import ClipSpec
from streamer.areas import Polygon

Picture = NDArray[np.uint8]  # uint8 (H, W, 3), BGR; both sides are even

_QUALITY: Final = 85
_SHIFT: Final = 8  # binary places of the corners of a polygon
_FAINT: Final = 0.35
"""Share of the way from the lowest to the highest value of a heat map, below which it is transparent."""
_MOST_OPAQUE: Final = 200


def decode_picture(encoded: bytes, most_px: int, masks: Sequence[Polygon]) -> Picture:
    """The picture of a JPEG or PNG, at most ``most_px`` wide and high, with masks made black.

    Raises BadFrame as :func:`deploy.image.decode_image`.
    """
    width_px, height_px = image_size(encoded)
    scale = min(1.0, most_px / max(width_px, height_px))
    width_px, height_px = (max(2, round(side * scale / 2) * 2) for side in (width_px, height_px))
    spec = ClipSpec(length=1, height_px=height_px, width_px=width_px, colour="bgr", fps=1.0)
    return masked(decode_image(encoded, spec).frame, masks)


def masked(picture: Picture, masks: Sequence[Polygon]) -> Picture:
    """A copy of the picture in which the masks are black, to the last pixel that they touch."""
    if not masks:
        return picture
    height_px, width_px = picture.shape[:2]
    hidden = np.zeros((height_px, width_px), np.uint8)
    for mask in masks:
        corners = np.array([(x * width_px - 0.5, y * height_px - 0.5) for x, y in mask])  # OpenCV counts from pixels' centres
        polygon = [np.round(corners * 2**_SHIFT).astype(np.int32)]
        cv2.fillPoly(hidden, polygon, 1, shift=_SHIFT)
        # Pixels that are touched at the edge; and scaling mixes neighbours.
        cv2.polylines(hidden, polygon, isClosed=True, color=1, thickness=4, shift=_SHIFT)
    return np.asarray(np.where(hidden[..., None] > 0, 0, picture), np.uint8)


def encode_picture(picture: Picture) -> bytes:
    """A JPEG."""
    return encode_jpeg(picture, _QUALITY)


def overlay(heatmap_png: bytes, masks: Sequence[Polygon]) -> bytes:
    """A PNG to be laid over a picture: the hotter, the redder and the less transparent; where it is cold, nothing.

    ``heatmap_png``: grey levels, as in the stream of heat maps. Raises BadFrame if it is none.
    """
    image_size(heatmap_png)
    levels = imdecode(heatmap_png, cv2.IMREAD_GRAYSCALE)
    colours = np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), np.uint8)
    heat = np.clip((levels / 255 - _FAINT) / (1 - _FAINT), 0, 1)
    alpha = np.round(heat * _MOST_OPAQUE).astype(np.uint8)[..., None]
    return encode_png(np.dstack([masked(colours, masks), alpha]))


class UsualPictures:
    """What each camera usually shows: a running median of its pictures. Things that pass leave no trace in it."""

    def __init__(self) -> None:
        self._pictures: dict[str, NDArray[np.int16]] = {}
        self._counts: dict[str, int] = {}

    def add(self, camera_id: str, picture: Picture) -> None:
        """Take up the next picture of a camera; one of another size begins anew."""
        known = self._pictures.get(camera_id)
        if known is None or known.shape != picture.shape:
            self._pictures[camera_id], self._counts[camera_id] = picture.astype(np.int16), 1
            return
        self._counts[camera_id] += 1
        step = max(1, 64 // self._counts[camera_id])  # grey levels; what the first picture showed by chance is gone soon
        difference = picture - known
        known += np.clip(difference, -step, step)

    def get(self, camera_id: str) -> Picture | None:
        """None if nothing is known of the camera yet."""
        known = self._pictures.get(camera_id)
        return None if known is None else known.astype(np.uint8)
