"""Moving things in normal footage: where they are, how fast they go, and how to cut them out.

Which videos show the same place, and what that place looks like when nobody is there.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.data.dis_flow import DisFlow, Flow, resize_flow
from trainer.data.footage import Footage
from trainer.pseudo_anomalies.compositing import Cutout, PlacedCutout, soft_alpha

_FRAMES_A_VIDEO = 40
_SAME_PLACE = 10.0
"""Mean difference of two medians, in grey levels: the same camera an hour later stays below, another camera does not."""
_FOREGROUND = 14
"""Grey levels."""


@dataclass(frozen=True, slots=True)
class CameraView:
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


def camera_views(footage: Sequence[Footage]) -> list[CameraView]:
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
    return [CameraView(tuple(group), _background(group)) for group in groups]


def find_view(camera_views: Sequence[CameraView], video: NDArray[np.uint8]) -> CameraView | None:
    """The one of ``camera_views`` that a video, uint8 (n, H, W), shows; None where it shows another."""
    picture = np.median(_some(video, _FRAMES_A_VIDEO), axis=0)
    return next((place for place in camera_views if np.abs(place.background - picture).mean() < _SAME_PLACE), None)


def single_video_view(video: NDArray[np.uint8]) -> CameraView:
    """The place of a video, uint8 (n, H, W), that is known from nowhere else."""
    return CameraView((video,), _background([video]))


def _background(videos: list[NDArray[np.uint8]]) -> NDArray[np.int16]:
    share = max(2, 3 * _FRAMES_A_VIDEO // len(videos))
    median = np.median(np.concatenate([_some(video, share) for video in videos]), axis=0)
    return np.asarray(median, np.int16)


def _some(frames: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    return frames[np.linspace(0, len(frames) - 1, min(count, len(frames))).astype(np.int64)]


_LEAST_SHARE, _LARGEST_SHARE = 8e-4, 6e-2
"""Of the frame's area that a blob may cover."""
_EDGE_PX = 2
_MARGIN_PX = 4
_BANDS = 12
_USUAL_QUANTILE = 0.9
_BAND_BLOBS = 15
_LEAST_USUAL_PX = 0.1
_SLOWEST, _FASTEST = 0.4, 3.0
"""Limits of a row's usual speed, in units of the median over all rows."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One thing that moved, in one frame."""

    video: int
    """Of the place."""
    frame: int
    box: tuple[int, int, int, int]
    """Left, top, width and height in pixels."""
    mask: NDArray[np.uint8]
    """0 or 1, uint8 (height, width)."""
    velocity: NDArray[np.float32]
    """Right and down, in pixels a frame."""

    @property
    def feet_px(self) -> int:
        """The row it stands on."""
        return self.box[1] + self.box[3]

    @property
    def speed(self) -> float:
        """In pixels a frame."""
        return float(np.hypot(*self.velocity))


@dataclass(frozen=True, slots=True)
class SegmentedView:
    """All that was found to move in one place."""

    place: CameraView
    blobs: tuple[Segment, ...]
    usual: tuple[float, float, float]
    """Slope and level of a line of usual speeds over the rows, and the median over all rows."""

    @property
    def frame_px(self) -> tuple[int, int]:
        """Height and width of the frames."""
        height, width = self.place.background.shape
        return height, width

    def usual_speed(self, row_px: float) -> float:
        """The speed, in pixels a frame, that nine of ten blobs standing on that row stay below."""
        slope, level, median = self.usual
        return float(np.clip(slope * row_px + level, _SLOWEST * median, _FASTEST * median))

    def cut(self, blob: Segment, earlier: int = 0) -> PlacedCutout | None:
        """The blob as it was so many frames earlier on its way; None where it was not wholly in the picture."""
        left, top, width, height = blob.box
        x = round(left - blob.velocity[0] * earlier) - _MARGIN_PX
        y = round(top - blob.velocity[1] * earlier) - _MARGIN_PX
        rows, columns = slice(y, y + height + 2 * _MARGIN_PX), slice(x, x + width + 2 * _MARGIN_PX)
        if min(x, y) < 0 or rows.stop > self.frame_px[0] or columns.stop > self.frame_px[1] or blob.frame < earlier:
            return None
        frame = self.place.videos[blob.video][blob.frame - earlier]
        mask = np.pad(blob.mask, _MARGIN_PX)
        if earlier:  # its outline has changed since: what is foreground near the old one
            grown = np.asarray(cv2.dilate(mask, np.ones((7, 9), np.uint8)), np.uint8)
            mask = grown & self.place.foreground(frame)[rows, columns]
        return PlacedCutout(Cutout(frame[rows, columns].astype(np.float32), soft_alpha(mask)), x, y)


def segment_views(
    camera_views: Sequence[CameraView], frames: int, teacher: DisFlow, advance: Callable[[], None]
) -> list[SegmentedView]:
    """Look for moving things in about ``frames`` frames at even distances; ``advance`` is told of each."""
    total = sum(len(video) for place in camera_views for video in place.videos)
    crowds = []
    for place in camera_views:
        blobs = tuple(_blobs(place, frames / total, teacher, advance))
        crowds.append(SegmentedView(place, blobs, _usual(blobs, len(place.background))))
    return crowds


def _blobs(place: CameraView, share: float, teacher: DisFlow, advance: Callable[[], None]) -> Iterator[Segment]:
    for number, video in enumerate(place.videos):
        for frame in np.unique(np.linspace(1, len(video) - 1, max(1, round(share * len(video)))).astype(int)):
            if 0 < frame < len(video):
                flow = resize_flow(teacher.flow(video[frame], video[frame - 1]), video.shape[1:])
                for box, mask, velocity in _moving(place.foreground(video[frame]), flow):
                    yield Segment(number, int(frame), box, mask, velocity)
            advance()


def _moving(
    foreground: NDArray[np.uint8], flow: Flow
) -> Iterator[tuple[tuple[int, int, int, int], NDArray[np.uint8], NDArray[np.float32]]]:
    """Box, mask and velocity of every connected part of the foreground of a fitting size, wholly in the picture."""
    height, width = foreground.shape
    _, marks, figures, _ = cv2.connectedComponentsWithStats(foreground)
    for number, (left, top, wide, high, area) in enumerate(figures[1:].tolist(), start=1):
        at_edge = min(left, top) < _EDGE_PX or left + wide > width - _EDGE_PX or top + high > height - _EDGE_PX
        if at_edge or not _LEAST_SHARE <= area / foreground.size <= _LARGEST_SHARE:
            continue
        part = (slice(top, top + high), slice(left, left + wide))
        mask = (marks[part] == number).astype(np.uint8)
        yield (left, top, wide, high), mask, -flow[part][mask > 0].mean(axis=0)


def _usual(blobs: Sequence[Segment], height_px: int) -> tuple[float, float, float]:
    """A line through the 90 % quantile of the speeds in each band of rows; level where there are too few."""
    if not blobs:
        return 0.0, 1.0, 1.0
    rows, speeds = np.array([blob.feet_px for blob in blobs]), np.array([blob.speed for blob in blobs])
    median = max(float(np.quantile(speeds, _USUAL_QUANTILE)), _LEAST_USUAL_PX)
    bands = np.minimum(rows * _BANDS // (height_px + 1), _BANDS - 1)
    full = [bands == band for band in range(_BANDS) if (bands == band).sum() >= _BAND_BLOBS]
    if len(full) < 3:
        return 0.0, median, median
    quantiles = [np.quantile(speeds[band], _USUAL_QUANTILE) for band in full]
    slope, level = np.polyfit([rows[band].mean() for band in full], quantiles, 1)
    return float(slope), float(level), median
