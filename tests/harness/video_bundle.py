"""A bundle of the video model's kind with a tiny grid, whose cameras can be learned live."""

from dataclasses import replace

import numpy as np

from deploy.dwell import DWELL_UNIT, REFERENCES, Map, empty_background
from deploy.profile_learning import Normal, normal_size
from deploy.score_maps import PLACE_CELLS, Grid, place_grid, to_cells
from deploy.spec import ClipSpec
from tests.harness.pipeline import BUNDLE

GRID = Grid((4, 6), 1, 0.25, 1e-3)
SPEC = ClipSpec(
    length=1, height_px=16, width_px=24, state_shape=(8, 4, 6), state_warmup_frames=24, profile_size=normal_size(GRID.shape)
)
ZEROS = np.zeros(GRID.shape, np.float32)
UNIT = Normal(ZEROS, ZEROS, np.ones((4, 1), np.float32), empty_background(place_grid(GRID.shape)), 0.05).values()
CONFIG = {**{name: value for name, value in GRID._asdict().items() if name != "shape"}, "lights": REFERENCES}
VIDEO = replace(
    BUNDLE,
    manifest=BUNDLE.manifest.model_copy(
        update={"spec": SPEC, "model": BUNDLE.manifest.model.model_copy(update={"kind": "video-ede", "config": CONFIG})}
    ),
    default_profile=UNIT,
)


def with_dwell(state: Map, dwell: Map) -> Map:
    """A state (C, h, w) with another dwell (a, b)."""
    changed, coarse = state.copy(), np.floor(dwell / DWELL_UNIT) * np.float32(DWELL_UNIT)
    changed[-7, :, ::PLACE_CELLS] = to_cells(coarse)[:, ::PLACE_CELLS]
    changed[-7, :, 1::PLACE_CELLS] = to_cells(dwell - coarse)[:, ::PLACE_CELLS]
    return changed
