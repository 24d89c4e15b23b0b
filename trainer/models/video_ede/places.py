"""What ordinary footage shows of a camera's places: their background, and how long things usually stay there."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy.dwell import Background, Map, dwell_step, foreground, learn_background, update_dwell
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
    dwells: tuple[NDArray[np.uint8], ...]
    """Of all frames, means over windows, in chunks of (n, a, b): 0 to 255."""

    def unusual_dwells(self) -> Map:
        """The largest dwell of each frame beyond what is usual at its place, (N,)."""
        usual = self.maps.dwell()[::PLACE_CELLS, ::PLACE_CELLS]
        return np.concatenate([(_in_full(dwells) - usual).max(axis=(1, 2)) for dwells in self.dwells])


def learn_places(footage: PlaceFootage, grid: Grid) -> UsualPlaces:
    """Background, usual dwells and all dwells of a camera's footage. ``footage`` has a frame at least."""
    frames = sum(len(stretch) for stretch in footage.stretches)
    chosen = np.unique(np.linspace(0, frames - 1, min(frames, _BACKGROUND_FRAMES)).astype(int))
    background = learn_background(np.concatenate(footage.stretches)[chosen].astype(np.float32))
    step, maps = dwell_step(footage.fps), UsualMaps(grid.shape)
    chunks = [chunk for stretch in footage.stretches for chunk in _dwells(stretch, background, step, grid.window)]
    for chunk in chunks:
        maps.add_dwells(_in_full(chunk))
    return UsualPlaces(background, step, maps, tuple(chunks))


def _dwells(stretch: NDArray[np.uint8], background: Background, step: float, window: int) -> Iterator[NDArray[np.uint8]]:
    dwell = np.zeros(stretch.shape[1:], np.float32)
    for first in range(0, len(stretch), _CHUNK_FRAMES):
        shown = foreground(stretch[first : first + _CHUNK_FRAMES].astype(np.float32), background)
        for number, frame in enumerate(shown):
            shown[number] = dwell = update_dwell(dwell, frame, step)
        yield np.round(window_means(shown, window) * _LEVELS).astype(np.uint8)


def _in_full(dwells: NDArray[np.uint8]) -> Map:
    return np.asarray(dwells / _LEVELS, np.float32)
