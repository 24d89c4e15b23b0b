"""The region is the hottest patch of the heat map, in pixels of the camera's own picture, and always inside it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from streamer.pipeline.decide import hot_region


def heatmap(rows: int, columns: int, hot: dict[tuple[int, int], float]) -> np.ndarray:
    """Zero but for some cells, given as (row, column)."""
    cells = np.zeros((rows, columns), np.float32)
    for place, heat in hot.items():
        cells[place] = heat
    return cells


@pytest.mark.parametrize(
    ("hot", "region"),
    [
        ({(0, 0): 1.0}, "0,0,80,60"),
        ({(7, 7): 1.0}, "560,420,80,60"),
        ({(2, 3): 1.0, (2, 4): 0.6, (3, 3): 0.6}, "240,120,160,120"),
        ({(2, 3): 1.0, (3, 4): 0.9}, "240,120,160,120"),  # corners touch
        ({(2, 3): 1.0, (2, 4): 0.4}, "240,120,80,60"),  # less than half as hot
        ({(2, 3): 1.0, (6, 6): 0.9}, "240,120,80,60"),  # hot, but elsewhere
    ],
)
def test_the_region_is_the_hottest_patch_in_pixels_of_the_picture(hot: dict[tuple[int, int], float], region: str) -> None:
    assert hot_region(heatmap(8, 8, hot), 640, 480) == region


def test_what_is_hot_is_measured_from_the_coldest_cell() -> None:
    cells = heatmap(4, 4, {(1, 1): 1.0, (1, 2): 0.4})

    assert hot_region(cells - 5, 40, 40) == hot_region(cells, 40, 40) == "10,10,10,10"


def test_an_even_heat_map_points_at_the_whole_picture() -> None:
    assert hot_region(np.full((3, 5), 0.7, np.float32), 100, 60) == "0,0,100,60"


CELLS = st_numpy.arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(-(2.0**10), 2.0**10, width=32)
)


@given(CELLS, st.integers(1, 50), st.integers(1, 50))
def test_the_region_lies_inside_the_picture_however_small_that_is(cells: np.ndarray, width_px: int, height_px: int) -> None:
    x, y, width, height = map(int, hot_region(cells, width_px, height_px).split(","))

    assert 0 <= x < x + width <= width_px
    assert 0 <= y < y + height <= height_px


@given(CELLS, st.integers(0, 50), st.integers(0, 50))
def test_the_region_holds_the_hottest_cell(cells: np.ndarray, more_columns: int, more_rows: int) -> None:
    rows, columns = cells.shape
    width_px, height_px = columns + more_columns, rows + more_rows  # at least a pixel a cell

    x, y, width, height = map(int, hot_region(cells, width_px, height_px).split(","))

    row, column = (int(index) for index in np.unravel_index(cells.argmax(), cells.shape))
    assert x <= column * width_px // columns < (column + 1) * width_px // columns <= x + width
    assert y <= row * height_px // rows < (row + 1) * height_px // rows <= y + height
