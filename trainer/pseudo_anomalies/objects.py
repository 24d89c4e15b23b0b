"""What is pasted into normal footage: things that go too fast or look as nothing does, and people who are as normal as before.

The latter are pasted as the former are, so that the seams of a paste teach nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
from numpy.random import Generator

from trainer.pseudo_anomalies.compositing import Cutout, GrayImage, PlacedCutout, soft_alpha
from trainer.pseudo_anomalies.segments import Segment, SegmentedView

Offsets = Sequence[int]
"""How many frames before the newest one each frame lies, such as 0, 1, 2, 4."""

_TOO_FAST = (1.35, 6.0)
"""In units of the speed that is usual at its row."""
_ANY_SPEED = (0.5, 3.5)
_OWN_DIRECTION = 0.7
_TRACK_FACTORS = (2, 3)
_SLOW = 0.35


@dataclass(frozen=True, slots=True)
class PastedObject:
    """Something pasted into several frames."""

    frames: tuple[PlacedCutout, ...]
    """For every offset, in their order."""
    anomalous: bool
    looks_strange: bool
    """Also in a still picture."""
    told: bool = False
    """Whether an operator said what it is."""


def normal_object(crowd: SegmentedView, offsets: Offsets, rng: Generator) -> PastedObject | None:
    """Somebody from elsewhere in the footage at their own pace, in their own row; None where the way leaves the picture."""
    if not crowd.blobs:
        return None
    blob = _any_blob(crowd, rng)
    track = _track(crowd, blob, offsets, 1)
    if track is None:
        return None
    return PastedObject(_moved(track, rng.uniform(-30, 30), rng.uniform(-3, 3)), anomalous=False, looks_strange=False)


def anomalous_object(crowd: SegmentedView, offsets: Offsets, rng: Generator) -> PastedObject | None:
    """One of :data:`_STRANGE`, by its share; None where this blob does not serve. Where nothing ever moved, a thing."""
    if not crowd.blobs:
        return _thing(crowd, _nobody(crowd, rng), offsets, rng)
    kinds = list(_STRANGE)
    kind = kinds[int(rng.choice(len(kinds), p=list(_STRANGE.values())))]
    return kind(crowd, _any_blob(crowd, rng), offsets, rng)


def _runner(crowd: SegmentedView, blob: Segment, offsets: Offsets, rng: Generator) -> PastedObject | None:
    """A person's picture that glides along too fast."""
    cut = crowd.cut(blob)
    return cut and _gliding(crowd, blob, cut.cutout, offsets, rng, _TOO_FAST, looks_strange=False)


def _hurried(crowd: SegmentedView, blob: Segment, offsets: Offsets, rng: Generator) -> PastedObject | None:
    """A person's real way, played two or three times as fast."""
    if blob.speed < _SLOW * crowd.usual_speed(blob.feet_px):
        return None
    track = _track(crowd, blob, offsets, int(rng.choice(_TRACK_FACTORS)))
    if track is None:
        return None
    return PastedObject(_moved(track, rng.uniform(-60, 60), rng.uniform(-8, 8)), anomalous=True, looks_strange=False)


def _misshapen(crowd: SegmentedView, blob: Segment, offsets: Offsets, rng: Generator) -> PastedObject | None:
    """A person stretched, flattened, enlarged or turned."""
    cut = crowd.cut(blob)
    return cut and _gliding(crowd, blob, _warped(cut.cutout, rng), offsets, rng, _ANY_SPEED, looks_strange=True)


def _merged(crowd: SegmentedView, blob: Segment, offsets: Offsets, rng: Generator) -> PastedObject | None:
    """Two people grown together."""
    one, other = crowd.cut(blob), crowd.cut(_any_blob(crowd, rng))
    if one is None or other is None:
        return None
    return _gliding(crowd, blob, _joined(one.cutout, other.cutout, rng), offsets, rng, _ANY_SPEED, looks_strange=True)


def _thing(crowd: SegmentedView, blob: Segment, offsets: Offsets, rng: Generator) -> PastedObject | None:
    """A textured shape of about a person's size."""
    _, _, width, height = blob.box
    shape = textured_shape(float(np.sqrt(width * height)) * rng.uniform(0.7, 1.4), rng)
    return _gliding(crowd, blob, shape, offsets, rng, _ANY_SPEED, looks_strange=True)


_STRANGE: Mapping[Callable[[SegmentedView, Segment, Offsets, Generator], PastedObject | None], float] = MappingProxyType(
    {_runner: 0.3, _hurried: 0.25, _misshapen: 0.15, _merged: 0.15, _thing: 0.15}
)


def textured_shape(size_px: float, rng: Generator) -> Cutout:
    """An ellipse, a rectangle or a polygon with a random texture, its sides some ``size_px`` long."""
    height, width = (max(8, int(size_px * rng.uniform(0.4, longest))) for longest in (1.3, 1.8))
    grain = rng.normal(0, 1, (rng.integers(2, 7), rng.integers(2, 7))).astype(np.float32)
    texture = cv2.resize(grain, (width, height), interpolation=int(rng.choice([cv2.INTER_CUBIC, cv2.INTER_NEAREST])))
    picture = np.clip(rng.uniform(20, 230) + texture * rng.uniform(5, 45), 0, 255)
    mask = np.zeros((height, width), np.uint8)
    match int(rng.choice(3, p=[0.4, 0.3, 0.3])):
        case 0:
            cv2.ellipse(mask, (width // 2, height // 2), (width // 2 - 1, height // 2 - 1), 0, 0, 360, 1, -1)
        case 1:
            cv2.rectangle(mask, (1, 1), (width - 2, height - 2), 1, -1)
        case _:
            corners = (rng.uniform(0, 1, (6, 2)) * (width, height)).astype(np.int32)
            cv2.fillPoly(mask, [cv2.convexHull(corners)], 1)
    return Cutout(picture.astype(np.float32), soft_alpha(mask))


def _gliding(
    crowd: SegmentedView,
    blob: Segment,
    cutout: Cutout,
    offsets: Offsets,
    rng: Generator,
    speeds: tuple[float, float],
    *,
    looks_strange: bool,
) -> PastedObject:
    """A cut-out that stands on the blob's row, anywhere across, and moves on unchanged."""
    height, width = cutout.picture.shape
    speed = crowd.usual_speed(blob.feet_px) * np.exp(rng.uniform(*np.log(speeds)))
    across, down = _direction(blob, rng) * speed
    x = rng.uniform(-0.6 * width, crowd.frame_px[1] - 0.4 * width)
    y = blob.feet_px - height + rng.uniform(-6, 6)
    picture = np.clip((cutout.picture - 128) * rng.uniform(0.85, 1.15) + 128 + rng.uniform(-15, 15), 0, 255)
    shown = Cutout(picture, cutout.alpha)
    frames = tuple(PlacedCutout(shown, x - across * earlier, y - down * earlier) for earlier in offsets)
    return PastedObject(frames, anomalous=True, looks_strange=looks_strange)


def _direction(blob: Segment, rng: Generator) -> GrayImage:
    if blob.speed > 0.2 and rng.random() < _OWN_DIRECTION:
        return blob.velocity / np.float32(blob.speed)
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), 0.6 * np.sin(angle)], np.float32)  # a floor seen at a slant


def _nobody(crowd: SegmentedView, rng: Generator) -> Segment:
    """The size of a person somewhere in an empty picture."""
    height, width = crowd.frame_px
    box = (0, int(rng.uniform(0, 0.8) * height), width // 20, height // 6)
    return Segment(0, 0, box, np.ones((box[3], box[2]), np.uint8), np.zeros(2, np.float32))


def _any_blob(crowd: SegmentedView, rng: Generator) -> Segment:
    return crowd.blobs[int(rng.integers(len(crowd.blobs)))]


def _track(crowd: SegmentedView, blob: Segment, offsets: Offsets, factor: int) -> tuple[PlacedCutout, ...] | None:
    cuts = [crowd.cut(blob, earlier * factor) for earlier in offsets]
    found = tuple(cut for cut in cuts if cut is not None)
    return found if len(found) == len(cuts) else None


def _moved(track: tuple[PlacedCutout, ...], right: float, down: float) -> tuple[PlacedCutout, ...]:
    return tuple(PlacedCutout(placed.cutout, placed.x + right, placed.y + down) for placed in track)


def _warped(cutout: Cutout, rng: Generator) -> Cutout:
    sizes = ((1.5, 2.6, 0.8, 1.1), (0.9, 1.2, 0.45, 0.7), (1.5, 2.0, 1.5, 2.0), (1.2, 1.8, 0.7, 1.0))
    low_x, high_x, low_y, high_y = sizes[int(rng.integers(len(sizes)))]
    across, down = rng.uniform(low_x, high_x), rng.uniform(low_y, high_y)
    picture, alpha = (np.asarray(cv2.resize(part, None, fx=across, fy=down), np.float32) for part in cutout)
    wide = Cutout(picture, alpha)
    if rng.random() >= 0.3:
        return wide
    angle = rng.choice([-1, 1]) * rng.uniform(40, 100)
    height, width = wide.picture.shape
    side = int(np.hypot(height, width)) + 2
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), float(angle), 1.0)
    turn[:, 2] += ((side - width) / 2, (side - height) / 2)
    turned = cv2.warpAffine(wide.picture, turn, (side, side), borderMode=cv2.BORDER_REPLICATE)
    return Cutout(np.asarray(turned, np.float32), np.asarray(cv2.warpAffine(wide.alpha, turn, (side, side)), np.float32))


def _joined(one: Cutout, other: Cutout, rng: Generator) -> Cutout:
    (high, wide), (other_high, other_wide) = one.picture.shape, other.picture.shape
    right = int(wide * rng.uniform(0.25, 0.7))
    height, width = max(high, other_high), max(wide, right + other_wide)
    picture, alpha = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    picture[height - high :, :wide], alpha[height - high :, :wide] = one
    part = (slice(height - other_high, height), slice(right, right + other_wide))
    picture[part] += (other.picture - picture[part]) * other.alpha
    alpha[part] = np.maximum(alpha[part], other.alpha)
    return Cutout(picture, alpha)
