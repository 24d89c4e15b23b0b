"""Still backgrounds: ground of pavement, asphalt, grass or tiles in perspective, and a wall or hedge behind it.

Everything is a function of the place in the world, evaluated along the line of sight of every pixel, at twice the frame's size.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from trainer.scenes.drawing import Image
from trainer.scenes.geometry import Floats, Pinhole
from trainer.scenes.people import Colour

Field = NDArray[np.float32]
"""A value for each pixel."""

_TILE = 512
_OVERSAMPLING = 2
_HEDGE_M = 2.6


@dataclass(frozen=True, slots=True)
class Band:
    """A strip of ground beside a line of points."""

    line: Floats  # (n, 2) metres
    half_width_m: float

    def distance(self, right: Field, forward: Field) -> Field:
        """How far places lie outside the strip, negative inside, in metres."""
        nearest = np.full(right.shape, np.inf, np.float32)
        for one, other in pairwise(self.line):
            along = other - one
            share = np.clip(((right - one[0]) * along[0] + (forward - one[1]) * along[1]) / max(along @ along, 1e-6), 0, 1)
            gap = np.hypot(right - one[0] - share * along[0], forward - one[1] - share * along[1])
            nearest = np.minimum(nearest, gap.astype(np.float32))
        return nearest - np.float32(self.half_width_m)


@dataclass(frozen=True, slots=True)
class Layout:
    """What lies where in a scene."""

    kind: str  # plaza, park, street or hall
    wall_m: float  # how far away the wall or hedge stands
    paths: tuple[Band, ...] = ()  # in a park
    road: Band | None = None  # in a street
    bed: Band | None = None  # ground in a plaza on which nobody walks


@dataclass(slots=True)
class Surfaces:
    """Random textures of one scene."""

    rng: Generator
    tiles: dict[float, Field] = field(default_factory=dict)

    def noise(self, across: Field, along: Field, size_m: float, roughness: float = 1.0) -> Field:
        """Noise with a standard deviation of 1 whose largest structures measure ``size_m``."""
        tile = self.tiles.get(roughness)
        if tile is None:
            tile = self.tiles[roughness] = fractal_noise(self.rng, roughness)
        scale = _TILE / (size_m * 8)
        return np.asarray(
            cv2.remap(
                tile,
                ((across * scale) % _TILE).astype(np.float32),
                ((along * scale) % _TILE).astype(np.float32),
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_WRAP,
            ),
            np.float32,
        )


def fractal_noise(rng: Generator, roughness: float) -> Field:
    """A tile of noise that can be repeated, float32 (512, 512); the smaller ``roughness``, the finer."""
    spectrum = np.fft.rfft2(rng.normal(size=(_TILE, _TILE)))
    frequency = np.hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None]) * _TILE
    noise = np.fft.irfft2(spectrum / np.maximum(frequency, 4.0) ** (1.0 + roughness * 0.5), (_TILE, _TILE))
    return np.asarray((noise - noise.mean()) / noise.std(), np.float32)


def paint_backdrop(view: Pinhole, layout: Layout, rng: Generator) -> Image:
    """The still picture of a scene without anybody."""
    surfaces = Surfaces(rng)
    steps = (np.arange(_OVERSAMPLING) + 0.5) / _OVERSAMPLING
    across, down = np.meshgrid(
        (np.arange(view.width_px)[:, None] + steps).ravel(), (np.arange(view.height_px)[:, None] + steps).ravel()
    )
    right, forward, up = view.rays(across, down)
    to_ground = np.where(up < -1e-3, view.height_m / np.maximum(-up, 1e-3), np.inf)
    is_ground = to_ground < layout.wall_m
    distance = np.where(is_ground, to_ground, layout.wall_m)
    ground = _ground(layout, surfaces, *((part * distance).astype(np.float32) for part in (right, forward)))
    wall = _wall(layout, surfaces, (right * distance).astype(np.float32), (view.height_m + up * distance).astype(np.float32))
    picture = np.where(is_ground[..., None], ground, wall)
    picture *= _occlusion(layout, is_ground, distance, up * distance + view.height_m)[..., None]
    size = (view.width_px, view.height_px)
    return np.asarray(np.clip(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), 0, 255), np.uint8)


def _occlusion(layout: Layout, is_ground: NDArray[np.bool_], distance: Floats, up_m: Floats) -> Field:
    """Corners are darker, and what is far away has less contrast with the haze."""
    gap = np.where(is_ground, layout.wall_m - distance, np.maximum(up_m, 0.0))
    return np.asarray(1.0 - 0.35 * np.exp(-gap / 0.5), np.float32)


def _tint(level: Field, colour: Colour) -> Field:
    """Grey levels as shades of a colour, (H, W, 3)."""
    return np.asarray(level[..., None] * (np.asarray(colour, np.float32) / np.mean(colour)), np.float32)


def _blend(under: Field, over: Field, outside_m: Field, soft_m: float) -> Field:
    """``over`` where ``outside_m`` is negative, with a soft edge."""
    share = np.clip(0.5 - outside_m / soft_m, 0, 1)[..., None].astype(np.float32)
    return np.asarray(under + (over - under) * share, np.float32)


def _ground(layout: Layout, surfaces: Surfaces, right: Field, forward: Field) -> Field:
    base = _GROUNDS[layout.kind](surfaces, right, forward)
    wobble = 0.12 * surfaces.noise(right, forward, 1.0)
    for path in layout.paths:
        outside = path.distance(right, forward) + wobble
        base = _blend(base, _gravel(surfaces, right, forward), outside, 0.25)
    if layout.bed is not None:
        outside = layout.bed.distance(right, forward)
        base = _blend(base, np.full_like(base, 118.0), outside - 0.18, 0.05)
        base = _blend(base, _grass(surfaces, right, forward), outside, 0.06)
    if layout.road is not None:
        outside = layout.road.distance(right, forward)
        base = _blend(base, np.full_like(base, 134.0), outside - 0.16, 0.04)
        base = _blend(base, _road(surfaces, layout.road, right, forward), outside, 0.05)
    return base


def _slabs(surfaces: Surfaces, right: Field, forward: Field) -> Field:
    rng = surfaces.rng
    size, level = rng.uniform(0.45, 0.95), rng.uniform(112, 158)
    angle = rng.choice([0.0, 0.0, 0.35, 0.785])
    across, along = right * np.cos(angle) - forward * np.sin(angle), right * np.sin(angle) + forward * np.cos(angle)
    rows = np.floor(along / size)
    shifted = across / size + 0.5 * (rows % 2) * rng.integers(2)
    own = surfaces.noise((np.floor(shifted) * 3.7).astype(np.float32), (rows * 2.9).astype(np.float32), 0.4, 0.3)
    gaps = np.minimum(np.minimum(shifted % 1, 1 - shifted % 1), np.minimum((along / size) % 1, 1 - (along / size) % 1)) * size
    joints = np.clip(1.0 - gaps / 0.018, 0, 1)
    stains = surfaces.noise(right, forward, 2.5)
    values = level + 5 * own + 5 * stains + 4 * surfaces.noise(right, forward, 0.15, 0.4) - 34 * joints
    return _tint(values.astype(np.float32), (108, 114, 118))


def _grass(surfaces: Surfaces, right: Field, forward: Field) -> Field:
    values = 88 + 10 * surfaces.noise(right, forward, 3.0) + 12 * surfaces.noise(right, forward, 0.2, 0.2)
    return _tint(values.astype(np.float32), (72, 116, 98))


def _gravel(surfaces: Surfaces, right: Field, forward: Field) -> Field:
    values = 146 + 7 * surfaces.noise(right, forward, 2.0) + 7 * surfaces.noise(right, forward, 0.12, 0.2)
    return _tint(values.astype(np.float32), (122, 140, 150))


def _asphalt(surfaces: Surfaces, right: Field, forward: Field) -> Field:
    patches = np.clip(surfaces.noise(right, forward, 5.0) - 0.6, 0, 0.4) * 22
    values = 92 + 5 * surfaces.noise(right, forward, 2.0) + 5 * surfaces.noise(right, forward, 0.08, 0.1) - patches
    return _tint(values.astype(np.float32), (98, 98, 96))


def _road(surfaces: Surfaces, road: Band, right: Field, forward: Field) -> Field:
    middle = road.distance(right, forward) + np.float32(road.half_width_m)
    paint = (middle < 0.07) & ((right % 5.0) < 2.4)
    edge = np.abs(middle - np.float32(road.half_width_m - 0.3)) < 0.06
    worn = np.clip(0.75 + 0.2 * surfaces.noise(right, forward, 0.4), 0, 1)[..., None]
    asphalt = _asphalt(surfaces, right, forward)
    return np.where((paint | edge)[..., None], asphalt + (205 - asphalt) * worn, asphalt)


def _floor(surfaces: Surfaces, right: Field, forward: Field) -> Field:
    rng = surfaces.rng
    size, contrast = rng.uniform(0.5, 1.2), rng.uniform(2, 22)
    squares = (np.floor(right / size) + np.floor(forward / size)) % 2
    gaps = np.minimum(
        np.minimum((right / size) % 1, 1 - (right / size) % 1), np.minimum((forward / size) % 1, 1 - (forward / size) % 1)
    )
    gloss = 14 * np.exp(-((surfaces.noise(right, forward, 6.0) - 0.8) ** 2))
    values = (
        rng.uniform(115, 165) + contrast * squares + gloss + 3 * surfaces.noise(right, forward, 0.5) - 18 * (gaps * size < 0.012)
    )
    return _tint(values.astype(np.float32), (126, 138, 146))


_GROUNDS: dict[str, Callable[[Surfaces, Field, Field], Field]] = {
    "plaza": _slabs,
    "park": _grass,
    "street": _slabs,
    "hall": _floor,
}


def _wall(layout: Layout, surfaces: Surfaces, right: Field, up: Field) -> Field:
    match layout.kind:
        case "park":
            return _hedge(surfaces, right, up)
        case "hall":
            return _plaster(surfaces, right, up, doors=True)
        case _:
            return _facade(surfaces, right, up) if surfaces.rng.random() < 0.6 else _plaster(surfaces, right, up, doors=False)


def _hedge(surfaces: Surfaces, right: Field, up: Field) -> Field:
    top = _HEDGE_M + 0.5 * surfaces.noise(right, np.zeros_like(right), 1.5)
    leaves = 58 + 16 * surfaces.noise(right, up, 0.5, 0.4) + 8 * surfaces.noise(right, up, 3.0)
    trees = 76 + 20 * surfaces.noise(right, up, 2.5, 0.5) + np.clip(up - _HEDGE_M, 0, 12) * 5
    values = np.where(up < top, leaves, trees)
    return _tint(values.astype(np.float32), (66, 92, 78))


def _plaster(surfaces: Surfaces, right: Field, up: Field, *, doors: bool) -> Field:
    rng = surfaces.rng
    level = rng.uniform(120, 185)
    values = level + 4 * surfaces.noise(right, up, 2.0) + 2 * surfaces.noise(right, up, 0.1, 0.2) - 26 * (up < 0.14)
    if doors:
        spacing = rng.uniform(3.5, 6.0)
        place = right % spacing
        door = (place < 1.0) & (up < 2.1)
        frame = (np.abs(place - 0.5) < 0.58) & (up < 2.18) & ~door
        values = np.where(frame, level * 0.62, np.where(door, level * 0.5 + 3 * surfaces.noise(right, up, 0.3), values))
        poster = (np.abs(place - spacing * 0.62) < 0.45) & (np.abs(up - 1.6) < 0.55)
        values = np.where(poster, 120 + 40 * surfaces.noise(right * 3, up * 3, 1.0, 0.6), values)
    return _tint(values.astype(np.float32), (124, 134, 142))


def _facade(surfaces: Surfaces, right: Field, up: Field) -> Field:
    rng = surfaces.rng
    rows = np.floor(up / 0.075)
    shifted = right / 0.25 + 0.5 * (rows % 2)
    mortar = ((up / 0.075) % 1 < 0.14) | (shifted % 1 < 0.05)
    bricks = (
        rng.uniform(84, 140)
        + 6 * surfaces.noise(np.floor(shifted) * 3.1, rows * 1.7, 0.4, 0.3)
        + 5 * surfaces.noise(right, up, 3.0)
    )
    values = bricks + 16 * mortar
    spacing, wide, sill, high = rng.uniform(2.2, 3.4), rng.uniform(0.9, 1.5), rng.uniform(0.8, 1.1), rng.uniform(1.2, 1.7)
    place, storey = right % spacing, up % 3.0
    window = (np.abs(place - spacing / 2) < wide / 2) & (storey > sill) & (storey < sill + high)
    frame = (np.abs(place - spacing / 2) < wide / 2 + 0.09) & (storey > sill - 0.09) & (storey < sill + high + 0.09)
    bars = (np.abs(place - spacing / 2) < 0.035) | (np.abs(storey - sill - high * 0.6) < 0.03)
    glass = 58 + 24 * surfaces.noise(np.floor(right / spacing) * 5.3 + 0.1 * right, up, 1.2)
    values = np.where(frame, np.where(window & ~bars, glass, 178), values)
    return _tint(values.astype(np.float32), (100, 112, 134))
