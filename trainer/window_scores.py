"""Scores windows of one camera's footage with a profile, without the blocks that the profile was learned from."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from deploy.calibration import ScoredFrames, scored_at_rate
from deploy.console import counting_bar
from deploy.dwell import Lights
from deploy.engine import Engine, Scores, State
from deploy.profile import ProfileValues
from deploy.profile_learning import CHANNELS, Maxima, Normal
from deploy.score_maps import Grid, dwell_of, picture_of, state_maps
from trainer.data.footage import Block, Source, decode_frames, print_problems, spread

_MOST_PART_WINDOWS = 6  # of long footage: how far the parts of the score reach need not be known better

_Row = NDArray[np.float32]
"""Of the frames of a window in the order of time, (frames, K + 1): K measures and the light; NaN for a frame without a score."""

_Measure = Callable[[Scores, State, Lights], NDArray[np.float32]]
"""Result, next state and light of one frame to what is kept of it, (K,)."""


class WindowMaxima(NamedTuple):
    """What was measured of the frames of some windows, joined; NaN for one without a score, or that was learned from."""

    maxima: Maxima
    ends: Sequence[int]
    """Where windows meet."""
    fps: float

    def split(self, values: NDArray[np.float32]) -> list[ScoredFrames]:
        """Values of all frames, (N,), divided into the windows."""
        return [scored_at_rate(part, self.fps) for part in np.split(values, self.ends)]


class WindowScorer:
    """Scores windows of a camera's footage with an engine, again with other values of its profile."""

    def __init__(
        self,
        engine: Engine,
        grid: Grid,
        sources: Sequence[Source],
        windows: Sequence[Block],
        learned: Sequence[Block],
        fps: float,
        screen: Console,
    ) -> None:
        """``learned``: the blocks that the profile was learned from."""
        self._engine, self._grid, self._sources, self._windows = engine, grid, sources, windows
        self._learned, self._fps, self._screen = learned, fps, screen

    def scores(self, values: ProfileValues) -> WindowMaxima:
        """The score of each frame, K = 1."""
        return self._measured("thresholds", self._windows, values, 1, lambda scores, *_: scores.score)

    def part_maxima(self, values: ProfileValues) -> WindowMaxima:
        """The largest speed, anomaly and dwell of each frame of some windows in units of their normal ranges, K = 3."""
        normal = Normal.from_values(values, self._grid.shape)

        def maxima(_: Scores, state: State, light: Lights) -> NDArray[np.float32]:
            maps = state_maps(state, dwell_of(state), light, self._grid)
            # Averages of less than their full time are not normal.
            observed = maps.observed[0, 0, 0] >= 1.0
            return normal.scaled_maxima(maps).values[:, 0] if observed else np.full(len(CHANNELS), np.nan, np.float32)

        windows = spread(self._windows, _MOST_PART_WINDOWS)
        return self._measured("parts of the score", windows, values, len(CHANNELS), maxima)

    def _measured(
        self, title: str, windows: Sequence[Block], values: ProfileValues, size: int, measure: _Measure
    ) -> WindowMaxima:
        rows = {window: np.full((window.last - window.first, size + 1), np.nan, np.float32) for window in windows}
        with counting_bar(self._screen, title, sum(map(len, rows.values()))) as advance:
            for clip, source in enumerate(self._sources):
                own = {window: row for window, row in rows.items() if window.clip == clip}
                self._measure_clip(source, own, values, measure, advance)
        for window, row in rows.items():
            for block in self._learned:
                if block.clip == window.clip:
                    row[max(0, block.first - window.first) : max(0, block.last - window.first)] = np.nan
        *columns, lights = np.concatenate(list(rows.values())).T
        ends = np.cumsum([len(row) for row in rows.values()])[:-1].tolist()
        return WindowMaxima(Maxima(np.stack(columns), np.nan_to_num(lights).astype(np.intp)), ends, self._fps)

    def _measure_clip(
        self, source: Source, rows: dict[Block, _Row], values: ProfileValues, measure: _Measure, advance: Callable[[int], None]
    ) -> None:
        """Fill the rows of a clip's windows. Each frame is scored as it is decoded: none is kept in memory."""
        spec, end = self._engine.spec, max((window.last for window in rows), default=0)
        normal = Normal.from_values(values, self._grid.shape)
        state, problems = None, []
        for number, outcome in enumerate(islice(decode_frames(source, spec), end)):
            window = next((each for each in rows if each.first - spec.warmup_frames <= number < each.last), None)
            if isinstance(outcome, str):
                problems.append(outcome)
            elif window is not None:
                scores = self._engine.score(outcome[None, None], state, values[None])
                state = scores.state
                if number >= window.first and state is not None:
                    light = normal.lights_of(picture_of(state))
                    rows[window][number - window.first] = [*measure(scores, state, light), light[0]]
            advance(window is not None and number >= window.first)
        print_problems(self._screen, source.name, problems, end)
