"""Shapes of people, vehicles and things as polygons, and how polygons and their shadows are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from trainer.scenes.geometry import Floats, Pinhole
from trainer.scenes.people import Colour, Limb, shaded, split_rows

Image = NDArray[np.uint8]
"""uint8 (H, W, 3), BGR."""

_ROUND = np.stack([np.cos(np.linspace(0, 2 * np.pi, 10)[:-1]), np.sin(np.linspace(0, 2 * np.pi, 10)[:-1])], axis=1)
_SHARPNESS_PX = 150  # the side of a patch that is still drawn four times as large
_MARGIN_PX = 3
_SHADOW_RADIUS_M = 0.03  # thinner limbs cast none
_SHADOW_BLUR = 0.035  # of a shadow's size
_PAINTS: tuple[Colour, ...] = (
    (60, 58, 56), (40, 38, 38), (200, 200, 200), (168, 168, 164), (120, 120, 116), (44, 40, 120), (110, 70, 40), (60, 74, 64),
)  # fmt: skip
_GLASS: Colour = (66, 60, 54)
_TYRE: Colour = (30, 30, 32)


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


@dataclass(frozen=True, slots=True)
class Vehicle:
    """A car, van or truck."""

    length_m: float
    width_m: float
    height_m: float
    belt_m: float  # where the windows begin
    cabin: tuple[float, float]  # rear and front end of the cabin at the belt, of the length
    paint: Colour

    def polygons(self, view: Pinhole, position: Floats, heading: float) -> list[Polygon]:
        """The visible faces where the vehicle stands, in the order in which they are drawn."""
        body = self._box((0.0, 1.0), (0.0, 1.0), (0.28, self.belt_m), 1.0)
        cabin = self._box(self.cabin, (0.05, 0.95), (self.belt_m, self.height_m), 0.84)
        paint = self.paint
        dark = shaded(paint, 0.35)
        under = self._box((0.02, 0.98), (0.06, 0.94), (0.12, 0.3), 1.0)
        parts = [
            box_polygons(view, placed(under, position, heading), [dark] * 5),
            box_polygons(view, placed(body, position, heading), [paint] * 5),
            self._wheels(view, position, heading),
            box_polygons(view, placed(cabin, position, heading), [_GLASS, _GLASS, _GLASS, _GLASS, paint]),
        ]
        return [polygon for part in parts for polygon in sorted(part, key=lambda face: -face.depth_m)]

    def shadow(self, position: Floats, heading: float) -> list[Limb]:
        """Balls that cast the vehicle's shadow."""
        corners = placed(self._box((0.0, 1.0), (0.0, 1.0), (0.1, self.belt_m), 1.0), position, heading)
        roof = placed(self._box(self.cabin, (0.1, 0.9), (self.belt_m, self.height_m), 0.84), position, heading)
        return [Limb(corners, np.full(8, 0.05), self.paint), Limb(roof, np.full(8, 0.05), self.paint)]

    def _box(self, along: tuple[float, float], across: tuple[float, float], up: tuple[float, float], taper: float) -> Floats:
        """The corners of a box that is shorter at its top."""
        rear, front = ((part - 0.5) * self.length_m for part in along)
        right, left = ((part - 0.5) * self.width_m for part in across)
        middle, half = (rear + front) / 2, (front - rear) / 2
        outline = np.array([[rear, right], [front, right], [front, left], [rear, left]])
        upper = np.stack(
            [middle + (outline[:, 0] - middle) * (taper - 0.12 * (half < self.length_m / 2.4)), outline[:, 1] * taper], 1
        )
        return np.concatenate([np.c_[outline, np.full(4, up[0])], np.c_[upper, np.full(4, up[1])]])

    def _wheels(self, view: Pinhole, position: Floats, heading: float) -> list[Polygon]:
        angles = np.linspace(0, 2 * np.pi, 13)[:-1]
        wheels = []
        for along in (-0.31, 0.32):
            for side in (-0.5, 0.5):
                rim = np.stack(
                    [
                        along * self.length_m + 0.32 * np.cos(angles),
                        np.full(12, side * self.width_m),
                        0.33 + 0.32 * np.sin(angles),
                    ],
                    1,
                )
                pixels, depths = view.project(placed(rim, position, heading))
                wheels.append(Polygon(pixels.astype(np.float32), _TYRE, float(depths.mean())))
        return sorted(wheels, key=lambda wheel: wheel.depth_m)[:2]


def random_vehicle(rng: Generator) -> Vehicle:
    """A car, sometimes a van."""
    paint = _PAINTS[int(rng.integers(len(_PAINTS)))]
    if rng.random() < 0.2:
        return Vehicle(rng.uniform(4.8, 5.8), 2.0, rng.uniform(1.9, 2.4), 1.15, (0.02, 0.84), paint)
    return Vehicle(rng.uniform(3.7, 4.7), 1.78, rng.uniform(1.4, 1.6), 0.86, (0.1, 0.74), paint)


def bag_polygons(view: Pinhole, position: Floats, size_m: Floats, colour: Colour) -> list[Polygon]:
    """A bag or suitcase that stands on the ground; ``size_m`` (3,): to the right, forward and up."""
    half = size_m / 2
    outline = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half[:2] + position
    corners = np.concatenate([np.c_[outline, np.zeros(4)], np.c_[outline * 0.94 + position * 0.06, np.full(4, size_m[2])]])
    return sorted(box_polygons(view, corners, [colour] * 5), key=lambda face: -face.depth_m)


def box_polygons(view: Pinhole, corners: Floats, colours: Sequence[Colour]) -> list[Polygon]:
    """The visible faces of a box; ``corners`` (8, 3): the lower four counterclockwise seen from above, then the upper four.

    ``colours``: of the four sides, beginning with that between the first two corners, and of the top.
    """
    faces = [(0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7), (4, 5, 6, 7)]
    middle = corners.mean(axis=0)
    eye = np.array([0.0, 0.0, view.height_m])
    polygons = []
    for face, colour in zip(faces, colours, strict=True):
        points = corners[list(face)]
        normal = np.cross(points[1] - points[0], points[2] - points[0])
        outward = normal if normal @ (points.mean(axis=0) - middle) > 0 else -normal
        if outward @ (eye - points.mean(axis=0)) > 0:
            pixels, depths = view.project(points)
            lit = _face_light(outward / (np.linalg.norm(outward) + 1e-9))
            polygons.append(Polygon(pixels.astype(np.float32), shaded(colour, lit), float(depths.mean())))
    return polygons


def _face_light(normal: Floats) -> float:
    return float(0.78 + 0.22 * normal[2] + 0.12 * normal[0] - 0.06 * normal[1])


def placed(points: Floats, position: Floats, heading: float) -> Floats:
    """From the coordinates (forward, left, up) of what stands there to the world."""
    forward, left, up = points.T
    cos, sin = np.cos(heading), np.sin(heading)
    return np.stack([forward * cos - left * sin + position[0], forward * sin + left * cos + position[1], up], axis=1)
