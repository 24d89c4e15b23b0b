"""Moving segments of normal footage: which videos share a camera view, what moves there and how fast; cutting out and pasting."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.data.clips import group_by_camera
from trainer.data.footage import Footage

_FRAMES_PER_VIDEO = 40
_SAME_VIEW = 10.0  # mean difference of two medians, in grey levels: the same camera an hour later is below, another one above
_FOREGROUND = 14  # grey levels
_MIN_AREA, _MAX_AREA = 8e-4, 6e-2  # of the frame
_EDGE_PX = 2
_MARGIN_PX = 4
_BANDS = 12
_USUAL_QUANTILE = 0.9
_BAND_SEGMENTS = 15
_MIN_USUAL_PX = 0.1
_SLOWEST, _FASTEST = 0.4, 3.0  # limits of a row's usual speed, relative to the median over all rows

GrayImage = NDArray[np.float32]  # grey levels, float32 (h, w)
Flow = NDArray[np.float32]  # (h, w, 2): pixels right and down from a frame to an earlier one


class DisFlow:
    """DIS (Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016), OpenCV's preset MEDIUM.

    Presets that stop at a coarser scale miss half of people's motion: speeds of the preset FAST separate anomalies on UCSD Ped2
    with an AUC of 0.90, those of MEDIUM with 0.97.
    """

    def __init__(self) -> None:
        self._algorithm: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def flow(self, frame: NDArray[np.uint8], earlier: NDArray[np.uint8]) -> Flow:
        """From ``frame`` to ``earlier``, both uint8 (H, W); averaged to (H / 4, W / 4), still in pixels of the frame."""
        height, width = frame.shape
        flow = self._algorithm.calc(np.ascontiguousarray(frame), np.ascontiguousarray(earlier), None)
        return np.asarray(cv2.resize(flow, (width // 4, height // 4), interpolation=cv2.INTER_AREA), np.float32)


def resize_flow(flow: Flow, shape: tuple[int, ...]) -> Flow:
    """A flow interpolated to (H, W) = ``shape``; its values stay as they are."""
    return np.asarray(cv2.resize(flow, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR), np.float32)


@dataclass(frozen=True, slots=True)
class CameraView:
    """A fixed camera's view."""

    videos: tuple[NDArray[np.uint8], ...]  # each uint8 (n, H, W)
    background: NDArray[np.int16]  # median of each pixel, int16 (H, W)
    camera: str = ""  # a camera that was moved has several views

    @property
    def frames(self) -> int:
        """Number of frames of all videos."""
        return sum(map(len, self.videos))

    def foreground(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Where ``frame``, uint8 (H, W), differs from the background: uint8 (H, W), 0 or 1."""
        change = frame.astype(np.int16) - self.background
        change -= np.int16(np.median(change[::4, ::4]))  # changes of the whole image's brightness, such as a cloud
        blurred = cv2.GaussianBlur(np.abs(change).astype(np.uint8), (5, 5), 0)
        mask = (blurred > _FOREGROUND).astype(np.uint8)
        closed = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((7, 5), np.uint8))
        return np.asarray(cv2.morphologyEx(closed, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), np.uint8)


def camera_views(footage: Sequence[Footage]) -> list[CameraView]:
    """Group footage by view: a video joins the first view of its camera whose median image is similar to its own."""
    return [view for clips in group_by_camera(footage) for view in _views_of_camera(clips)]


def view_weights(views: Sequence[CameraView]) -> list[float]:
    """A weight for each view: all cameras weigh the same, and within a camera views weigh by their number of frames.

    They add up to the number of all frames.
    """
    of_camera = Counter[str]()
    for view in views:
        of_camera[view.camera] += view.frames
    mean = of_camera.total() / len(of_camera)
    return [view.frames * (mean / of_camera[view.camera]) for view in views]


def _views_of_camera(footage: Sequence[Footage]) -> list[CameraView]:
    groups: list[list[NDArray[np.uint8]]] = []
    images: list[NDArray[np.float32]] = []
    for video in footage:
        frames = video.frames[..., 0]
        image = _median_image(frames).astype(np.float32)
        similar = [number for number, other in enumerate(images) if np.abs(other - image).mean() < _SAME_VIEW]
        if similar:
            groups[similar[0]].append(frames)
        else:
            groups.append([frames])
            images.append(image)
    return [CameraView(tuple(group), _background(group), footage[0].camera) for group in groups]


def _median_image(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(np.median(_evenly_spaced(frames, _FRAMES_PER_VIDEO), axis=0))


def _background(videos: list[NDArray[np.uint8]]) -> NDArray[np.int16]:
    count = max(2, 3 * _FRAMES_PER_VIDEO // len(videos))
    median = np.median(np.concatenate([_evenly_spaced(video, count) for video in videos]), axis=0)
    return np.asarray(median, np.int16)


def _evenly_spaced(frames: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    return frames[np.linspace(0, len(frames) - 1, min(count, len(frames))).astype(np.int64)]


@dataclass(frozen=True, slots=True)
class Segment:
    """A moving object in one frame."""

    video: int  # index of the video in its view
    frame: int
    box: tuple[int, int, int, int]  # left, top, width and height in pixels
    mask: NDArray[np.uint8]  # 0 or 1, uint8 (height, width)
    velocity: NDArray[np.float32]  # right and down, in pixels per frame

    @property
    def feet_px(self) -> int:
        return self.box[1] + self.box[3]

    @property
    def speed(self) -> float:
        return float(np.hypot(*self.velocity))


class Cutout(NamedTuple):
    """Something cut out of a frame."""

    image: GrayImage
    alpha: GrayImage  # opacity, float32 (h, w) in [0, 1]


class PlacedCutout(NamedTuple):
    """A cut-out and the position of its top left corner in the frame, in pixels."""

    cutout: Cutout
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class SegmentedView:
    """A camera view and the segments found in it."""

    view: CameraView
    segments: tuple[Segment, ...]
    speed_line: tuple[float, float, float]
    """Slope and offset of the usual speed as a linear function of the row, and the usual speed over all rows."""

    @property
    def frame_px(self) -> tuple[int, int]:
        height, width = self.view.background.shape
        return height, width

    def usual_speed(self, row_px: float) -> float:
        """The 90 % quantile of the speeds of segments that stand on this row, in pixels per frame."""
        slope, offset, overall = self.speed_line
        return float(np.clip(slope * row_px + offset, _SLOWEST * overall, _FASTEST * overall))

    def cut(self, segment: Segment, earlier: int = 0) -> PlacedCutout | None:
        """Cut out the segment where it was so many frames earlier; None if it was not wholly inside the image."""
        left, top, width, height = segment.box
        x = round(left - segment.velocity[0] * earlier) - _MARGIN_PX
        y = round(top - segment.velocity[1] * earlier) - _MARGIN_PX
        rows, columns = slice(y, y + height + 2 * _MARGIN_PX), slice(x, x + width + 2 * _MARGIN_PX)
        if min(x, y) < 0 or rows.stop > self.frame_px[0] or columns.stop > self.frame_px[1] or segment.frame < earlier:
            return None
        frame = self.view.videos[segment.video][segment.frame - earlier]
        mask = np.pad(segment.mask, _MARGIN_PX)
        if earlier:  # the outline was another one then: take the foreground near the present one
            grown = np.asarray(cv2.dilate(mask, np.ones((7, 9), np.uint8)), np.uint8)
            mask = grown & self.view.foreground(frame)[rows, columns]
        return PlacedCutout(Cutout(frame[rows, columns].astype(np.float32), soft_alpha(mask)), x, y)


def segment_views(views: Sequence[CameraView], frames: int, teacher: DisFlow, advance: Callable[[], None]) -> list[SegmentedView]:
    """Find segments in about ``frames`` frames, evenly spaced, as many of each camera; calls ``advance`` for each."""
    total = sum(view.frames for view in views)
    segmented = []
    for view, weight in zip(views, view_weights(views), strict=True):
        share = frames / total * (weight / view.frames)
        segments = tuple(_segments(view, share, teacher, advance))
        segmented.append(SegmentedView(view, segments, _speed_line(segments, len(view.background))))
    return segmented


def find_view(views: Sequence[SegmentedView], video: NDArray[np.uint8]) -> tuple[SegmentedView | None, SegmentedView]:
    """The one of ``views`` that a video, uint8 (n, H, W), shows, or None; and a view of the video alone with its background."""
    image = _median_image(video)
    shown = next((part for part in views if np.abs(part.view.background - image).mean() < _SAME_VIEW), None)
    if shown is None:
        return None, SegmentedView(CameraView((video,), _background([video])), (), (0.0, 1.0, 1.0))
    return shown, replace(shown, view=CameraView((video,), shown.view.background), segments=())


def _segments(view: CameraView, share: float, teacher: DisFlow, advance: Callable[[], None]) -> Iterator[Segment]:
    for number, video in enumerate(view.videos):
        for frame in np.unique(np.linspace(1, len(video) - 1, max(1, round(share * len(video)))).astype(int)):
            if 0 < frame < len(video):
                flow = resize_flow(teacher.flow(video[frame], video[frame - 1]), video.shape[1:])
                for box, mask, velocity in _components(view.foreground(video[frame]), flow):
                    yield Segment(number, int(frame), box, mask, velocity)
            advance()


def _components(
    foreground: NDArray[np.uint8], flow: Flow
) -> Iterator[tuple[tuple[int, int, int, int], NDArray[np.uint8], NDArray[np.float32]]]:
    height, width = foreground.shape
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(foreground)
    for number, (left, top, wide, high, area) in enumerate(statistics[1:].tolist(), start=1):
        at_edge = min(left, top) < _EDGE_PX or left + wide > width - _EDGE_PX or top + high > height - _EDGE_PX
        if at_edge or not _MIN_AREA <= area / foreground.size <= _MAX_AREA:
            continue
        part = (slice(top, top + high), slice(left, left + wide))
        mask = (labels[part] == number).astype(np.uint8)
        yield (left, top, wide, high), mask, -flow[part][mask > 0].mean(axis=0)


def _speed_line(segments: Sequence[Segment], height_px: int) -> tuple[float, float, float]:
    if not segments:
        return 0.0, 1.0, 1.0
    rows, speeds = np.array([segment.feet_px for segment in segments]), np.array([segment.speed for segment in segments])
    overall = max(float(np.quantile(speeds, _USUAL_QUANTILE)), _MIN_USUAL_PX)
    bands = np.minimum(rows * _BANDS // (height_px + 1), _BANDS - 1)
    full = [bands == band for band in range(_BANDS) if (bands == band).sum() >= _BAND_SEGMENTS]
    if len(full) < 3:
        return 0.0, overall, overall
    quantiles = [np.quantile(speeds[band], _USUAL_QUANTILE) for band in full]
    slope, offset = np.polyfit([rows[band].mean() for band in full], quantiles, 1)
    return float(slope), float(offset), overall


def paste(frame: GrayImage, placed: PlacedCutout) -> None:
    """Blend a cut-out into ``frame``, in place; parts outside the frame are clipped."""
    left, top = int(np.floor(placed.x)), int(np.floor(placed.y))
    shift = np.array([[1, 0, placed.x - left], [0, 1, placed.y - top]], np.float32)
    height, width = placed.cutout.image.shape
    size = (width + 1, height + 1)
    image = np.asarray(cv2.warpAffine(placed.cutout.image, shift, size, borderMode=cv2.BORDER_REPLICATE), np.float32)
    _blend(frame, image, np.asarray(cv2.warpAffine(placed.cutout.alpha, shift, size), np.float32), left, top)


def paint_mask(mask: GrayImage, placed: PlacedCutout, value: float = 1.0) -> None:
    """Set ``mask`` to ``value`` where the cut-out is opaque, in place."""
    _blend(mask, np.float32(value), placed.cutout.alpha, round(placed.x), round(placed.y))


def soft_alpha(mask: NDArray[np.uint8]) -> GrayImage:
    """A mask of 0 and 1 as an opacity with soft edges."""
    grown = cv2.dilate(mask, np.ones((3, 3), np.uint8)).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(grown, (5, 5), 0), np.float32)


def _blend(target: GrayImage, value: GrayImage | np.float32, alpha: GrayImage, left: int, top: int) -> None:
    height, width = alpha.shape
    x0, y0, x1, y1 = max(0, left), max(0, top), min(target.shape[1], left + width), min(target.shape[0], top + height)
    if x1 <= x0 or y1 <= y0:
        return
    covered, source = (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    values = value[source] if isinstance(value, np.ndarray) else value
    target[covered] += (values - target[covered]) * alpha[source]
