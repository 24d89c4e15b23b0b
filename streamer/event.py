"""The event schema, version 1: what lands in the Redis Stream ``{prefix}:events``, one entry per change of an event's life."""

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from streamer.types import Partition


class Event(BaseModel):
    """One entry. In Redis every field is a string; a field that does not apply is absent."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="Oddsight event", use_attribute_docstrings=True)

    schema_version: Literal["1"] = Field(default="1", alias="schema")
    event_id: str
    """The same for all entries of one event; derived from the frame that began it, so a replay cannot alert twice."""
    kind: Literal["start", "update", "end"]
    camera_id: str
    started_at_ms: int
    """Capture time of the event's first frame, Unix epoch."""
    captured_at_ms: int
    """Capture time of the frame that caused this entry."""
    ended_at_ms: int | None = None
    """Capture time of the event's last active frame; in ``end`` only."""
    score: float | None = None
    """Score of the frame that caused this entry; absent where that frame has none."""
    peak_score: float
    threshold: float
    """The enter threshold in force."""
    calibration_id: str
    model_id: str
    engine: str
    region: str | None = Field(default=None, pattern=r"^\d+,\d+,\d+,\d+$")
    """x,y,w,h in pixels of the camera's picture: where the score comes from. In ``start`` and ``update``."""
    topic: str
    partition: int
    offset: int
    """Kafka position of the frame that caused this entry."""
    scored_at_ms: int
    """When the service wrote this entry, Unix epoch."""

    def fields(self) -> dict[str, str]:
        """The flat string fields as they go into Redis."""
        content = self.model_dump(by_alias=True, exclude_none=True)
        return {name: _text(value) for name, value in content.items()}


def event_id(partition: Partition, offset: int, camera_id: str, captured_at_ms: int) -> str:
    """Name of the event that a frame begins: the same whenever that frame is read.

    The capture time is in it because offsets begin again when somebody deletes and remakes a topic.
    """
    origin = f"{partition.topic}\n{partition.number}\n{offset}\n{camera_id}\n{captured_at_ms}"
    return hashlib.sha256(origin.encode()).hexdigest()[:16]


def json_schema() -> dict[str, object]:
    """JSON Schema of the flat string fields, as published in ``event.schema.json``."""
    schema = Event.model_json_schema(by_alias=True)
    schema["required"].insert(0, "schema")  # it has a default here, but is always sent
    for definition in schema["properties"].values():
        _as_string(definition)
    return schema


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


_STRING_FORMS = {"integer": r"^-?\d+$", "number": r"^-?\d+(\.\d+)?([eE][-+]?\d+)?$"}


def _as_string(definition: dict[str, object]) -> None:
    """Turn the schema of a typed field into that of its text."""
    choices = definition.pop("anyOf", None)
    if isinstance(choices, list):
        definition.update(next(choice for choice in choices if choice.get("type") != "null"))
        definition.pop("default", None)
    pattern = _STRING_FORMS.get(str(definition["type"]))
    if pattern is not None:
        definition["pattern"] = pattern
    definition["type"] = "string"
