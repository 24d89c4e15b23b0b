"""Which videos show the same place, and what that place looks like when nobody is there."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.footage import Footage

_FRAMES_A_VIDEO = 40
_SAME_PLACE = 10.0
"""Mean difference of two medians, in grey levels: the same camera an hour later stays below, another camera does not."""
_FOREGROUND = 14
"""Grey levels."""


@dataclass(frozen=True, slots=True)
class Place:
    """A fixed view."""

    videos: tuple[NDArray[np.uint8], ...]
    """Each uint8 (n, H, W)."""
    background: NDArray[np.int16]
    """Median of each pixel, int16 (H, W)."""

    def foreground(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Where ``frame``, uint8 (H, W), differs from the background: uint8 (H, W), 0 or 1."""
        change = frame.astype(np.int16) - self.background
        change -= np.int16(np.median(change[::4, ::4]))  # the sun goes behind a cloud
        smooth = cv2.GaussianBlur(np.abs(change).astype(np.uint8), (5, 5), 0)
        mask = (smooth > _FOREGROUND).astype(np.uint8)
        closed = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((7, 5), np.uint8))
        return np.asarray(cv2.morphologyEx(closed, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), np.uint8)


def places(footage: Sequence[Footage]) -> list[Place]:
    """The footage sorted by place: a video joins the first place whose picture its own resembles."""
    groups: list[list[NDArray[np.uint8]]] = []
    pictures: list[NDArray[np.float32]] = []
    for video in footage:
        frames = video.frames[..., 0]
        picture = np.median(_some(frames, _FRAMES_A_VIDEO), axis=0).astype(np.float32)
        near = [number for number, known in enumerate(pictures) if np.abs(known - picture).mean() < _SAME_PLACE]
        if near:
            groups[near[0]].append(frames)
        else:
            groups.append([frames])
            pictures.append(picture)
    return [Place(tuple(group), _background(group)) for group in groups]


def place_of(places: Sequence[Place], video: NDArray[np.uint8]) -> Place | None:
    """The one of ``places`` that a video, uint8 (n, H, W), shows; None where it shows another."""
    picture = np.median(_some(video, _FRAMES_A_VIDEO), axis=0)
    return next((place for place in places if np.abs(place.background - picture).mean() < _SAME_PLACE), None)


def place_alone(video: NDArray[np.uint8]) -> Place:
    """The place of a video, uint8 (n, H, W), that is known from nowhere else."""
    return Place((video,), _background([video]))


def _background(videos: list[NDArray[np.uint8]]) -> NDArray[np.int16]:
    share = max(2, 3 * _FRAMES_A_VIDEO // len(videos))
    median = np.median(np.concatenate([_some(video, share) for video in videos]), axis=0)
    return np.asarray(median, np.int16)


def _some(frames: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    return frames[np.linspace(0, len(frames) - 1, min(count, len(frames))).astype(np.int64)]
