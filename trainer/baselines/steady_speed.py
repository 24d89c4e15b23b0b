"""Speed that keeps: a cyclist's is high and even, a leg's is high and jerky.

Two channels, both means of windows over the foreground of the half-size grid. *Steady*: the speed averaged along the moving
object less half its spread, in units of the speed that is usual at that row (perspective). *Jerky*: the speed plus 1.5 times
its spread, less the limit of that place. The score is the larger of the two, each in units of its own normal tail.

Cells are places of the half-size grid: a cell is two pixels wide. Everything estimated comes from training footage: the
background and the line of usual speeds from all of it; for the scores of a training clip itself, the places' limits are
estimated on the other clips.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.baselines.base import HeatMap, Learned, Motion, Watch
from trainer.baselines.flow import Averages, first_averages, half_size, next_averages, over_frame, window_means
from trainer.statistics import SpeedHistogram, SpeedLine

MIN_CLIPS = 2
"""Training clips: the limits of one are estimated on the others."""

_CELLS_A_PIXEL = np.float32(0.5)
_WINDOW_CELLS = 6  # 12 pixels
_SPREADS_OFF, _SPREADS_ON = 0.5, 1.5
_DARKEST_NOISE, _NOISE_RANGE = 6.0, 10.0  # grey levels
_FOREGROUND = 0.5
_JERKY_HANDICAP = 0.5
_LIMIT_QUANTILE = 0.999
_BLOCK_CELLS = 4
_REACH_CELLS = 20


@dataclass(frozen=True, slots=True)
class Channels:
    """What is measured in one frame."""

    steady: NDArray[np.float32]
    """Of each window, float32 (rows, columns), in cells a frame."""
    jerky: NDArray[np.float32]
    """The same."""


@dataclass(frozen=True, slots=True)
class NormalRange:
    """Where a channel's normal values lie."""

    median: float
    spread: float
    """From the median to the 99 % quantile."""

    def standard(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """0 at the median, 1 at the 99 % quantile."""
        return (values - np.float32(self.median)) / np.float32(self.spread)


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What was estimated on training footage."""

    background: NDArray[np.float32]
    line: SpeedLine
    limits: NDArray[np.float32]
    """Of each block of windows, float32 (rows, columns), in cells a frame."""
    steady: NormalRange
    jerky: NormalRange


class SteadySpeed:
    """Speed averaged along the moving object, less its spread."""

    name = "steady_speed"

    def __init__(self, knowledge: Knowledge) -> None:
        self.knowledge = knowledge

    def watch(self) -> Watch:
        """See :class:`~trainer.baselines.base.Baseline`."""
        measure = Measure(self.knowledge.background)
        return lambda motion: _heatmap(self.knowledge, measure.see(motion).channels)


@dataclass(frozen=True, slots=True)
class Measured:
    """One frame, measured."""

    speed: NDArray[np.float32]
    """Float32 (h, w), in cells a frame."""
    foreground: NDArray[np.float32]
    """How surely each cell is foreground, float32 (h, w) in [0, 1]."""
    channels: Channels


class Measure:
    """Measures the frames of one clip, in order."""

    def __init__(self, background: NDArray[np.float32]) -> None:
        self._background = background
        self._averages: Averages | None = None

    def see(self, motion: Motion) -> Measured:
        """Measure the next frame."""
        backward = half_size(motion.flow) * _CELLS_A_PIXEL
        self._averages = first_averages(backward) if self._averages is None else next_averages(self._averages, backward)
        speed, spread = self._averages.speed, self._averages.spread
        foreground = _foreground(half_size(motion.now), self._background)
        return Measured(
            speed,
            foreground,
            Channels(
                steady=window_means((speed - _SPREADS_OFF * spread) * foreground, _WINDOW_CELLS),
                jerky=window_means((speed + _SPREADS_ON * spread) * foreground, _WINDOW_CELLS),
            ),
        )


class SteadySpeedLearner:
    """Learner of :class:`SteadySpeed`; see :class:`~trainer.baselines.base.Learner`. Wants ``MIN_CLIPS`` clips."""

    def __init__(self, background: NDArray[np.float32]) -> None:
        self._background = background
        self._speeds = SpeedHistogram(len(background))
        self._fastest_rows: list[NDArray[np.float32]] = []
        self._blocks: list[list[NDArray[np.float32]]] = []

    def clip(self) -> Callable[[Motion], None]:
        """See :class:`~trainer.baselines.base.Learner`."""
        measure, blocks = Measure(self._background), list[NDArray[np.float32]]()
        self._blocks.append(blocks)

        def see(motion: Motion) -> None:
            measured = measure.see(motion)
            self._speeds.add(measured.speed, measured.foreground > _FOREGROUND)
            self._fastest_rows.append(measured.channels.steady.max(axis=1))
            blocks.append(_block_maxima(measured.channels.jerky))

        return see

    def learned(self) -> Learned:
        """See :class:`~trainer.baselines.base.Learner`."""
        line = self._speeds.fit_line()
        steady = (np.stack(self._fastest_rows) / line.row_speeds(self._fastest_rows[0].shape)[:, 0]).max(axis=1)
        clips = [np.stack(blocks) for blocks in self._blocks if blocks]
        jerky = np.concatenate([_excess(clip, _limits(_others(clips, number))) for number, clip in enumerate(clips)])
        steady_range, jerky_range = _normal_range(steady), _normal_range(jerky)
        knowledge = Knowledge(self._background, line, _limits(clips), steady_range, jerky_range)
        scores = np.maximum(steady_range.standard(steady), jerky_range.standard(jerky) - _JERKY_HANDICAP)
        return Learned(SteadySpeed(knowledge), scores)


def _heatmap(known: Knowledge, channels: Channels) -> HeatMap:
    steady = known.steady.standard(channels.steady / known.line.row_speeds(channels.steady.shape))
    limits = np.kron(known.limits, np.ones((_BLOCK_CELLS, _BLOCK_CELLS), np.float32))
    rows, columns = channels.jerky.shape
    jerky = known.jerky.standard(channels.jerky - limits[:rows, :columns]) - _JERKY_HANDICAP
    return over_frame(np.maximum(steady, jerky), known.background.shape)


def _foreground(frame: NDArray[np.float32], background: NDArray[np.float32]) -> NDArray[np.float32]:
    change = frame - background
    change -= np.median(change)  # the sun goes behind a cloud
    sure = np.clip((np.abs(change) - _DARKEST_NOISE) / _NOISE_RANGE, 0, 1)
    return np.asarray(cv2.dilate(sure, np.ones((3, 3), np.uint8)), np.float32)


def _block_maxima(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest value of each block of 4 x 4 windows: of an hour of footage these can be kept."""
    missing = [(0, -side % _BLOCK_CELLS) for side in windows.shape]
    padded = np.pad(windows, missing, mode="edge")
    rows, columns = (side // _BLOCK_CELLS for side in padded.shape)
    return np.asarray(padded.reshape(rows, _BLOCK_CELLS, columns, _BLOCK_CELLS).max(axis=(1, 3)), np.float32)


def _limits(clips: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The 99.9 % quantile of each block, and of all blocks within 20 cells of it the largest."""
    quantiles = np.quantile(np.concatenate(clips), _LIMIT_QUANTILE, axis=0).astype(np.float32)
    side = 2 * (_REACH_CELLS // _BLOCK_CELLS) + 1
    return np.asarray(cv2.dilate(quantiles, np.ones((side, side), np.uint8)), np.float32)


def _excess(blocks: NDArray[np.float32], limits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((blocks - limits).max(axis=(1, 2)), np.float32)


def _others(clips: list[NDArray[np.float32]], number: int) -> list[NDArray[np.float32]]:
    return [clip for other, clip in enumerate(clips) if other != number]


def _normal_range(values: NDArray[np.float32]) -> NormalRange:
    median, q99 = (float(value) for value in np.quantile(values, (0.5, 0.99)))
    return NormalRange(median, max(q99 - median, 1e-6))
