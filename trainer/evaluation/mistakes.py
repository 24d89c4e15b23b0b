"""The worst mistakes at the threshold, and their pictures: the frame under the heat map, with the outline of the true anomaly."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray

from deploy.calibration import Thresholds
from deploy.engine import Engine
from deploy.image import Frame
from deploy.spec import ClipSpec
from trainer.data.footage import Source, decode_frames, footage_info, load_footage
from trainer.data.labels import LabelledClip
from trainer.evaluation.baselines import HeatMap
from trainer.evaluation.metrics import Labels, Scores
from trainer.evaluation.runner import scored_frames

Image = NDArray[np.uint8]
"""BGR, uint8 (H, W, 3)."""

MAX_GAP_S = 1.0
"""Wrong frames at most this far apart form one stretch, as the decision rule bridges dips of that length."""

_SIDE_LIMITS_PX = (16, 2048)
_FULL_HEIGHT = 2.0  # of a heat map value, in units of the threshold's distance from the median: drawn in the strongest colour
_OPACITY = 0.6
_REDDEST = 218  # of the 256 colours of Turbo, which darken again after it
_WHITE, _CYAN = (255, 255, 255), (255, 255, 0)


@dataclass(frozen=True, slots=True)
class Mistake:
    """The worst frame of a stretch of wrong frames, or of a clip that has none."""

    clip: str
    frame: int
    """Number of the frame in its clip, counted from 0."""
    score: float
    first_frame: int
    last_frame: int
    """End of the stretch, included. A frame that is not wrong is its own stretch."""
    wrong: bool
    """Whether the score lies on the wrong side of the threshold."""


def worst_misses(scores: Scores, labels: Labels, threshold: float, fps: float) -> list[Mistake]:
    """The lowest-scoring anomalous frame of every stretch below ``threshold``, lowest first.

    Frames without a score are ignored. A clip without a miss is represented by its lowest anomalous frame, ``wrong`` False.
    """
    return _worst_frames(scores, labels, threshold, fps, label=1)


def worst_false_alarms(scores: Scores, labels: Labels, threshold: float, fps: float) -> list[Mistake]:
    """The highest-scoring normal frame of every stretch at or above ``threshold``, highest first; otherwise as above."""
    return _worst_frames(scores, labels, threshold, fps, label=0)


def _worst_frames(scores: Scores, labels: Labels, threshold: float, fps: float, *, label: int) -> list[Mistake]:
    sign = -1 if label else 1  # low scores of anomalous frames are worse, and high ones of normal frames
    mistakes: list[Mistake] = []
    for name, row in scores.items():
        frames = np.flatnonzero((labels[name] == label) & np.isfinite(row))
        wrong = frames[(row[frames] < threshold) == bool(label)]
        starts = np.flatnonzero(np.diff(wrong, prepend=-np.inf) > round(MAX_GAP_S * fps))
        for stretch in np.split(wrong, starts)[1:]:  # what lies before the first start is empty
            worst = int(stretch[(sign * row[stretch]).argmax()])
            mistakes.append(Mistake(name, worst, float(row[worst]), int(stretch[0]), int(stretch[-1]), wrong=True))
        if len(frames) and not len(wrong):
            worst = int(frames[(sign * row[frames]).argmax()])
            mistakes.append(Mistake(name, worst, float(row[worst]), worst, worst, wrong=False))
    return sorted(mistakes, key=lambda mistake: -sign * mistake.score)


def mistake_images(engine: Engine, clips: Sequence[LabelledClip], mistakes: Sequence[Mistake], limits: Thresholds) -> list[Image]:
    """One image per mistake. Their clips are scored again, because the heat maps of all frames would not fit in memory."""
    images = {
        (clip.source.name, frame): image
        for clip in clips
        for frame, image in _clip_images(engine, clip, {m.frame for m in mistakes if m.clip == clip.source.name}, limits)
    }
    return [images[mistake.clip, mistake.frame] for mistake in mistakes]


def _clip_images(engine: Engine, clip: LabelledClip, numbers: set[int], limits: Thresholds) -> Iterator[tuple[int, Image]]:
    if not numbers:
        return
    frames = _colour_frames(clip.source, numbers)
    for number, _, heatmap in scored_frames(engine, load_footage(clip.source, engine.spec)):
        if number in numbers:
            image = tinted(frames[number], heatmap, limits)
            yield number, image if clip.masks is None else outlined(image, clip.masks[number])
        if number >= max(numbers):
            return


def _colour_frames(source: Source, numbers: set[int]) -> dict[int, NDArray[np.uint8]]:
    """The readable ones of these frames in their own colour and size, scaled down to at most 2048 pixels a side."""
    info = footage_info([source])
    scale = min(1.0, _SIDE_LIMITS_PX[1] / max(info.width_px, info.height_px))
    width_px, height_px = (max(_SIDE_LIMITS_PX[0], round(side * scale)) for side in (info.width_px, info.height_px))
    spec = ClipSpec(length=1, height_px=height_px, width_px=width_px, colour="bgr", fps=info.fps)
    decoded = enumerate(islice(decode_frames(source, spec), max(numbers) + 1))
    return {number: frame for number, frame in decoded if number in numbers and not isinstance(frame, str)}


def overlay(frame: Frame, heatmap: HeatMap, limits: Thresholds) -> Image:
    """:func:`tinted`, with a white line around the values above four fifths of the map's range, so that its peak always shows.

    Frames whose short side is far below 360 pixels are enlarged by a whole factor.
    """
    factor = max(1, round(360 / min(frame.shape[:2])))
    size = (frame.shape[1] * factor, frame.shape[0] * factor)
    enlarged = np.asarray(cv2.resize(_bgr(frame), size, interpolation=cv2.INTER_LINEAR), np.uint8)
    lowest, highest = float(heatmap.min()), float(heatmap.max())
    peak = heatmap >= lowest + 0.8 * (highest - lowest)
    return _with_contours(tinted(enlarged, heatmap, limits), peak, cv2.CHAIN_APPROX_SIMPLE, _WHITE)


def tinted(frame: Frame, heatmap: HeatMap, limits: Thresholds) -> Image:
    """``frame``, uint8 (H, W, 1 or 3), under the colours of ``heatmap``, float32 (h, w) in score units.

    Opacity grows with the value: none up to the median of normal scores, half at the threshold, full at twice the threshold's
    distance from the median. A value has the same colour in every image.
    """
    size = (frame.shape[1], frame.shape[0])
    height = (heatmap - limits.median) / (limits.enter - limits.median)
    strength = np.clip(height / _FULL_HEIGHT, 0.0, 1.0).astype(np.float32)
    strength = np.asarray(cv2.resize(strength, size, interpolation=cv2.INTER_LINEAR), np.float32)
    colours = cv2.applyColorMap((strength * _REDDEST).astype(np.uint8), cv2.COLORMAP_TURBO).astype(np.float32)
    opacity = _OPACITY * strength[..., None]
    return np.asarray(_bgr(frame) * (1 - opacity) + colours * opacity, np.uint8)


def outlined(image: Image, mask: NDArray[np.bool_]) -> Image:
    """``image`` with the outline of ``mask``, bool (H, W) of any size, in cyan."""
    return _with_contours(image.copy(), mask, cv2.CHAIN_APPROX_NONE, _CYAN)


def colour_scale(limits: Thresholds) -> Image:
    """The colours of :func:`tinted` on grey, from the median at the left to twice the threshold's distance from it."""
    top = limits.median + _FULL_HEIGHT * (limits.enter - limits.median)
    ramp = np.linspace(limits.median, top, 320, dtype=np.float32)
    return tinted(np.full((18, 320, 1), 110, np.uint8), ramp[None], limits)


def _with_contours(image: Image, mask: NDArray[np.bool_], approximation: int, colour: tuple[int, int, int]) -> Image:
    size = image.shape[1], image.shape[0]
    resized = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(resized, cv2.RETR_EXTERNAL, approximation)
    return np.asarray(cv2.drawContours(image, contours, -1, colour, 1), np.uint8)


def _bgr(frame: Frame) -> Image:
    return np.repeat(frame, 3, axis=2) if frame.shape[2] == 1 else frame
