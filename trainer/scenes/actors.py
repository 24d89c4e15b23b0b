"""What moves in a scene, and what stands in front of it: people, vehicles, bags, trees and poles."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.random import Generator

from trainer.scenes.drawing import Light, Polygon, Vehicle, bag_polygons, limb_polygons, shadow_polygons
from trainer.scenes.geometry import Floats, Pinhole, Track
from trainer.scenes.people import Colour, Limb, Looks, Pose, limbs, moved

_STRIDE = 0.82  # of the height, at an easy pace
_EASY_M_S = 1.3
_EASY_SWING = 0.38
_FALL_S = 0.8


class Outlines(NamedTuple):
    """An actor in the picture; polygons are drawn in their order."""

    body: list[Polygon]
    shadow: list[Polygon]


class Actor(Protocol):
    """Something that is drawn."""

    @property
    def grain(self) -> Floats:
        """The texture of its surface, (h, w) around 1."""

    def present(self, time_s: float) -> bool:
        """Whether it is in the scene."""

    def place(self, time_s: float) -> Floats:
        """Where it stands on the ground, (2,) metres."""

    def outlines(self, view: Pinhole, time_s: float, light: Light) -> Outlines:
        """Where it and its shadow are in the picture."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody on foot or on a bicycle."""

    looks: Looks
    track: Track
    pace_m_s: float
    grain: Floats
    first_phase: float = 0.0
    cycling: bool = False
    falls_s: float = np.inf
    fall_to: float = 0.0
    bag: Colour | None = None
    drops_s: float = np.inf  # when the bag is put down

    def present(self, time_s: float) -> bool:
        return self.track.start_s <= time_s <= self.track.end_s

    def place(self, time_s: float) -> Floats:
        return self.track.position(time_s)

    def outlines(self, view: Pinhole, time_s: float, light: Light) -> Outlines:
        return _limb_outlines(view, self._limbs(time_s), light)

    def _limbs(self, time_s: float) -> list[Limb]:
        stride = _STRIDE * self.looks.height_m * (self.pace_m_s / _EASY_M_S) ** 0.55
        speed = self.track.speed(time_s)
        pose = Pose(
            position=self.track.position(time_s),
            heading=self.track.heading(time_s),
            phase=self.first_phase + 2 * np.pi * self.track.distance(time_s) / (3.2 if self.cycling else stride),
            swing=min(0.9, _EASY_SWING * (speed / _EASY_M_S) ** 0.7),
            cycling=self.cycling,
            fallen=float(np.clip((time_s - self.falls_s) / _FALL_S, 0.0, 1.0)) ** 1.5,
            fall_to=self.fall_to,
            carries=self.bag if time_s < self.drops_s else None,
        )
        return limbs(self.looks, pose)


@dataclass(frozen=True, slots=True)
class Driver:
    """A vehicle under way."""

    vehicle: Vehicle
    track: Track
    grain: Floats

    def present(self, time_s: float) -> bool:
        return self.track.start_s <= time_s <= self.track.end_s

    def place(self, time_s: float) -> Floats:
        return self.track.position(time_s)

    def outlines(self, view: Pinhole, time_s: float, light: Light) -> Outlines:
        position, heading = self.track.position(time_s), self.track.heading(time_s)
        shadow = shadow_polygons(view, self.vehicle.shadow(position, heading), light)
        return Outlines(self.vehicle.polygons(view, position, heading), shadow)


@dataclass(frozen=True, slots=True)
class Bag:
    """A bag that somebody left."""

    position: Floats
    size_m: Floats
    colour: Colour
    from_s: float
    grain: Floats

    def present(self, time_s: float) -> bool:
        return time_s >= self.from_s

    def place(self, time_s: float) -> Floats:
        return self.position

    def outlines(self, view: Pinhole, time_s: float, light: Light) -> Outlines:
        middle = np.array([[*self.position, self.size_m[2] / 2]])
        shadow = shadow_polygons(view, [Limb(middle, self.size_m[2:] / 2, self.colour)], light)
        return Outlines(bag_polygons(view, self.position, self.size_m, self.colour), shadow)


@dataclass(frozen=True, slots=True)
class Fixture:
    """A pole or tree; the upper parts of a tree move in the wind."""

    parts: Sequence[Limb]
    position: Floats
    wind_m: float
    grain: Floats

    def present(self, time_s: float) -> bool:
        return True

    def place(self, time_s: float) -> Floats:
        return self.position

    def outlines(self, view: Pinhole, time_s: float, light: Light) -> Outlines:
        return _limb_outlines(view, self._swaying(time_s), light)

    def _swaying(self, time_s: float) -> list[Limb]:
        if not self.wind_m:
            return list(self.parts)
        centres = np.concatenate([limb.centres for limb in self.parts])
        number = np.arange(len(centres))
        reach = self.wind_m * (0.6 + 0.4 * np.sin(time_s * 0.31)) * np.clip(centres[:, 2] / 4.0, 0, 1) ** 2
        shifts = [np.sin(2.1 * time_s + number), np.cos(1.7 * time_s + 2 * number), np.zeros(len(centres))]
        return moved(self.parts, centres + reach[:, None] * np.stack(shifts, axis=1))


def _limb_outlines(view: Pinhole, parts: Sequence[Limb], light: Light) -> Outlines:
    return Outlines(limb_polygons(view, parts), shadow_polygons(view, parts, light))


def surface_grain(rng: Generator, sun_right: float, strength: float) -> Floats:
    """The texture of a surface: noise, and one side lighter than the other."""
    noise = rng.normal(0, strength, (24, 12))
    stripes = rng.choice([0.0, 0.0, 0.08]) * np.sin(np.arange(24) * rng.uniform(0.8, 2.6))[:, None]
    side = np.linspace(-1, 1, 12) * float(np.clip(-0.2 * sun_right, -0.22, 0.22))
    return np.asarray(np.clip(1.0 + noise + stripes + side, 0.5, 1.5), np.float32)


def pole(position: Floats, rng: Generator) -> Fixture:
    """A lamp post."""
    top = np.array([*position, rng.uniform(3.5, 6.0)])
    grey = float(rng.uniform(60, 150))
    shaft = Limb(np.stack([np.array([*position, 0.0]), top]), np.array([0.07, 0.05]), (grey, grey, grey * 0.97))
    return Fixture([shaft], position, 0.0, surface_grain(rng, 0.4, 0.03))


def tree(position: Floats, rng: Generator) -> Fixture:
    """A tree with a crown of leaves."""
    height, wide = rng.uniform(3.6, 6.0), rng.uniform(0.8, 1.5)
    trunk = Limb(np.array([[*position, 0.0], [*position, height * 0.7]]), np.array([0.14, 0.08]), (52, 62, 74))
    leaves = []
    for _ in range(26):
        offset = rng.normal(0, 0.5, 3) * (wide, wide, height * 0.2)
        shade = float(rng.uniform(0.65, 1.15))
        centre = np.array([*position, height * 0.85]) + offset
        leaves.append(Limb(centre[None], np.array([rng.uniform(0.2, 0.5) * wide]), (44 * shade, 84 * shade, 62 * shade)))
    return Fixture(
        [trunk, *leaves], position, rng.uniform(0.02, 0.06), rng.normal(1.0, 0.16, (40, 40)).clip(0.5, 1.5).astype(np.float32)
    )
