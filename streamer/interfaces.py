"""What the pipeline asks of Kafka, Redis and a decoder: protocols, and the values that cross them. No client library in sight."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict

from deploy.decision import OpenEvent
from streamer.types import CameraFrame, FrameMessage, Partition, Rejected

ChangeKind = Literal["assigned", "revoked", "out_of_range"]


class Change(NamedTuple):
    """Something happened to a partition. A partition ``out_of_range`` has no frame at the offset asked for."""

    kind: ChangeKind
    partition: Partition


class Polled(NamedTuple):
    """What one poll brought: changes in the order they happened, then messages."""

    changes: list[Change]
    messages: list[FrameMessage]


class FrameSource(Protocol):
    """Where messages come from, as the pipeline sees it."""

    joined: bool
    """Whether the group has given this consumer its partitions, be they none."""

    def poll(self, timeout_s: float) -> Polled:
        """Wait at most ``timeout_s`` for messages of started partitions, or for a change."""

    def start(self, partition: Partition, offset: int) -> None:
        """Deliver a partition's messages from ``offset`` on."""

    def pause(self, partition: Partition) -> None:
        """Deliver nothing of a partition until it is started again."""

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """First offset still there, and the offset the next message will get."""

    def committed(self, partition: Partition) -> int | None:
        """The group's committed offset, None where there is none."""

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Tell Kafka how far the group is; for lag tools, and for a Redis that was emptied."""

    def lag(self, partition: Partition, next_offset: int) -> int | None:
        """Messages behind the newest one; None before the first fetch."""

    def close(self) -> None:
        """Leave the group."""


class FrameDecoder(Protocol):
    """What makes frames of messages."""

    def decode(self, messages: Iterable[FrameMessage]) -> list[CameraFrame | Rejected]:
        """Decode messages; one result a message, in their order. Nothing a message holds raises.

        Raises:
            DecoderFailed: it can decode no longer.
        """

    def describe(self) -> dict[str, str]:
        """What is really in use: backend, version, device."""

    def close(self) -> None:
        """Free what it holds."""


Fields = Mapping[str, str]


class CameraState(BaseModel):
    """What one camera's next frame needs to know of the frames before it."""

    model_config = ConfigDict(frozen=True)

    clip_from: int | None = None
    """Offset of the oldest frame that the next clip and state are made of; None if they need none of the past."""
    event: OpenEvent | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a partition is done. ``next_offset`` is None where nothing was ever stored."""

    next_offset: int | None = None
    cameras: Mapping[str, CameraState] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """The effects of the frames from ``expected`` up to, not including, ``next_offset``."""

    partition: Partition
    expected: int | None
    next_offset: int
    cameras: Mapping[str, CameraState] = field(default_factory=dict)
    scores: Sequence[tuple[str, Fields]] = ()
    """(camera_id, entry) in frame order."""
    events: Sequence[Fields] = ()


class ProgressStore(Protocol):
    """Where progress lives together with the effects."""

    def read(self, partition: Partition) -> Progress:
        """The stored progress.

        Raises:
            RedisUnavailable: try again later.
        """

    def apply(self, step: Step) -> None:
        """Write a step, whole or not at all.

        Raises:
            Fenced: the stored next offset is not ``step.expected``; nothing was written.
            RedisUnavailable: it is not known whether the step was written; read the progress before going on.
        """


class DeadLetterSink(Protocol):
    """Where rejected messages go."""

    def send(self, rejected: Rejected) -> None:
        """Take a rejected message; does not wait."""

    def flush(self) -> None:
        """Wait until all that was sent is stored; to be called before the partition's progress moves past it.

        Raises:
            BrokerUnavailable: something was not stored; the same messages will be rejected and sent again.
        """

    def close(self) -> None:
        """Stop."""
