"""Steady speed: a cyclist's speed is high and even, that of a walker's leg is high and jerky.

Velocity is averaged along the moving object: the averages are carried with the optical flow. Two channels are means over windows
of the foreground. *Steady*: the average speed minus half its spread, relative to the speed that is usual at that image row
(perspective). *Jerky*: the speed plus 1.5 times its spread, minus the limit of that place. The score is the larger of the two,
each in units of its own normal range.

Everything runs on a grid of half the frame's size; a *cell* is two pixels wide. Background, usual speeds and limits come from
training footage; the scores of a training clip use limits of the other clips only.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from deploy.spec import ClipSpec
from deploy.usual_maps import SpeedHistogram, SpeedLine
from trainer.data.footage import Source, decode_frames
from trainer.errors import NoFootage
from trainer.evaluation.baselines import ClipScorer, FittedBaseline, FramePair, HeatMap, pad_windows, window_means

MIN_CLIPS = 2
"""Training clips needed: the limits of one are estimated on the others."""

_BACKGROUND_FRAMES = 256
_MIN_NEWEST_WEIGHT = 0.2
_FIRST_VARIANCE = 0.3**2
_CELLS_PER_PIXEL = np.float32(0.5)
_WINDOW_CELLS = 6  # 12 pixels
_STEADY_SPREADS, _JERKY_SPREADS = 0.5, 1.5
_NOISE, _NOISE_RANGE = 6.0, 10.0  # grey levels: no foreground up to the first, surely foreground the second above it
_FOREGROUND = 0.5
_JERKY_HANDICAP = 0.5
_LIMIT_QUANTILE = 0.999
_BLOCK_CELLS = 4
_REACH_CELLS = 20


def median_background(sources: Iterable[Source], spec: ClipSpec, frames: int) -> NDArray[np.float32]:
    """Median of each pixel over about 256 evenly spaced ones of about ``frames`` frames, half size: float32 (H // 2, W // 2)."""
    readable = (frame for source in sources for frame in decode_frames(source, spec) if not isinstance(frame, str))
    chosen = [_half_size(frame[..., 0]) for frame in islice(readable, 0, None, max(1, frames // _BACKGROUND_FRAMES))]
    if not chosen:
        raise NoFootage("no frame of the training footage is readable; check the files")
    return np.median(np.stack(chosen), axis=0).astype(np.float32)


def _half_size(image: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Area-averaged from (H, W) or (H, W, C) to float32 (H // 2, W // 2) or (H // 2, W // 2, C)."""
    height, width = image.shape[:2]
    halved = cv2.resize(image.astype(np.float32), (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return np.asarray(halved, np.float32)


class MotionAverages(NamedTuple):
    """Exponential averages of what is now at each cell, over the path that it took."""

    velocity: NDArray[np.float32]
    """Mean velocity in cells per frame, float32 (h, w, 2), x first."""
    variance: NDArray[np.float32]
    """Variance of the velocity, summed over both directions: float32 (h, w)."""
    age: NDArray[np.float32]
    """Frames since it entered the image, float32 (h, w)."""


def first_averages(backward: NDArray[np.float32]) -> MotionAverages:
    """Averages of what is seen for the first time. ``backward``: flow to the previous frame, float32 (h, w, 2), in cells."""
    shape = backward.shape[:2]
    return MotionAverages(-backward, np.full(shape, _FIRST_VARIANCE, np.float32), np.ones(shape, np.float32))


def next_averages(last: MotionAverages, backward: NDArray[np.float32]) -> MotionAverages:
    """Carry ``last`` along the flow and add the newest velocity; what enters from outside the image starts anew."""
    height, width = backward.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    from_x, from_y = columns + backward[..., 0], rows + backward[..., 1]
    stacked = np.dstack([last.velocity, last.variance, last.age])
    carried = np.asarray(cv2.remap(stacked, from_x, from_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)
    velocity, age = carried[..., :2], carried[..., 3] + 1
    weight = np.maximum(np.float32(_MIN_NEWEST_WEIGHT), 1 / (age + 1))
    deviation = -backward - velocity
    variance = (1 - weight) * (carried[..., 2] + weight * np.square(deviation).sum(axis=-1))
    outside = (np.abs(from_x - (width - 1) / 2) > (width - 1) / 2) | (np.abs(from_y - (height - 1) / 2) > (height - 1) / 2)
    first = first_averages(backward)
    return MotionAverages(
        np.where(outside[..., None], first.velocity, velocity + weight[..., None] * deviation),
        np.where(outside, first.variance, variance),
        np.where(outside, first.age, age),
    )


class FrameSpeeds(NamedTuple):
    """Measurements of one frame: of each cell, float32 (h, w), and the two channels of each window, float32 (rows, columns)."""

    speed: NDArray[np.float32]
    """Averaged speed in cells per frame."""
    foreground: NDArray[np.float32]
    """Certainty that a cell is foreground, in [0, 1]."""
    steady: NDArray[np.float32]
    jerky: NDArray[np.float32]


class SpeedMeter:
    """Measures the frames of one clip, which must come in order."""

    def __init__(self, background: NDArray[np.float32]) -> None:
        self._background = background
        self._averages: MotionAverages | None = None

    def measure(self, pair: FramePair) -> FrameSpeeds:
        backward = _half_size(pair.flow) * _CELLS_PER_PIXEL
        self._averages = first_averages(backward) if self._averages is None else next_averages(self._averages, backward)
        velocity = self._averages.velocity
        speed: NDArray[np.float32] = np.hypot(velocity[..., 0], velocity[..., 1])
        spread: NDArray[np.float32] = np.sqrt(self._averages.variance)
        foreground = _foreground(_half_size(pair.current), self._background)
        return FrameSpeeds(
            speed,
            foreground,
            steady=window_means((speed - _STEADY_SPREADS * spread) * foreground, _WINDOW_CELLS),
            jerky=window_means((speed + _JERKY_SPREADS * spread) * foreground, _WINDOW_CELLS),
        )


def _foreground(frame: NDArray[np.float32], background: NDArray[np.float32]) -> NDArray[np.float32]:
    change = frame - background
    change -= np.median(change)  # a change of the light as a whole is no foreground
    certainty = np.clip((np.abs(change) - _NOISE) / _NOISE_RANGE, 0, 1)
    return np.asarray(cv2.dilate(certainty, np.ones((3, 3), np.uint8)), np.float32)


class NormalRange(NamedTuple):
    """Range of a channel's values in normal footage."""

    median: float
    spread: float
    """From the median to the 99 % quantile."""

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> "NormalRange":
        median, q99 = (float(value) for value in np.quantile(values, (0.5, 0.99)))
        return cls(median, max(q99 - median, 1e-6))

    def standardised(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """0 at the median, 1 at the 99 % quantile."""
        return (values - np.float32(self.median)) / np.float32(self.spread)


@dataclass(frozen=True, slots=True)
class SteadySpeed:
    """The baseline, with what was estimated on training footage."""

    name: ClassVar[str] = "steady_speed"

    background: NDArray[np.float32]
    speed_line: SpeedLine
    limits: NDArray[np.float32]
    """Limit of the jerky channel in each block of windows, float32 (rows, columns), in cells per frame."""
    steady: NormalRange
    jerky: NormalRange

    def start_clip(self) -> ClipScorer:
        meter = SpeedMeter(self.background)
        return lambda pair: self._heatmap(meter.measure(pair))

    def _heatmap(self, speeds: FrameSpeeds) -> HeatMap:
        steady = self.steady.standardised(speeds.steady / self.speed_line.row_speeds(speeds.steady.shape))
        limits = np.kron(self.limits, np.ones((_BLOCK_CELLS, _BLOCK_CELLS), np.float32))
        rows, columns = speeds.jerky.shape
        jerky = self.jerky.standardised(speeds.jerky - limits[:rows, :columns]) - _JERKY_HANDICAP
        return pad_windows(np.maximum(steady, jerky), self.background.shape)


class SteadySpeedFitter:
    """Fits :class:`SteadySpeed` on at least ``MIN_CLIPS`` clips; used like ``ScoreCollector``."""

    def __init__(self, background: NDArray[np.float32]) -> None:
        self._background = background
        self._speeds = SpeedHistogram(len(background))
        self._steady_rows: list[NDArray[np.float32]] = []
        self._jerky_blocks: list[list[NDArray[np.float32]]] = []

    def start_clip(self) -> Callable[[FramePair], None]:
        meter, blocks = SpeedMeter(self._background), list[NDArray[np.float32]]()
        self._jerky_blocks.append(blocks)

        def consume(pair: FramePair) -> None:
            speeds = meter.measure(pair)
            self._speeds.add(speeds.speed, speeds.foreground > _FOREGROUND)
            self._steady_rows.append(speeds.steady.max(axis=1))
            blocks.append(_block_maxima(speeds.jerky))

        return consume

    def fitted(self) -> FittedBaseline:
        line = self._speeds.fit_line()
        steady = (np.stack(self._steady_rows) / line.row_speeds(self._steady_rows[0].shape)[:, 0]).max(axis=1)
        clips = [np.stack(blocks) for blocks in self._jerky_blocks if blocks]
        excesses = [clip - _limits([*clips[:number], *clips[number + 1 :]]) for number, clip in enumerate(clips)]
        jerky = np.concatenate([excess.max(axis=(1, 2)) for excess in excesses])
        steady_range, jerky_range = NormalRange.of(steady), NormalRange.of(jerky)
        baseline = SteadySpeed(self._background, line, _limits(clips), steady_range, jerky_range)
        scores = np.maximum(steady_range.standardised(steady), jerky_range.standardised(jerky) - _JERKY_HANDICAP)
        return FittedBaseline(baseline, scores)


def _block_maxima(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest value of each block of 4 x 4 windows, small enough to keep for an hour of footage."""
    padded = np.pad(windows, [(0, -side % _BLOCK_CELLS) for side in windows.shape], mode="edge")
    rows, columns = (side // _BLOCK_CELLS for side in padded.shape)
    return np.asarray(padded.reshape(rows, _BLOCK_CELLS, columns, _BLOCK_CELLS).max(axis=(1, 3)), np.float32)


def _limits(clips: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The 99.9 % quantile of each block over all frames, then the largest among the blocks within 20 cells."""
    quantiles = np.quantile(np.concatenate(clips), _LIMIT_QUANTILE, axis=0).astype(np.float32)
    side = 2 * (_REACH_CELLS // _BLOCK_CELLS) + 1
    return np.asarray(cv2.dilate(quantiles, np.ones((side, side), np.uint8)), np.float32)
