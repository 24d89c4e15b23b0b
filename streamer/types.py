"""The values that travel through the service. All frozen but :class:`Memory`."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.handles import FrameRow, StateRow
from deploy.image import AnyFrame

UNREADABLE = "oddsight-unreadable"
"""Header that stands in for the content of a record that the Kafka client could not read."""


MAX_CAMERA_ID_CHARS = 128
CAMERA_ID_RULE = f"1 to {MAX_CAMERA_ID_CHARS} printable characters without spaces at its ends"


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.number}]"


@dataclass(frozen=True, slots=True)
class FrameMessage:
    """One Kafka record as it came; nothing in it is trusted yet."""

    partition: Partition
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp_ms: int
    """The record's own time, set by the producer or the broker."""

    def __str__(self) -> str:
        return f"{self.partition}@{self.offset}"


@dataclass(frozen=True, slots=True)
class CameraFrame:
    """One decoded frame of one camera, fitted to the model's clip spec."""

    partition: Partition
    offset: int
    camera_id: str
    captured_at_ms: int
    frame: AnyFrame
    """In the host's memory, or on the GPU where the decoder and the engine are there."""
    width_px: int
    """Size of the picture the camera sent."""
    height_px: int
    decoder: str
    """The decoder that made it, see :mod:`deploy.decoders.registry`."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message that is no frame, and why."""

    message: FrameMessage
    reason: str
    """One of a fixed set of words, for the metric and the dead-letter header."""
    detail: str


class Kept(NamedTuple):
    """What stays on an engine's device between two frames of a camera."""

    frames: tuple[FrameRow, ...]
    """Those that the next clip begins with, oldest first."""
    state: StateRow | None
    """None: nothing seen yet, or a model without a state."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Memory:
    """What is left of one run of frames for its next clip; its clips share it, and each that is scored changes it."""

    state: NDArray[np.float32] | None = None
    """float32 (C, h, w) of a recurrent model; None: nothing seen yet, or it is kept."""
    kept: Kept | None = None
    """None: nothing yet, or the engine keeps nothing of this camera."""


@dataclass(frozen=True, slots=True)
class Clip:
    """The last frames of one camera, oldest first; ``newest`` is the frame that its score belongs to."""

    frames: tuple[AnyFrame, ...]
    newest: CameraFrame
    clip_from: int | None
    """Offset of the oldest frame that the camera's next clip and state are made of; None if they need none of the past."""
    memory: Memory


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that the rest of the service needs to know of one frame."""

    offset: int
    camera_id: str
    captured_at_ms: int
    width_px: int
    height_px: int
    clip_from: int | None
    """See :class:`Clip`."""
    score: float | None
    """None for a frame that completes no clip."""
    heatmap: NDArray[np.float32] | None
    """float32 (h, w), None where there is no score."""


def is_camera_id(text: str) -> bool:
    """Whether ``text`` keeps :data:`CAMERA_ID_RULE`."""
    return 1 <= len(text) <= MAX_CAMERA_ID_CHARS and text.isprintable() and text == text.strip()
