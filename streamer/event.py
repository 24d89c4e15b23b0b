"""The event schema, version 1: entries of the Redis Stream ``{prefix}:events``, one for each change of an event."""

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from streamer.types import FrameInfo


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
    calibration_id: str
    """Short hash of the thresholds and score statistics of the bundle."""
    model_id: str
    """Identifies the network's weights."""
    engine: str
    """Name of the engine that computed the score."""
    region: str | None = Field(default=None, pattern=r"^\d+,\d+,\d+,\d+$")
    """``x,y,w,h`` in pixels of the camera's image: where the score comes from. Only in ``start`` and ``update``."""
    topic: str
    partition: int
    offset: int
    """Kafka position of the frame that caused this entry."""
    scored_at_ms: int
    """When the service wrote this entry, in milliseconds since the Unix epoch."""

    def fields(self) -> dict[str, str]:
        """The entry as written to Redis."""
        content = self.model_dump(by_alias=True, exclude_none=True)
        return {name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in content.items()}


def event_id(info: FrameInfo) -> str:
    """Id of the event that starts with this frame; the same whenever the frame is read.

    It covers the capture time, because offsets start again when a topic is deleted and created again.
    """
    partition = info.partition
    origin = f"{partition.topic}\n{partition.number}\n{info.offset}\n{info.camera_id}\n{info.captured_at_ms}"
    return hashlib.sha256(origin.encode()).hexdigest()[:16]
