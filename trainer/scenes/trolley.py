"""A trolley that somebody pushes, its load under a checked cloth."""

from dataclasses import dataclass

import numpy as np

from trainer.scenes.actors import Outlines
from trainer.scenes.drawing import Light, box_polygons, placed, shadow_polygons
from trainer.scenes.geometry import Floats, Pinhole, Track
from trainer.scenes.people import Colour, Limb

_AHEAD_M = 1.1  # of who pushes it
# Each layer of the load from the floor up: its length, its width, its height, all in metres, and its colour.
_LAYERS: tuple[tuple[float, float, float, Colour], ...] = (
    (1.5, 0.8, 0.15, (60, 60, 60)),
    (1.4, 0.75, 0.65, (60, 110, 170)),
    (1.0, 0.7, 0.55, (90, 140, 190)),
    (0.6, 0.6, 0.3, (150, 150, 160)),
)
_WHEELS_M = 0.15
_LIGHT, _DARK = 1.45, 0.55
_SQUARES = np.where(np.indices((12, 12)).sum(axis=0) % 2, _DARK, _LIGHT)
CLOTH: Floats = np.kron(_SQUARES, np.ones((2, 2))).astype(np.float32)
"""The texture of the load: a cloth whose squares are light and dark in turn."""


@dataclass(frozen=True, slots=True)
class Trolley:
    """A trolley ahead of somebody who goes along ``track``."""

    track: Track

    @property
    def grain(self) -> Floats:
        return CLOTH

    def present(self, time_s: float) -> bool:
        return self.track.start_s <= time_s <= self.track.end_s

    def place(self, time_s: float) -> Floats:
        heading = self.track.heading(time_s)
        return self.track.position(time_s) + _AHEAD_M * np.array([np.cos(heading), np.sin(heading)])

    def outlines(self, view: Pinhole, time_s: float, light: Light) -> Outlines:
        boxes = load_boxes(self.place(time_s), self.track.heading(time_s))
        faces = [sorted(box_polygons(view, box.centres, [box.colour] * 5), key=lambda face: -face.depth_m) for box in boxes]
        return Outlines([face for box in faces for face in box], shadow_polygons(view, boxes, light))


def load_boxes(position: Floats, heading: float) -> list[Limb]:
    """The layers of the load, from the lowest up, as the corners of boxes in the world."""
    boxes, low = [], _WHEELS_M
    for length, width, height, colour in _LAYERS:
        outline = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (length / 2, width / 2)
        corners = np.concatenate([np.c_[outline, np.full(4, up)] for up in (low, low + height)])
        boxes.append(Limb(placed(corners, position, heading), np.full(8, 0.05), colour))
        low += height
    return boxes
