"""The values that travel through the service, from the Kafka message to the event in Redis."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deploy.clock import ClockState, Tick
from deploy.engine import FrameHandle, ProfileHandle, StateHandle
from deploy.image import AnyFrame
from deploy.profile import Profile
from deploy.profile_learning import Channel

UNREADABLE = "oddsight-unreadable"
"""Header of messages that the Kafka client could not read; its value is the reason, the messages' own content is missing."""

LATEST_MS = 253_402_300_799_999
"""End of the year 9999; there are no later capture times."""

EVENT_ID_PATTERN = r"^[0-9a-f]{16}$"
"""What :func:`event_id` makes; anything else names no folder, and no address."""

MAX_CAMERA_ID_CHARS = 128
CAMERA_ID_RULE = f"1 to {MAX_CAMERA_ID_CHARS} printable characters without leading or trailing spaces"
CAMERA_ID_PATTERN = r"^[^\p{C}\p{Z}]+( +[^\p{C}\p{Z}]+)*$"
"""The same rule, but for the length, as a regular expression of JSON Schema."""


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
    """Set by the producer or the broker."""
    first_offset: int | None = None
    """Set where this stands for all messages from there on, none of which the Kafka client could read; ``offset`` is the last."""

    @property
    def received_ms(self) -> int | None:
        """The record's own time; None if it tells nothing: producers may set 0, and Kafka's value for "none" is -1."""
        return self.timestamp_ms if self.timestamp_ms > 0 else None

    @property
    def count(self) -> int:
        """How many messages this is or stands for."""
        return 1 if self.first_offset is None else self.offset - self.first_offset + 1

    def __str__(self) -> str:
        first = "" if self.first_offset in {None, self.offset} else f"{self.first_offset}-"
        return f"{self.partition}@{first}{self.offset}"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A message that is not a usable frame."""

    message: FrameMessage
    reason: str
    """One of a fixed set of words, used as metric label and dead-letter header."""
    detail: str
    info: "FrameInfo | None" = None
    """Of which frame, if only its image is not usable; its size is 0 x 0."""


@dataclass(frozen=True, slots=True)
class FrameInfo:
    """Origin, capture time and original size of one frame."""

    partition: Partition
    offset: int
    camera_id: str
    captured_at_ms: int
    """Milliseconds since the Unix epoch: what the camera says, from ``tick`` on what is believed."""
    width_px: int
    """Width of the image that the camera sent, before it was resized for the model."""
    height_px: int
    tick: Tick | None = None
    """The frame's place on its camera's timeline, once that is known."""

    @property
    def clock_before(self) -> ClockState | None:
        """The camera's clock before the frame, once that is known."""
        return None if self.tick is None else self.tick.before

    @property
    def interval_ms(self) -> int:
        """The camera's usual time between two frames; 0 if it is not known."""
        return 0 if self.tick is None else self.tick.after.interval_ms


class QuotaUsed(NamedTuple):
    """How far a camera has used up its quota of frames, by its own clock and by that of its records."""

    captured_us: int = 0
    """Up to when it is used up, in microseconds."""
    received_us: int = 0
    last_captured_ms: int = 0
    """Of the newest message."""
    last_received_ms: int = 0
    standing: int = 0
    """Number of messages in a row with which neither clock went forward, up to the most that matters."""


ShedReason = Literal["over_rate", "late"]
"""More than its camera's quota, or waited too long in Kafka."""


class Shed(NamedTuple):
    """A frame that is not looked at, by the rules of :mod:`streamer.pipeline.shedding`."""

    info: FrameInfo
    """Its size is 0 x 0."""
    reason: ShedReason


@dataclass(frozen=True, slots=True)
class CameraFrame:
    """One decoded frame, resized to the model's clip spec."""

    info: FrameInfo
    frame: AnyFrame
    """In host memory, or on the GPU if both decoder and engine work there."""
    decoder: str
    """Name of the decoder that decoded it, see :mod:`deploy.registry`."""


class DeviceProfile(NamedTuple):
    """A camera's profile and its place on the engine's device."""

    profile: Profile
    handle: ProfileHandle


class DeviceHandles(NamedTuple):
    """What the engine caches on its device for a camera's next clip."""

    frames: tuple[FrameHandle, ...]
    """All frames of the next clip but the newest, oldest first."""
    state: StateHandle | None
    """None before the first clip, or for a model without a state."""
    profile: DeviceProfile | None = None
    """What the last clip was scored with; None for the default."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class CameraMemory:
    """What scoring carries from clip to clip of one camera; shared by its clips and updated by each that is scored.

    A gap in the camera's frames starts a new memory.
    """

    state: NDArray[np.float32] | None = None
    """State of a recurrent model on the host, float32 (C, h, w); None before the first clip, or if cached on the device."""
    device_handles: DeviceHandles | None = None
    """None if nothing is cached on the device for this camera."""
    newest: FrameInfo | None = None
    """The frame after which the state on the host is; None before the first clip."""


@dataclass(frozen=True, slots=True)
class Clip:
    """The last frames of one camera, oldest first."""

    frames: tuple[AnyFrame, ...]
    info: FrameInfo
    """Of the newest frame, to which the clip's score belongs."""
    clip_from: int | None
    """Offset of the oldest frame needed to rebuild the camera's next clip and state; None if no past frame is needed."""
    memory: CameraMemory
    clip_clock: ClockState | None = None
    """The camera's clock before that frame."""


class Remembered(NamedTuple):
    """What the model remembers of a camera after a frame, see :mod:`deploy.memory`."""

    info: FrameInfo
    since: FrameInfo
    """The frame before it, or the frame itself if nothing was remembered then: the state is made of these frames and the maps."""
    maps: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one frame; without score and heat map, float32 (h, w), if the frame completes no clip."""

    info: FrameInfo
    clip_from: int | None
    """See :class:`Clip`."""
    profile: Profile | None
    """The camera's profile, whose thresholds apply to the frame; None for the bundle's default."""
    score: float | None = None
    heatmap: NDArray[np.float32] | None = None
    state: NDArray[np.float32] | None = None
    """State of the model after the frame, float32 (C, h, w); only of cameras that are being learned."""
    channel: Channel | None = None
    """What raised the score, where that is known."""
    picture: NDArray[np.uint8] | None = None
    """The frame reduced to places, uint8 (a, b), where the model's state shows it."""
    memory: Remembered | None = None
    """Where the model's state is on the host and shows it."""
    clip_clock: ClockState | None = None
    """See :class:`Clip`."""
    zones: tuple[str, ...] = ()
    """Names of the zones in which the heat map is highest."""
    quieted: tuple[tuple[str, float], ...] = ()
    """Events that were called normal, and the score that each hides, unless another part of the picture raises one."""


class LearningProgress(NamedTuple):
    """How far a camera is learned."""

    share: float
    """Of the least time, 0 to 1."""
    left_s: float
    """The rest of the least time; 0 if only more certainty is waited for."""


# Version 1 of the entries of the Redis Stream {prefix}:events. The docstrings go into event.schema.json.
class Event(BaseModel):
    """One entry. In Redis all fields are strings; a field that does not apply is absent."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="Oddsight event", use_attribute_docstrings=True)

    schema_version: Literal["1"] = Field(default="1", alias="schema")
    event_id: str
    """The same for all entries of one event. Derived from its first frame, so that a replay does not create a second event."""
    kind: Literal["start", "update", "end"]
    camera_id: str
    started_at_ms: int
    """Capture time of the event's first frame, in milliseconds since the Unix epoch."""
    captured_at_ms: int
    """Capture time of the frame that caused this entry."""
    ended_at_ms: int | None = None
    """Capture time of the last frame whose score reached the exit threshold; only in ``end``."""
    score: float | None = None
    """Score of the frame that caused this entry; absent if that frame has none."""
    peak_score: float
    """Highest score of the event so far."""
    threshold: float
    """The camera's enter threshold."""
    provisional: Literal["true"] | None = None
    """Present if the camera is still being learned, so that the thresholds are not its own."""
    budget: float
    """False events a day that the threshold is meant to allow: ``decision.false_events_per_camera_day`` of the settings."""
    bound: float | None = None
    """False events a day at most, with 95 % confidence, while what is ordinary stays as it was in the footage that the threshold
    was learned from. Above the budget as long as that footage is short; absent if the settings rule a promise out."""
    observed_s: float
    """Duration of that footage in seconds."""
    calibration_id: str
    """Short hash of the statistics of normal scores in the camera's profile, or in the bundle without one."""
    profile_id: str | None = None
    """The camera's profile that the frame was scored with; absent for the bundle's default."""
    model_id: str
    """Identifies the network's weights."""
    engine: str
    """Name of the engine that computed the score."""
    channel: Channel | None = None
    """What raised the score: ``speed``, ``appearance`` (looks, or the way of moving) or ``dwell`` (something stays). Only in
    ``start`` and ``update``, and where it is known: not while an engine keeps the model's state on a GPU."""
    text: str | None = None
    """The channel in words."""
    region: str | None = Field(default=None, pattern=r"^\d+,\d+,\d+,\d+$")
    """``x,y,w,h`` in pixels of the camera's image: where the score comes from. Only in ``start`` and ``update``."""
    zones: str | None = None
    """Names of the zones that the region's hottest part lies in, separated by commas. Only in ``start`` and ``update``."""
    topic: str
    partition: int
    offset: int
    """Kafka position of the frame that caused this entry."""
    scored_at_ms: int
    """When the service wrote this entry, in milliseconds since the Unix epoch."""

    @property
    def key(self) -> tuple[str, ...]:
        """The same for entries that tell the same: an event starts and ends once, and is updated once by a frame."""
        return (self.event_id, self.kind, *([str(self.offset)] if self.kind == "update" else []))

    def fields(self) -> dict[str, str]:
        """The entry as written to Redis."""
        content = self.model_dump(by_alias=True, exclude_none=True)
        return {name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in content.items()}


def read_event(fields: Mapping[str, str]) -> Event | None:
    """The event of an entry in Redis; None if another version wrote it, it was trimmed away, or it names what cannot be."""
    try:
        event = Event.model_validate(fields)
    except ValidationError:
        return None
    times_ms = (event.started_at_ms, event.captured_at_ms, event.ended_at_ms or 0, event.scored_at_ms)
    is_possible = all(0 <= time_ms <= LATEST_MS for time_ms in times_ms)
    return event if is_possible and 0 <= event.partition < 2**31 and 0 <= event.offset < 2**63 else None


def event_id(info: FrameInfo) -> str:
    """Id of the event that starts with this frame; the same whenever the frame is read.

    It covers the capture time, because offsets start again when a topic is deleted and created again.
    """
    partition = info.partition
    origin = f"{partition.topic}\n{partition.number}\n{info.offset}\n{info.camera_id}\n{info.captured_at_ms}"
    return hashlib.sha256(origin.encode()).hexdigest()[:16]
