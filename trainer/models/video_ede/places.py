"""What ordinary footage shows of a camera's places: their background, and how long things usually stay there."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.dwell import Background, Lights, Map, dwell_step, foreground, learn_background, lights_of, update_dwell
from deploy.profile_learning import Maxima
from deploy.score_maps import PLACE_CELLS, Grid, window_means
from deploy.usual_maps import UsualMaps
from trainer.data.footage import PlaceFootage

_BACKGROUND_FRAMES = 240
_CHUNK_FRAMES = 256
_LEVELS = 255  # of a dwell that is kept


@dataclass(frozen=True, slots=True)
class UsualPlaces:
    """Background and dwells of a camera's places."""

    background: Background
    dwell_step: float
    maps: UsualMaps
    """With the dwells counted, and nothing else yet."""
    chunks: tuple["Dwells", ...]
    """Of all frames."""

    def unusual_dwells(self) -> Maxima:
        """The largest dwell of each frame beyond what is usual at its place, (1, N)."""
        usual = self.maps.dwell()[::PLACE_CELLS, ::PLACE_CELLS]
        return Maxima.joined(Maxima((each.in_full() - usual).max(axis=(1, 2))[None], each.lights) for each in self.chunks)


class Dwells(NamedTuple):
    """Dwells of consecutive frames, and the light of each."""

    means: NDArray[np.uint8]
    """Over windows, (n, a, b): 0 to 255."""
    lights: Lights

    def in_full(self) -> Map:
        return np.asarray(self.means / _LEVELS, np.float32)


def learn_places(footage: PlaceFootage, grid: Grid) -> UsualPlaces:
    """Background, usual dwells and all dwells of a camera's footage. ``footage`` has a frame at least."""
    frames = sum(len(stretch) for stretch in footage.stretches)
    chosen = np.unique(np.linspace(0, frames - 1, min(frames, _BACKGROUND_FRAMES)).astype(int))
    background = learn_background(np.concatenate(footage.stretches)[chosen].astype(np.float32), frames / footage.fps)
    step, maps = dwell_step(footage.fps), UsualMaps(grid.shape)
    chunks = [chunk for stretch in footage.stretches for chunk in _dwells(stretch, background, step, grid.window)]
    for chunk in chunks:
        maps.add_dwells(chunk.in_full())
    return UsualPlaces(background, step, maps, tuple(chunks))


def _dwells(stretch: NDArray[np.uint8], background: Background, step: float, window: int) -> Iterator[Dwells]:
    dwell = np.zeros(stretch.shape[1:], np.float32)
    for first in range(0, len(stretch), _CHUNK_FRAMES):
        pictures = stretch[first : first + _CHUNK_FRAMES].astype(np.float32)
        shown = foreground(pictures, background)
        for number, frame in enumerate(shown):
            shown[number] = dwell = update_dwell(dwell, frame, step)
        means = np.round(window_means(shown, window) * _LEVELS).astype(np.uint8)
        yield Dwells(means, lights_of(pictures, background))
