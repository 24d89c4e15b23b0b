"""What is stored of a state comes back exactly, and nothing else is taken for it."""

import base64
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from deploy.errors import MemoryCorrupt
from deploy.memory import REMEMBERED_MAPS, followed_by, pack_memory, remembered, unpack_memory, with_remembered

GRID = (2, 3)
MAPS = (REMEMBERED_MAPS, *GRID)
SIZE = 4 * REMEMBERED_MAPS * GRID[0] * GRID[1]


@given(arrays(np.float32, MAPS, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_packed_maps_are_exact(maps):
    assert unpack_memory(pack_memory(maps), GRID).tobytes() == maps.tobytes()


def packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


@pytest.mark.parametrize(
    "text",
    ["", "not base64!", "QUJD", "\ufffd", packed(bytes(SIZE - 4)), packed(bytes(SIZE + 4)), packed(b"\xff" * SIZE)],
)
def test_what_is_no_memory_is_refused(text):
    with pytest.raises(MemoryCorrupt, match="not a stored memory"):
        unpack_memory(text, GRID)


def test_a_bomb_is_not_unpacked():
    with pytest.raises(MemoryCorrupt, match=rf"2 x 3 cells \({SIZE + 1} bytes"):
        unpack_memory(packed(bytes(50_000_000)), GRID)


@given(st.text())
def test_any_other_text_is_refused(text):
    with pytest.raises(MemoryCorrupt):
        unpack_memory(text, GRID)


def test_state_is_made_of_the_newest_frames_and_the_maps():
    shape = (2 * 16 + REMEMBERED_MAPS, *GRID)
    frames = np.random.default_rng(1).integers(0, 256, (3, 8, 12, 1), np.uint8)
    maps = np.arange(np.prod(MAPS), dtype=np.float32).reshape(MAPS)
    newest = [frame.reshape(16, *GRID).astype(np.float32) for frame in frames]

    first = followed_by(None, frames[0], shape)
    third = with_remembered(followed_by(followed_by(first, frames[1], shape), frames[2], shape), maps)

    assert np.array_equal(first, np.concatenate([newest[0], newest[0], np.zeros(MAPS, np.float32)]))
    assert np.array_equal(third, np.concatenate([newest[2], newest[1], maps]))
    assert np.array_equal(remembered(third), maps)
