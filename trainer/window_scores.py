"""Scores windows of one camera's footage with a profile, without the blocks that the profile was learned from."""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from deploy.console import counting_bar
from deploy.engine import Engine, Scores, State
from deploy.image import Frame
from deploy.profile import ProfileValues
from deploy.profile_learning import CHANNELS, Normal
from deploy.score_maps import Grid, dwell_of, state_maps
from trainer.data.footage import Block, Source, decode_frames, print_problems, spread

_MOST_PART_WINDOWS = 6  # of long footage: how far the parts of the score reach need not be known better

Row = NDArray[np.float32]
"""Of the frames of a window in the order of time, (frames, K); NaN for one without a score, or that was learned from."""

_Measure = Callable[[Scores, State], NDArray[np.float32]]
"""Result and next state of one frame to what is kept of it, (K,)."""


class WindowScorer:
    """Scores windows with an engine, again with other values of a profile."""

    def __init__(
        self, engine: Engine, sources: Sequence[Source], windows: Sequence[Block], learned: Sequence[Block], screen: Console
    ) -> None:
        """``learned``: the blocks that the profile was learned from."""
        self._engine, self._sources, self._windows, self._learned, self._screen = engine, sources, windows, learned, screen

    def scores(self, values: ProfileValues) -> list[NDArray[np.float32]]:
        """The scores of each window, (frames,)."""
        rows = self._rows("thresholds", self._windows, values, 1, lambda scores, _: scores.score)
        return [row[:, 0] for row in rows]

    def part_maxima(self, values: ProfileValues, grid: Grid) -> list[Row]:
        """The largest speed, anomaly and dwell of each frame in units of their normal ranges, (frames, 3), of some windows."""
        normal = Normal.from_values(values, grid.shape)

        def maxima(_: Scores, state: State) -> NDArray[np.float32]:
            maps = state_maps(state, dwell_of(state), grid)
            # Averages of less than their full time are not normal.
            return normal.scaled_maxima(maps)[:, 0] if maps.observed[0, 0, 0] >= 1.0 else np.full(len(CHANNELS), np.nan)

        return self._rows("parts of the score", spread(self._windows, _MOST_PART_WINDOWS), values, len(CHANNELS), maxima)

    def _rows(self, title: str, windows: Sequence[Block], values: ProfileValues, size: int, measure: _Measure) -> list[Row]:
        rows = {window: np.full((window.last - window.first, size), np.nan, np.float32) for window in windows}
        with counting_bar(self._screen, title, sum(map(len, rows.values()))) as advance:
            for clip, source in enumerate(self._sources):
                own = {window: row for window, row in rows.items() if window.clip == clip}
                self._measure_clip(source, own, values, measure, advance)
        for window, row in rows.items():
            for block in self._learned:
                if block.clip == window.clip:
                    row[max(0, block.first - window.first) : max(0, block.last - window.first)] = np.nan
        return list(rows.values())

    def _measure_clip(
        self, source: Source, rows: dict[Block, Row], values: ProfileValues, measure: _Measure, advance: Callable[[int], None]
    ) -> None:
        """Fill the rows of a clip's windows. Each frame is scored as it is decoded: none is kept in memory."""
        spec, end = self._engine.spec, max((window.last for window in rows), default=0)
        frames: deque[Frame] = deque(maxlen=spec.length)
        state, problems = np.zeros((1, *(spec.state_shape or ())), np.float32), []
        for number, outcome in enumerate(islice(decode_frames(source, spec), end)):
            window = next((each for each in rows if each.first - spec.warmup_frames <= number < each.last), None)
            if isinstance(outcome, str):
                problems.append(outcome)
            elif window is not None:
                frames.append(outcome)
                if len(frames) == spec.length:
                    scores = self._engine.score(np.stack(frames)[None], state, values[None])
                    state = state if scores.state is None else scores.state
                    if number >= window.first:
                        rows[window][number - window.first] = measure(scores, state)
            advance(window is not None and number >= window.first)
        print_problems(self._screen, source.name, problems, end)
