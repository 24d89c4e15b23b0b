"""Objects to paste into normal footage: anomalous ones, and normal ones.

Normal objects are pasted in the same way as anomalous ones, so that the seams of pasting teach nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
from numpy.random import Generator

from trainer.pseudo_anomalies.segments import Cutout, GrayImage, PlacedCutout, Segment, SegmentedView, soft_alpha

Offsets = Sequence[int]  # how many frames before the newest one each frame lies, such as 0, 1, 2

_TOO_FAST = (1.35, 6.0)  # relative to the usual speed of the row
_ANY_SPEED = (0.5, 3.5)
_OWN_DIRECTION_SHARE = 0.7
_TRACK_FACTORS = (2, 3)
_MIN_SPED_UP = 0.35
_SCALES = ((1.5, 2.6, 0.8, 1.1), (0.9, 1.2, 0.45, 0.7), (1.5, 2.0, 1.5, 2.0), (1.2, 1.8, 0.7, 1.0))  # ranges across and down


@dataclass(frozen=True, slots=True)
class PastedObject:
    """An object to be pasted into several frames."""

    frames: tuple[PlacedCutout, ...]  # one for every offset, in their order
    anomalous: bool
    abnormal_looks: bool  # whether it is anomalous also in a still image
    annotated: bool = False  # whether an operator labelled it


def normal_object(view: SegmentedView, offsets: Offsets, rng: Generator) -> PastedObject | None:
    """A segment from elsewhere in the footage at its own speed and in its own row; None if its track leaves the image."""
    if not view.segments:
        return None
    return _on_track(view, _random_segment(view, rng), offsets, 1, (30, 3), rng)


def anomalous_object(view: SegmentedView, offsets: Offsets, rng: Generator) -> PastedObject | None:
    """One of the kinds below, by its probability; None if the segment is not suitable. A shape if nothing ever moved there."""
    if not view.segments:
        return _shape(view, _person_sized(view, rng), offsets, rng)
    kinds = list(_KINDS)
    kind = kinds[int(rng.choice(len(kinds), p=list(_KINDS.values())))]
    return kind(view, _random_segment(view, rng), offsets, rng)


def _too_fast(view: SegmentedView, segment: Segment, offsets: Offsets, rng: Generator) -> PastedObject | None:
    cut = view.cut(segment)
    return cut and _gliding(view, segment, cut.cutout, offsets, rng, too_fast=True)


def _sped_up(view: SegmentedView, segment: Segment, offsets: Offsets, rng: Generator) -> PastedObject | None:
    if segment.speed < _MIN_SPED_UP * view.usual_speed(segment.feet_px):
        return None
    return _on_track(view, segment, offsets, int(rng.choice(_TRACK_FACTORS)), (60, 8), rng)


def _deformed(view: SegmentedView, segment: Segment, offsets: Offsets, rng: Generator) -> PastedObject | None:
    cut = view.cut(segment)
    return cut and _gliding(view, segment, _warped(cut.cutout, rng), offsets, rng)


def _merged(view: SegmentedView, segment: Segment, offsets: Offsets, rng: Generator) -> PastedObject | None:
    one, other = view.cut(segment), view.cut(_random_segment(view, rng))
    if one is None or other is None:
        return None
    return _gliding(view, segment, _joined(one.cutout, other.cutout, rng), offsets, rng)


def _shape(view: SegmentedView, segment: Segment, offsets: Offsets, rng: Generator) -> PastedObject | None:
    _, _, width, height = segment.box
    shape = textured_shape(float(np.sqrt(width * height)) * rng.uniform(0.7, 1.4), rng)
    return _gliding(view, segment, shape, offsets, rng)


_KINDS: Mapping[Callable[[SegmentedView, Segment, Offsets, Generator], PastedObject | None], float] = MappingProxyType(
    {_too_fast: 0.3, _sped_up: 0.25, _deformed: 0.15, _merged: 0.15, _shape: 0.15}
)


def textured_shape(size_px: float, rng: Generator) -> Cutout:
    """An ellipse, a rectangle or a polygon with a random texture and sides of about ``size_px``."""
    height, width = (max(8, int(size_px * rng.uniform(0.4, longest))) for longest in (1.3, 1.8))
    noise = rng.normal(0, 1, (rng.integers(2, 7), rng.integers(2, 7))).astype(np.float32)
    texture = cv2.resize(noise, (width, height), interpolation=int(rng.choice([cv2.INTER_CUBIC, cv2.INTER_NEAREST])))
    image = np.clip(rng.uniform(20, 230) + texture * rng.uniform(5, 45), 0, 255)
    mask = np.zeros((height, width), np.uint8)
    match int(rng.choice(3, p=[0.4, 0.3, 0.3])):
        case 0:
            cv2.ellipse(mask, (width // 2, height // 2), (width // 2 - 1, height // 2 - 1), 0, 0, 360, 1, -1)
        case 1:
            cv2.rectangle(mask, (1, 1), (width - 2, height - 2), 1, -1)
        case _:
            corners = (rng.uniform(0, 1, (6, 2)) * (width, height)).astype(np.int32)
            cv2.fillPoly(mask, [cv2.convexHull(corners)], 1)
    return Cutout(image.astype(np.float32), soft_alpha(mask))


def _on_track(
    view: SegmentedView, segment: Segment, offsets: Offsets, factor: int, reach_px: tuple[float, float], rng: Generator
) -> PastedObject | None:
    """A segment shifted on its own track, ``factor`` times as fast; None if the track leaves the image."""
    cuts = [view.cut(segment, earlier * factor) for earlier in offsets]
    inside = [cut for cut in cuts if cut is not None]
    if len(inside) < len(cuts):
        return None
    right, down = (rng.uniform(-reach, reach) for reach in reach_px)
    frames = tuple(PlacedCutout(cutout, x + right, y + down) for cutout, x, y in inside)
    return PastedObject(frames, anomalous=factor > 1, abnormal_looks=False)


def _gliding(
    view: SegmentedView, segment: Segment, cutout: Cutout, offsets: Offsets, rng: Generator, *, too_fast: bool = False
) -> PastedObject:
    height, width = cutout.image.shape
    speed = view.usual_speed(segment.feet_px) * np.exp(rng.uniform(*np.log(_TOO_FAST if too_fast else _ANY_SPEED)))
    across, down = _direction(segment, rng) * speed
    x = rng.uniform(-0.6 * width, view.frame_px[1] - 0.4 * width)
    y = segment.feet_px - height + rng.uniform(-6, 6)
    image = np.clip((cutout.image - 128) * rng.uniform(0.85, 1.15) + 128 + rng.uniform(-15, 15), 0, 255)
    pasted = Cutout(image, cutout.alpha)
    frames = tuple(PlacedCutout(pasted, x - across * earlier, y - down * earlier) for earlier in offsets)
    return PastedObject(frames, anomalous=True, abnormal_looks=not too_fast)


def _direction(segment: Segment, rng: Generator) -> GrayImage:
    if segment.speed > 0.2 and rng.random() < _OWN_DIRECTION_SHARE:
        return segment.velocity / np.float32(segment.speed)
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), 0.6 * np.sin(angle)], np.float32)  # the ground is seen at an angle


def _person_sized(view: SegmentedView, rng: Generator) -> Segment:
    height, width = view.frame_px
    box = (0, int(rng.uniform(0, 0.8) * height), width // 20, height // 6)
    return Segment(0, 0, box, np.ones((box[3], box[2]), np.uint8), np.zeros(2, np.float32))


def _random_segment(view: SegmentedView, rng: Generator) -> Segment:
    return view.segments[int(rng.integers(len(view.segments)))]


def _warped(cutout: Cutout, rng: Generator) -> Cutout:
    low_x, high_x, low_y, high_y = _SCALES[int(rng.integers(len(_SCALES)))]
    across, down = rng.uniform(low_x, high_x), rng.uniform(low_y, high_y)
    image, alpha = (np.asarray(cv2.resize(part, None, fx=across, fy=down), np.float32) for part in cutout)
    if rng.random() >= 0.3:
        return Cutout(image, alpha)
    angle = rng.choice([-1, 1]) * rng.uniform(40, 100)
    height, width = image.shape
    side = int(np.hypot(height, width)) + 2
    rotation = cv2.getRotationMatrix2D((width / 2, height / 2), float(angle), 1.0)
    rotation[:, 2] += ((side - width) / 2, (side - height) / 2)
    rotated = cv2.warpAffine(image, rotation, (side, side), borderMode=cv2.BORDER_REPLICATE)
    return Cutout(np.asarray(rotated, np.float32), np.asarray(cv2.warpAffine(alpha, rotation, (side, side)), np.float32))


def _joined(one: Cutout, other: Cutout, rng: Generator) -> Cutout:
    (high, wide), (other_high, other_wide) = one.image.shape, other.image.shape
    right = int(wide * rng.uniform(0.25, 0.7))
    height, width = max(high, other_high), max(wide, right + other_wide)
    image, alpha = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    image[height - high :, :wide], alpha[height - high :, :wide] = one
    part = (slice(height - other_high, height), slice(right, right + other_wide))
    image[part] += (other.image - image[part]) * other.alpha
    alpha[part] = np.maximum(alpha[part], other.alpha)
    return Cutout(image, alpha)
