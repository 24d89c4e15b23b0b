"""Draws figures and vehicles into frames: polygons several times as large as the frame, scaled down, with soft shadows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.scenes.geometry import Floats, Pinhole
from trainer.scenes.people import Colour, Limb, split_rows

Image = NDArray[np.uint8]
"""uint8 (H, W, 3), BGR."""

_ROUND = np.stack([np.cos(np.linspace(0, 2 * np.pi, 10)[:-1]), np.sin(np.linspace(0, 2 * np.pi, 10)[:-1])], axis=1)
_SHARPNESS_PX = 150  # the side of a patch that is still drawn four times as large
_MARGIN_PX = 3
_SHADOW_RADIUS_M = 0.03  # thinner limbs cast none
_SHADOW_BLUR = 0.035  # of a shadow's size


class Polygon(NamedTuple):
    """A convex polygon in the picture."""

    corners: Floats  # (n, 2) pixels
    colour: Colour
    depth_m: float


@dataclass(frozen=True, slots=True)
class Light:
    """The light of a scene at a moment."""

    sun: tuple[float, float]  # how far the shadow of one metre of height reaches to the right and forward
    shadow: float  # darkness of shadows, 0 to 1


def limb_polygons(view: Pinhole, limbs: Sequence[Limb]) -> list[Polygon]:
    """The outlines of limbs, the farthest first."""
    middles, depths = view.project(np.concatenate([limb.centres for limb in limbs]))
    radii = np.maximum(np.concatenate([limb.radii for limb in limbs]) * view.focal_px / depths, 0.35)
    rims = (middles[:, None] + _ROUND * radii[:, None, None]).astype(np.float32)  # (n, 9, 2)
    polygons, first = [], 0
    for limb in limbs:
        part = slice(first, first + len(limb.radii))
        hull = np.asarray(cv2.convexHull(rims[part].reshape(-1, 2))[:, 0], np.float32)
        polygons.append(Polygon(hull, limb.colour, float(sum(depths[part]) / len(limb.radii))))
        first = part.stop
    return sorted(polygons, key=lambda polygon: -polygon.depth_m)


def shadow_polygons(view: Pinhole, limbs: Sequence[Limb], light: Light) -> list[Polygon]:
    """The shadows of limbs on the ground."""
    wide = [limb for limb in limbs if limb.radii[0] > _SHADOW_RADIUS_M]
    radii = np.concatenate([limb.radii for limb in wide])
    around = np.concatenate([limb.centres for limb in wide])[:, None] + _SPHERE * radii[:, None, None]  # (n, 6, 3)
    ground = around * (1, 1, 0) + around[..., 2:] * (*light.sun, 0.0)
    pixels = view.project(ground)[0].astype(np.float32)  # (n, 6, 2)
    parts = split_rows(pixels, [len(limb.radii) for limb in wide])
    return [Polygon(np.asarray(cv2.convexHull(part.reshape(-1, 2))[:, 0], np.float32), (255, 255, 255), 0.0) for part in parts]


_SPHERE = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]) * 0.9


def draw(image: Image, polygons: Sequence[Polygon], grain: Floats) -> None:
    """Draw polygons in their order; ``grain`` (h, w) around 1 is the texture of their surface."""
    window = _window(image, polygons)
    if window is None:
        return
    scale = 4 if max(window.width, window.height) <= _SHARPNESS_PX else 2
    patch = np.zeros((window.height * scale, window.width * scale, 3), np.uint8)
    alpha = np.zeros(patch.shape[:2], np.uint8)
    for polygon, corners in zip(polygons, _fixed_point(polygons, window, scale), strict=True):
        cv2.fillConvexPoly(patch, corners, polygon.colour, cv2.LINE_8, 4)
        cv2.fillConvexPoly(alpha, corners, (255,), cv2.LINE_8, 4)
    size = (window.width, window.height)
    texture = cv2.resize(grain, size, interpolation=cv2.INTER_LINEAR).astype(np.float32)
    colours = cv2.resize(patch, size, interpolation=cv2.INTER_AREA).astype(np.float32) * texture[..., None]
    opaque = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA).astype(np.float32)[..., None] / 255.0
    covered = image[window.slices]
    np.copyto(covered, np.clip(covered * (1.0 - opaque) + colours, 0, 255).astype(np.uint8))


def darken(image: Image, polygons: Sequence[Polygon], darkness: float) -> None:
    """Darken the frame under polygons, with soft edges."""
    window = _window(image, polygons, margin_px=8)
    if window is None or darkness <= 0.01:
        return
    mask = np.zeros((window.height * 2, window.width * 2), np.uint8)
    for corners in _fixed_point(polygons, window, 2):
        cv2.fillConvexPoly(mask, corners, (255,), cv2.LINE_8, 4)
    soft = cv2.GaussianBlur(cv2.resize(mask, (window.width, window.height), interpolation=cv2.INTER_AREA), (0, 0), _blur(window))
    covered = image[window.slices]
    np.copyto(
        covered, cv2.multiply(covered, cv2.merge([soft] * 3), scale=-darkness / 255.0, dtype=cv2.CV_16S) + covered, "unsafe"
    )


def _blur(window: "Window") -> float:
    return 0.8 + _SHADOW_BLUR * float(np.hypot(window.width, window.height))


class Window(NamedTuple):
    """A part of a frame."""

    left: int
    top: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def _window(image: Image, polygons: Sequence[Polygon], margin_px: int = _MARGIN_PX) -> Window | None:
    """Where the polygons are in the frame, None if nowhere."""
    if not polygons:
        return None
    corners = np.concatenate([polygon.corners for polygon in polygons])
    left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int) - margin_px, 0)
    right, bottom = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + margin_px, (image.shape[1], image.shape[0]))
    if right - left < 2 or bottom - top < 2:
        return None
    return Window(int(left), int(top), int(right - left), int(bottom - top))


def visible_share(view: Pinhole, polygons: Sequence[Polygon]) -> float:
    """The share of the box around polygons that lies inside the frame."""
    corners = np.concatenate([polygon.corners for polygon in polygons])
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    across = min(right, view.width_px) - max(left, 0.0)
    down = min(bottom, view.height_px) - max(top, 0.0)
    return float(max(0.0, across) * max(0.0, down) / max((right - left) * (bottom - top), 1e-6))


def _fixed_point(polygons: Sequence[Polygon], window: Window, scale: int) -> list[NDArray[np.int32]]:
    """The corners of each polygon in a patch of the window, in sixteenths of its pixels."""
    corners = np.concatenate([polygon.corners for polygon in polygons])
    shifted = np.clip((corners - (window.left, window.top)) * (scale * 16), -(2**20), 2**20).astype(np.int32)
    return split_rows(shifted, [len(polygon.corners) for polygon in polygons])
