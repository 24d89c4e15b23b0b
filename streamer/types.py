"""The values that travel through the service, from the Kafka message to the scored frame."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.handles import FrameHandle, StateHandle
from deploy.image import AnyFrame

UNREADABLE = "oddsight-unreadable"
"""Header of a message that the Kafka client could not read; its value is the reason, the message's own content is missing."""

MAX_CAMERA_ID_CHARS = 128
CAMERA_ID_RULE = f"1 to {MAX_CAMERA_ID_CHARS} printable characters without leading or trailing spaces"


def is_camera_id(text: str) -> bool:
    """Whether ``text`` follows :data:`CAMERA_ID_RULE`."""
    return 1 <= len(text) <= MAX_CAMERA_ID_CHARS and text.isprintable() and text == text.strip()


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.number}]"


@dataclass(frozen=True, slots=True)
class FrameMessage:
    """One Kafka record as received; its content is not validated yet."""

    partition: Partition
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp_ms: int
    """The record's timestamp, set by the producer or the broker."""

    def __str__(self) -> str:
        return f"{self.partition}@{self.offset}"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message that is not a usable frame."""

    message: FrameMessage
    reason: str
    """One of a fixed set of words, used as metric label and dead-letter header."""
    detail: str


@dataclass(frozen=True, slots=True)
class FrameInfo:
    """Origin, capture time and original size of one frame."""

    partition: Partition
    offset: int
    camera_id: str
    captured_at_ms: int
    """Milliseconds since the Unix epoch."""
    width_px: int
    """Width of the image that the camera sent, before it was resized for the model."""
    height_px: int

    def __str__(self) -> str:
        return f"{self.partition}@{self.offset}"


@dataclass(frozen=True, slots=True)
class CameraFrame:
    """One decoded frame, resized to the model's clip spec."""

    info: FrameInfo
    frame: AnyFrame
    """In host memory, or on the GPU if both decoder and engine work there."""
    decoder: str
    """Name of the decoder that decoded it, see :mod:`deploy.decoders.registry`."""


class DeviceHandles(NamedTuple):
    """What the engine caches on its device for a camera's next clip."""

    frames: tuple[FrameHandle, ...]
    """All frames of the next clip but the newest, oldest first."""
    state: StateHandle | None
    """None before the first clip, or for a model without a state."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class CameraMemory:
    """What scoring carries from clip to clip of one camera; shared by its clips and updated by each that is scored.

    A gap in the camera's frames starts a new memory.
    """

    state: NDArray[np.float32] | None = None
    """State of a recurrent model on the host, float32 (C, h, w); None before the first clip, or if cached on the device."""
    device_handles: DeviceHandles | None = None
    """None if nothing is cached on the device for this camera."""


@dataclass(frozen=True, slots=True)
class Clip:
    """The last frames of one camera, oldest first."""

    frames: tuple[AnyFrame, ...]
    info: FrameInfo
    """Of the newest frame, to which the clip's score belongs."""
    clip_from: int | None
    """Offset of the oldest frame needed to rebuild the camera's next clip and state; None if no past frame is needed."""
    memory: CameraMemory


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one frame."""

    info: FrameInfo
    clip_from: int | None
    """See :class:`Clip`."""
    score: float | None = None
    """None if the frame completes no clip."""
    heatmap: NDArray[np.float32] | None = None
    """float32 (h, w); None if there is no score."""
