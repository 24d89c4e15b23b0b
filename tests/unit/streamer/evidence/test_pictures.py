"""Pictures for people: masks to the last pixel, heat maps to lay over, what is usual."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.errors import BadFrame
from deploy.image import encode_jpeg
from streamer.areas import Polygon
from streamer.evidence.pictures import UsualPictures, decode_picture, masked, overlay

SHARES = st.floats(0, 1, allow_nan=False)
TRIANGLES = st.tuples(*[st.tuples(SHARES, SHARES)] * 3)


@given(TRIANGLES, st.integers(2, 90), st.integers(2, 90))
@settings(max_examples=60, deadline=None)
def test_no_pixel_inside_a_mask_is_shown(mask: Polygon, width_px: int, height_px: int) -> None:
    white = np.full((height_px, width_px, 3), 255, np.uint8)
    corners = (np.array(mask) * (width_px, height_px)).astype(np.float32)
    rows, columns = np.nonzero(masked(white, [mask]).any(axis=2))

    shown = [
        cv2.pointPolygonTest(corners, (x + 0.5, y + 0.5), measureDist=True) for x, y in np.stack([columns, rows], axis=1).tolist()
    ]

    assert max(map(float, shown), default=-1.0) <= 0


def test_large_pictures_are_shown_smaller_with_even_sides() -> None:
    encoded = encode_jpeg(np.zeros((721, 1283, 3), np.uint8), 80)
    assert decode_picture(encoded, 480, []).shape == (270, 480, 3)
    assert decode_picture(encoded, 4000, []).shape == (720, 1284, 3)


def test_heat_maps_are_transparent_where_they_are_cold() -> None:
    levels = np.array([[0, 80, 255]], np.uint8)
    png = cv2.imencode(".png", levels)[1].tobytes()
    laid = np.asarray(cv2.imdecode(np.frombuffer(overlay(png, []), np.uint8), cv2.IMREAD_UNCHANGED))
    assert laid[0, :, 3].tolist() == [0, 0, 200]


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\x89PNG\r\n\x1a\n"])
def test_a_heat_map_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(BadFrame):
        overlay(content, [])


def test_what_passes_leaves_no_trace_in_the_usual_picture() -> None:
    usual, empty = UsualPictures(), np.full((4, 6, 3), 100, np.uint8)
    for number in range(60):
        picture = empty.copy()
        picture[:, number % 6] = 255  # somebody crosses
        usual.add("gate", picture)
    shown = usual.get("gate")
    assert shown is not None
    assert np.abs(shown.astype(int) - 100).max() <= 6
    assert usual.get("yard") is None
