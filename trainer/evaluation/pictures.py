"""Pictures of mistakes: the frame under the model's heat map, and the outline of what is really anomalous."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray

from deploy.bundle import Calibration
from deploy.engine import Engine
from deploy.spec import ClipSpec
from trainer.evaluation.worst import Mistake
from trainer.footage import Source, decoded_frames, footage_shape, load_footage
from trainer.labelled import LabelledClip
from trainer.overlay import tinted
from trainer.scoring import scored_frames

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
    shape = footage_shape([source])
    scale = min(1.0, _SIDE_LIMITS_PX[1] / max(shape.width_px, shape.height_px))
    width_px, height_px = (max(_SIDE_LIMITS_PX[0], round(side * scale)) for side in (shape.width_px, shape.height_px))
    spec = ClipSpec(length=1, height_px=height_px, width_px=width_px, colour="bgr", fps=shape.fps)
    decoded = enumerate(islice(decoded_frames(source, spec), max(wanted) + 1))
    return {place: frame for place, frame in decoded if place in wanted and not isinstance(frame, str)}
