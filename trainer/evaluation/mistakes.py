"""Pictures of mistakes: the frame under the model's heat map, and the outline of what is really anomalous.

A heat map drawn over its frame, in colours that mean the same in every picture.

The worst mistakes: where the scores lie furthest on the wrong side of the threshold. Pure.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from deploy.bundle import Calibration
from deploy.engine import Engine
from deploy.image import Frame
from deploy.spec import ClipSpec
from trainer.data.footage import Source, decode_frames, footage_info, load_footage
from trainer.data.labels import LabelledClip
from trainer.evaluation.metrics import Labels, Scores
from trainer.evaluation.runner import scored_frames

_SHORT_SIDE_PX = 360
_FULL = 2.0
"""The strongest colour: so many times as far above the median as the threshold is."""
_OPACITY = 0.6
_REDDEST = 218  # of the 256 colours of Turbo: after it they darken again
_TOP = 0.8
_WHITE = (255, 255, 255)


def overlay(frame: Frame, heatmap: NDArray[np.float32], calibration: Calibration) -> NDArray[np.uint8]:
    """:func:`tinted`, with a line around where the map reaches four fifths of its own largest value: BGR uint8 (H', W', 3).

    So a frame without colours shows its strangest place, too. Small frames are enlarged by a whole factor.
    """
    factor = max(1, round(_SHORT_SIDE_PX / min(frame.shape[:2])))
    size = (frame.shape[1] * factor, frame.shape[0] * factor)
    enlarged = np.asarray(cv2.resize(_bgr(frame), size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return _outlined(tinted(enlarged, heatmap, calibration), heatmap)


def tinted(frame: Frame, heatmap: NDArray[np.float32], calibration: Calibration) -> NDArray[np.uint8]:
    """``frame``, uint8 (H, W, 1 or 3), under ``heatmap``, float32 (h, w) in score units: BGR uint8 (H, W, 3).

    Values up to the median of normal scores are clear; the threshold has half the opacity, twice its height above the median
    the full one.
    """
    size = (frame.shape[1], frame.shape[0])
    height = (heatmap - calibration.median) / (calibration.enter - calibration.median)
    strength = cv2.resize(np.clip(height / _FULL, 0.0, 1.0).astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap((strength * _REDDEST).astype(np.uint8), cv2.COLORMAP_TURBO).astype(np.float32)
    opacity = _OPACITY * strength[..., None]
    return np.asarray(_bgr(frame) * (1 - opacity) + colours * opacity, np.uint8)


def _outlined(picture: NDArray[np.uint8], heatmap: NDArray[np.float32]) -> NDArray[np.uint8]:
    lowest = float(heatmap.min())
    top = heatmap >= lowest + _TOP * (float(heatmap.max()) - lowest)
    mask = cv2.resize(top.astype(np.uint8), (picture.shape[1], picture.shape[0]), interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return np.asarray(cv2.drawContours(picture, contours, -1, _WHITE, 1), np.uint8)


def _bgr(frame: Frame) -> NDArray[np.uint8]:
    return np.repeat(frame, 3, axis=2) if frame.shape[2] == 1 else frame


JOINED_S = 1.0
"""Wrong frames at most so far apart belong to one stretch, as dips of that length do not split an event."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """The worst frame of a stretch of wrong frames, or of a clip that has none."""

    clip: str
    frame: int
    """Its place in the clip, counted from 0."""
    score: float
    first_frame: int
    last_frame: int
    """The stretch, both ends included; without one the frame alone."""
    wrong: bool
    """Whether its score lies on the wrong side of the threshold."""


def worst_misses(scores: Scores, labels: Labels, threshold: float, fps: float) -> list[Mistake]:
    """Anomalous frames by their scores, the lowest first; wrong ones are below ``threshold``. One a stretch.

    Frames without a score are left out. Of a clip whose anomalous frames all pass, the lowest one is there with ``wrong`` False.
    """
    every = [
        mistake
        for name, row in scores.items()
        for mistake in _mistakes(name, row, labels[name] == 1, row < threshold, Order(worse=-1, joined=round(JOINED_S * fps)))
    ]
    return sorted(every, key=lambda mistake: mistake.score)


def worst_false_alarms(scores: Scores, labels: Labels, threshold: float, fps: float) -> list[Mistake]:
    """Normal frames by their scores, the highest first; wrong ones are at ``threshold`` or above. One a stretch, as above."""
    every = [
        mistake
        for name, row in scores.items()
        for mistake in _mistakes(name, row, labels[name] == 0, row >= threshold, Order(worse=1, joined=round(JOINED_S * fps)))
    ]
    return sorted(every, key=lambda mistake: -mistake.score)


class Order(NamedTuple):
    """How mistakes are told apart and compared."""

    worse: int
    """1 where high scores are worse, -1 where low ones are."""
    joined: int
    """Frames."""


def _mistakes(
    name: str, scores: NDArray[np.float32], wanted: NDArray[np.bool_], wrong: NDArray[np.bool_], order: Order
) -> Iterator[Mistake]:
    candidates = np.flatnonzero(wanted & np.isfinite(scores))
    mistaken = candidates[wrong[candidates]]
    for stretch in _stretches(mistaken, order.joined):
        frame = _worst(scores, stretch, order)
        yield Mistake(name, frame, float(scores[frame]), int(stretch[0]), int(stretch[-1]), wrong=True)
    if len(candidates) and not len(mistaken):
        frame = _worst(scores, candidates, order)
        yield Mistake(name, frame, float(scores[frame]), frame, frame, wrong=False)


def _worst(scores: NDArray[np.float32], frames: NDArray[np.int64], order: Order) -> int:
    return int(frames[(order.worse * scores[frames]).argmax()])


def _stretches(frames: NDArray[np.int64], joined: int) -> list[NDArray[np.int64]]:
    return np.split(frames, np.flatnonzero(np.diff(frames) > joined) + 1) if len(frames) else []


Picture = NDArray[np.uint8]
"""BGR, uint8 (H, W, 3)."""

_SIDE_LIMITS_PX = (16, 2048)
_OUTLINE_BGR = (255, 255, 0)
_SCALE_HEIGHT_PX, _SCALE_WIDTH_PX = 18, 320
_SCALE_GREY = 110


@dataclass(frozen=True, slots=True)
class Shot:
    """A mistake and its picture."""

    mistake: Mistake
    picture: Picture


def shots(engine: Engine, clips: Sequence[LabelledClip], mistakes: Sequence[Mistake], calibration: Calibration) -> list[Shot]:
    """The pictures of ``mistakes``, in their order. Their clips are scored again: all heat maps would be too many to keep."""
    found = {
        (clip.source.name, frame): picture
        for clip in clips
        for frame, picture in _of_clip(engine, clip, {m.frame for m in mistakes if m.clip == clip.source.name}, calibration)
    }
    return [Shot(mistake, found[mistake.clip, mistake.frame]) for mistake in mistakes]


def scale_picture(calibration: Calibration) -> Picture:
    """The colours from the median of normal scores at the left to twice the threshold's height at the right, on grey."""
    grey = np.full((_SCALE_HEIGHT_PX, _SCALE_WIDTH_PX, 1), _SCALE_GREY, np.uint8)
    height = calibration.enter - calibration.median
    ramp = np.linspace(calibration.median, calibration.median + 2 * height, _SCALE_WIDTH_PX, dtype=np.float32)
    return tinted(grey, ramp[None], calibration)


def outlined(picture: Picture, mask: NDArray[np.bool_]) -> Picture:
    """``picture`` with the outline of ``mask``, bool (H, W) of any size, in cyan."""
    size = picture.shape[1], picture.shape[0]
    fitted = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(fitted, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(picture.copy(), contours, -1, _OUTLINE_BGR, 1), np.uint8)


def _of_clip(engine: Engine, clip: LabelledClip, wanted: set[int], calibration: Calibration) -> Iterator[tuple[int, Picture]]:
    if not wanted:
        return
    frames = _frames(clip.source, wanted)
    for place, _, heatmap in scored_frames(engine, load_footage(clip.source, engine.spec)):
        if place in wanted:
            picture = tinted(frames[place], heatmap, calibration)
            yield place, picture if clip.masks is None else outlined(picture, clip.masks[place])
        if place >= max(wanted):
            return


def _frames(source: Source, wanted: set[int]) -> dict[int, NDArray[np.uint8]]:
    """Readable frames in their own colour and size, a long side of 2048 pixels at most."""
    shape = footage_info([source])
    scale = min(1.0, _SIDE_LIMITS_PX[1] / max(shape.width_px, shape.height_px))
    width_px, height_px = (max(_SIDE_LIMITS_PX[0], round(side * scale)) for side in (shape.width_px, shape.height_px))
    spec = ClipSpec(length=1, height_px=height_px, width_px=width_px, colour="bgr", fps=shape.fps)
    decoded = enumerate(islice(decode_frames(source, spec), max(wanted) + 1))
    return {place: frame for place, frame in decoded if place in wanted and not isinstance(frame, str)}
