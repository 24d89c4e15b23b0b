"""What the video model remembers of a camera, small enough to be stored every few frames.

Most of a state are the camera's newest frames themselves. The rest are maps in which all frames before have left their mark:
averages along the motion, and dwells. Only these are stored. After a restart the frames come from Kafka again, and putting them
into a state takes no network: only the frames behind the stored maps must be scored once more.
"""

import base64
import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deploy.dwell import Map
from deploy.errors import MemoryCorrupt

REMEMBERED_MAPS: Final = 8
"""The last channels of a state: the newest frame reduced, dwell, velocity (2), variance, anomaly, age, ``started``."""

StateShape = tuple[int, int, int]
"""(C, h, w)."""


def remembered(state: Map) -> Map:
    """The maps (8, h, w) of a state (C, h, w)."""
    return state[-REMEMBERED_MAPS:].copy()


def with_remembered(state: Map, maps: Map) -> Map:
    """A state (C, h, w) with the maps (8, h, w)."""
    return np.concatenate([state[:-REMEMBERED_MAPS], maps])


def followed_by(state: Map | None, frame: NDArray[np.uint8], shape: StateShape) -> Map:
    """A state whose newest frame is ``frame``, uint8 (H, W, 1), with the maps of before; None: the camera's first frame."""
    newest = frame.reshape(-1, *shape[1:]).astype(np.float32)  # in memory order, as the network does it
    frames, maps = shape[0] - REMEMBERED_MAPS, np.zeros((REMEMBERED_MAPS, *shape[1:]), np.float32)
    if state is None:  # its own past
        return np.concatenate([np.resize(newest, (frames, *shape[1:])), maps])
    return np.concatenate([np.concatenate([newest, state])[:frames], state[-REMEMBERED_MAPS:]])


def pack_memory(maps: Map) -> str:
    """Maps as text, exactly: base64 of their compressed bytes, the first byte of all values, then the second, and so on."""
    planes = maps.astype("<f4", copy=False).view(np.uint8).reshape(-1, 4).T
    # The lower half of a value is noise. Searching it for repetitions would take twice as long.
    compressor = zlib.compressobj(1, strategy=zlib.Z_RLE)
    return base64.b64encode(compressor.compress(planes.tobytes()) + compressor.flush()).decode()


def unpack_memory(text: str, grid: tuple[int, int]) -> Map:
    """The maps (8, h, w) that a text of :func:`pack_memory` tells; raises MemoryCorrupt if it tells none of this size."""
    shape = (REMEMBERED_MAPS, *grid)
    size = 4 * REMEMBERED_MAPS * grid[0] * grid[1]
    try:
        content = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), size + 1)
    except (ValueError, zlib.error) as error:
        raise MemoryCorrupt(f"not a stored memory of a camera ({error})") from error
    if len(content) != size:
        raise MemoryCorrupt(f"not a stored memory of a camera of {grid[0]} x {grid[1]} cells ({len(content)} bytes, not {size})")
    maps = np.ascontiguousarray(np.frombuffer(content, np.uint8).reshape(4, -1).T).view("<f4").reshape(shape).astype(np.float32)
    if not np.isfinite(maps).all():
        raise MemoryCorrupt("not a stored memory of a camera (some of its values are not finite numbers)")
    return maps
