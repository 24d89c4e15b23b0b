"""Faults, disturbances and anomalies that a script makes of ordinary footage, with fixed seeds.

Each changes the frames of a camera from one frame on, and says what a watchman should make of it: raise an event (``event``),
stay quiet (``quiet``), or report the camera's health, which is no event of what it sees (``health``). One of them is the footage
as it is: events that it raises by itself are not due to the others. Pixels are those of the network's frames.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from deploy.errors import BadFrame
from deploy.health import HealthState, PictureWatch, RateWatch, advance, learn_reference, measure
from deploy.image import decode_image, encode_jpeg
from deploy.spec import ClipSpec
from trainer.data.footage import Footage
from trainer.pseudo_anomalies.segments import (
    CameraView,
    Cutout,
    DisFlow,
    PlacedCutout,
    SegmentedView,
    camera_views,
    paste,
    segment_views,
)

Frames = NDArray[np.uint8]
"""uint8 (n, H, W, C) in order of time."""
Expected = Literal["event", "quiet", "health"]

_MAX_GAP_MS = 5_000  # as the service has it
_COVERED_LEVEL, _DARK_SHARE = 15, 0.12
_DARKEN_S = 4.0
_TURN_PX = 40
_EXPOSURE_STEP = 0.15
_FLICKER = 0.06  # of the brightness, up and down
_BLUR_PX = 4.0
_LOW_QUALITY, _DAMAGED_BYTES = 20, 5
_HEADER_BYTES = 700  # of a JPEG; damage there would leave no picture at all
_RAIN_SHARE, _RAIN_PX = 0.004, 7
_OBJECT_SHARE = 0.12  # of the frame's height
_SEGMENTED_FRAMES = 200
_STAY_S = 60.0  # of something that stays, longer than most clips last


class Recording(NamedTuple):
    """Ordinary footage of a camera, and the frame from which on something is to happen."""

    frames: Frames
    first: int
    fps: float
    view: SegmentedView | None
    """What moves in it; None where nothing was found."""


Apply = Callable[[Recording, Generator], Frames | None]
"""Returns the changed frames, or None if the footage does not allow it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens to a camera or in front of it."""

    name: str
    expected: Expected
    apply: Apply
    rate: float = 1.0
    """Frames a second that are sent from its beginning on, relative to the usual number."""


def recording_of(footage: Footage, seconds: float, lead_s: float, fps: float) -> Recording:
    """The last part of footage, which begins to change after ``lead_s``, or a quarter of it where it is short."""
    frames = footage.frames[-round(seconds * fps) :]
    views: list[CameraView] = camera_views([Footage(footage.name, frames[..., :1], np.arange(len(frames)), len(frames), ())])
    (segmented,) = segment_views(views, _SEGMENTED_FRAMES, DisFlow(), lambda: None)
    first = min(round(lead_s * fps), len(frames) // 4)
    return Recording(frames, first, fps, segmented if segmented.segments else None)


def health_states(recording: Recording, frames: Frames, rate: float = 1.0) -> Iterator[HealthState]:
    """The camera's health after each of ``frames``, with a reference that is learned from the recording itself.

    ``rate``: see :class:`Fault`.
    """
    every = max(1, round(recording.fps))
    pictures = PictureWatch(learn_reference([measure(frame) for frame in recording.frames[::every]], still_ms=0.0))
    intervals, state = RateWatch(), HealthState()
    for number, frame in enumerate(frames):
        late = max(0, number - recording.first)
        now_ms = round((number - late + late / rate) * 1000 / recording.fps)
        look = pictures.look(frame, now_ms)
        if not intervals.is_usual(now_ms, recording.fps, _MAX_GAP_MS):
            state, _ = advance(state, "rate", now_ms)
        elif look is not None:
            state, _ = advance(state, look.problem, now_ms)
        yield state


def _from_first(change: Callable[[Frames, Recording, Generator], NDArray[np.floating] | Frames]) -> Apply:
    """A fault that changes the frames from the first on, or their number; values are rounded to grey levels."""

    def apply(recording: Recording, rng: Generator) -> Frames:
        changed = np.clip(np.round(change(recording.frames[recording.first :], recording, rng)), 0, 255).astype(np.uint8)
        return np.concatenate([recording.frames[: recording.first], changed])

    return apply


def _cover(frames: Frames, _recording: Recording, rng: Generator) -> NDArray[np.floating]:
    return np.asarray(_COVERED_LEVEL + rng.normal(0, 1.5, frames.shape))


def _freeze(frames: Frames, _recording: Recording, _rng: Generator) -> Frames:
    return np.repeat(frames[:1], len(frames), axis=0)


def _turn(frames: Frames, _recording: Recording, _rng: Generator) -> Frames:
    return _shifted(frames, [(_TURN_PX, 0)] * len(frames))


def _shake(most_px: int) -> Callable[[Frames, Recording, Generator], Frames]:
    return lambda frames, _, rng: _shifted(frames, rng.integers(-most_px, most_px + 1, (len(frames), 2)).tolist())


def _flicker(frames: Frames, _recording: Recording, rng: Generator) -> NDArray[np.floating]:
    return np.asarray(frames * rng.uniform(1 - _FLICKER, 1 + _FLICKER, (len(frames), 1, 1, 1)))


def _shifted(frames: Frames, shifts: Sequence[Sequence[int]]) -> Frames:
    return np.stack([_shift(frame, *shift) for frame, shift in zip(frames, shifts, strict=True)])


def _shift(frame: Frames, right: int, down: int) -> Frames:
    matrix = np.array([[1, 0, right], [0, 1, down]], np.float32)
    moved = cv2.warpAffine(frame, matrix, frame.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.uint8).reshape(frame.shape)


def _dim(over_s: float) -> Callable[[Frames, Recording, Generator], NDArray[np.floating]]:
    def change(frames: Frames, recording: Recording, _rng: Generator) -> NDArray[np.floating]:
        done = np.clip(np.arange(1, 1 + len(frames)) / max(1.0, over_s * recording.fps), 0, 1)
        return np.asarray(frames * (1 - (1 - _DARK_SHARE) * done)[:, None, None, None])

    return change


def _exposure(frames: Frames, _recording: Recording, _rng: Generator) -> NDArray[np.floating]:
    """Brighter in the first half and darker in the second."""
    gain = np.where(np.arange(len(frames)) < len(frames) / 2, 1 + _EXPOSURE_STEP, 1 - _EXPOSURE_STEP)
    return np.asarray(frames * gain[:, None, None, None])


def _defocus(frames: Frames, _recording: Recording, _rng: Generator) -> Frames:
    return np.stack([cv2.GaussianBlur(frame, (0, 0), _BLUR_PX).reshape(frame.shape) for frame in frames])


def _rain(frames: Frames, _recording: Recording, rng: Generator) -> NDArray[np.floating]:
    """Bright streaks, and a little noise."""
    shape = (*frames.shape[:3], 1)
    drops = (rng.random(shape) < _RAIN_SHARE).astype(np.float32)
    streaks = np.stack([cv2.filter2D(each[..., 0], -1, np.ones((_RAIN_PX, 1), np.float32)) for each in drops])[..., None]
    return np.asarray(frames + 60 * np.minimum(streaks, 1) + rng.normal(0, 3, shape))


def _compress(frames: Frames, _recording: Recording, _rng: Generator) -> Frames:
    return np.stack([_decoded(encode_jpeg(_grey(frame), _LOW_QUALITY), frame) for frame in frames])


def _damage(frames: Frames, recording: Recording, rng: Generator) -> Frames:
    """One frame a second arrives with damaged bytes; one that the service refuses is missing."""
    arrived = []
    for number, frame in enumerate(frames):
        if number % max(1, round(recording.fps)):
            arrived.append(frame)
            continue
        content = bytearray(encode_jpeg(_grey(frame), 90))
        for place in rng.integers(_HEADER_BYTES, len(content), _DAMAGED_BYTES):
            content[place] = int(rng.integers(256))
        with suppress(BadFrame):
            arrived.append(_decoded(bytes(content), frame))
    return np.stack(arrived)


def _grey(frame: Frames) -> Frames:
    return frame[..., 0] if frame.shape[-1] == 1 else frame


def _decoded(content: bytes, like: Frames) -> Frames:
    height_px, width_px, channels = like.shape
    spec = ClipSpec(length=1, height_px=height_px, width_px=width_px, colour="gray" if channels == 1 else "bgr")
    return decode_image(content, spec).frame


def _every_nth(step: int) -> Callable[[Frames, Recording, Generator], Frames]:
    return lambda frames, _recording, _rng: frames[::step]


def _double_rate(frames: Frames, _recording: Recording, _rng: Generator) -> Frames:
    """Between any two frames one that is the mean of both."""
    between = ((frames[:-1].astype(np.uint16) + frames[1:]) // 2).astype(np.uint8)
    mixed = np.empty((len(frames) + len(between), *frames.shape[1:]), np.uint8)
    mixed[::2], mixed[1::2] = frames, between
    return mixed


def _reverse(frames: Frames, _recording: Recording, _rng: Generator) -> Frames:
    """All that moves goes the other way; only where ways are one-way is that unusual."""
    return frames[::-1]


def _left_object(recording: Recording, rng: Generator) -> Frames | None:
    """A textured thing the size of a bag stands on the ground where people walk."""
    view = recording.view
    if view is None:
        return None
    segment = view.segments[int(rng.integers(len(view.segments)))]
    height = max(6, round(_OBJECT_SHARE * recording.frames.shape[1]))
    coarse = rng.uniform(20, 120, (4, 3)).astype(np.float32)
    texture = np.asarray(cv2.resize(coarse, (round(0.8 * height), height), interpolation=cv2.INTER_AREA), np.float32)
    top, left = segment.feet_px - height, segment.box[0] + (segment.box[2] - texture.shape[1]) // 2
    return _pasted(recording, texture, np.ones(texture.shape, np.float32), max(0, top), max(0, left))


def _standing_person(recording: Recording, rng: Generator) -> Frames | None:
    """Somebody who walked there stands still."""
    view = recording.view
    for number in rng.permutation(len(view.segments)) if view is not None else ():
        placed = None if view is None else view.cut(view.segments[number])
        if placed is not None:
            return _pasted(recording, placed.cutout.image, placed.cutout.alpha, round(placed.y), round(placed.x))
    return None


def _prolonged(recording: Recording) -> Frames:
    """The frames, played backward and forward again from the first on until ``_STAY_S`` have passed."""
    ends = (recording.first, len(recording.frames) - 1)
    there_and_back = [*range(ends[0], ends[1]), *range(ends[1], ends[0], -1)] or [ends[1]]
    numbers = np.resize(there_and_back, round(_STAY_S * recording.fps))
    prolonged: Frames = recording.frames[np.concatenate([np.arange(recording.first), numbers])]
    return prolonged


def _pasted(recording: Recording, image: NDArray[np.float32], alpha: NDArray[np.float32], top: int, left: int) -> Frames:
    frames = _prolonged(recording)
    for frame in frames[recording.first :]:
        for channel in range(frame.shape[-1]):
            layer = frame[..., channel].astype(np.float32)
            paste(layer, PlacedCutout(Cutout(image, alpha), left, top))
            frame[..., channel] = np.clip(np.round(layer), 0, 255)
    return frames


FAULTS = (
    Fault("cover", "health", _from_first(_cover)),
    Fault("freeze", "health", _from_first(_freeze)),
    Fault("turn_40px", "health", _from_first(_turn)),
    Fault("darken_at_once", "health", _from_first(_dim(0.0))),
    Fault("darken_over_4s", "health", _from_first(_dim(_DARKEN_S))),
    Fault("defocus", "health", _from_first(_defocus)),
    Fault("double_rate", "health", _from_first(_double_rate), rate=2.0),
    Fault("exposure_15_percent", "quiet", _from_first(_exposure)),
    Fault("shake_1px", "quiet", _from_first(_shake(1))),
    Fault("shake_3px", "quiet", _from_first(_shake(3))),
    Fault("halve_rate", "quiet", _from_first(_every_nth(2)), rate=0.5),
    Fault("rain", "quiet", _from_first(_rain)),
    Fault("quality_20", "quiet", _from_first(_compress)),
    Fault("damaged_bytes", "quiet", _from_first(_damage)),
    Fault("reversed_tracks", "event", _from_first(_reverse)),
    Fault("left_object", "event", _left_object),
    Fault("standing_person", "event", _standing_person),
    Fault("triple_speed", "event", _from_first(_every_nth(3))),
    Fault("flicker_6_percent", "quiet", _from_first(_flicker)),
    Fault("undisturbed", "quiet", _from_first(lambda frames, _recording, _rng: frames)),
)
