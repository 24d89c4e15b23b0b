"""Vehicles and other things that are made of boxes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from trainer.scenes.drawing import Polygon
from trainer.scenes.geometry import Floats, Pinhole
from trainer.scenes.people import Colour, Limb, shaded

_PAINTS: tuple[Colour, ...] = (
    (60, 58, 56), (40, 38, 38), (200, 200, 200), (168, 168, 164), (120, 120, 116), (44, 40, 120), (110, 70, 40), (60, 74, 64),
)  # fmt: skip
_GLASS: Colour = (66, 60, 54)
_TYRE: Colour = (30, 30, 32)


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
            box_polygons(view, _placed(under, position, heading), [dark] * 5),
            box_polygons(view, _placed(body, position, heading), [paint] * 5),
            self._wheels(view, position, heading),
            box_polygons(view, _placed(cabin, position, heading), [_GLASS, _GLASS, _GLASS, _GLASS, paint]),
        ]
        return [polygon for part in parts for polygon in sorted(part, key=lambda face: -face.depth_m)]

    def shadow(self, position: Floats, heading: float) -> list[Limb]:
        """Balls that cast the vehicle's shadow."""
        corners = _placed(self._box((0.0, 1.0), (0.0, 1.0), (0.1, self.belt_m), 1.0), position, heading)
        roof = _placed(self._box(self.cabin, (0.1, 0.9), (self.belt_m, self.height_m), 0.84), position, heading)
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
                pixels, depths = view.project(_placed(rim, position, heading))
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


def _placed(points: Floats, position: Floats, heading: float) -> Floats:
    """From a vehicle's coordinates (forward, left, up) to the world."""
    forward, left, up = points.T
    cos, sin = np.cos(heading), np.sin(heading)
    return np.stack([forward * cos - left * sin + position[0], forward * sin + left * cos + position[1], up], axis=1)
