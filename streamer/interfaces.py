"""What the pipeline requires of Kafka and Redis: protocols, and the values that cross them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol
from uuid import uuid4

from pydantic import BaseModel, ConfigDict

from deploy.clock import ClockState
from deploy.decision import OpenEvent
from deploy.errors import OddsightError
from deploy.health import FaultState, HealthProblem, HealthState, Reference
from deploy.profile import Profile
from streamer.areas import CameraAreas, Quieted
from streamer.minutes import ScoreMinute
from streamer.types import FrameMessage, Partition, QuotaUsed, Rejected

ChangeKind = Literal["assigned", "revoked", "out_of_range"]

Fields = Mapping[str, str]
"""The fields of one entry of a Redis stream."""


class PartitionChange(NamedTuple):
    """A change of a partition's assignment; ``out_of_range``: Kafka has no message at the requested offset."""

    kind: ChangeKind
    partition: Partition


class PollResult(NamedTuple):
    """The changes since the last poll, in order, and the messages that follow them."""

    changes: list[PartitionChange]
    messages: list[FrameMessage]


class TopicVersion(BaseModel):
    """Which of several topics of one name it is. Its field names are part of the format in Redis."""

    model_config = ConfigDict(frozen=True)

    topic_id: str | None
    """A topic that is deleted and created again gets another one; None if the broker tells none."""
    partitions: int
    """How many it has; in stored progress, how many it had when the group came to it."""

    def is_other(self, topic: "TopicVersion") -> bool:
        """Whether ``topic`` has only the name in common with this one."""
        return self.topic_id is not None and topic.topic_id is not None and self.topic_id != topic.topic_id


class FrameSource(Protocol):
    """Consumer of the frame topic as a member of a consumer group. A partition delivers nothing until it is started."""

    joined: bool
    """Whether the group has assigned this consumer its partitions, even if none."""

    def poll(self, timeout_s: float) -> PollResult:
        """Wait at most ``timeout_s`` for messages of started partitions, or for a change."""

    def start(self, partition: Partition, offset: int) -> None:
        """Deliver a partition's messages from ``offset`` on."""

    def pause(self, partition: Partition) -> None:
        """Deliver no messages of a partition until it is started again, or resumed."""

    def resume(self, partition: Partition) -> None:
        """Deliver the messages of a paused partition from where it was paused."""

    def bounds(self, partition: Partition) -> tuple[int, int]:
        """The first offset that Kafka still has, and the offset that the next message will get."""

    def topic(self, partition: Partition) -> TopicVersion:
        """The partition's topic as it is now."""

    def committed(self, partition: Partition) -> int | None:
        """The group's committed offset, None if there is none."""

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Commit the group's offsets to Kafka: for lag monitoring, and as a fallback if Redis has been emptied."""

    def position(self, partition: Partition) -> int | None:
        """The offset before which all messages have been delivered; None if the partition is not assigned.

        It lies behind the last message's offset where offsets hold no message: marks of a transaction's end, messages of a
        transaction that was aborted, what a compacted topic has dropped.
        """

    def lag(self, partition: Partition, next_offset: int) -> int | None:
        """Number of messages from ``next_offset`` to the newest; None before the first fetch."""

    def close(self) -> None:
        """Leave the group."""


class CameraState(BaseModel):
    """What is stored of one camera between two steps. Its field names are part of the format in Redis."""

    model_config = ConfigDict(frozen=True)

    clip_from: int | None = None
    """Offset of the oldest frame needed to rebuild the next clip and state; None if no past frame is needed."""
    clip_clock: ClockState | None = None
    """The camera's clock before that frame, so that a replay believes the same times."""
    event: OpenEvent | None = None
    health: HealthState = HealthState()
    damaged: FaultState = FaultState()
    clock: ClockState | None = None
    """The camera's clock after its newest frame."""
    odd_clock: FaultState = FaultState()
    """How many of its capture times were not believed."""
    quota_used: QuotaUsed = QuotaUsed()
    """How far its quota of frames was used up before the frame ``clip_from``; if that is None, how far it is now."""
    minute: ScoreMinute | None = None
    """The minute of scores that is being summed up."""
    quieted: Mapping[str, Quieted] = {}
    """What stayed quiet, by the event that was called normal."""

    @property
    def problem(self) -> HealthProblem | None:
        """What is wrong with the camera or its frames; what is wrong with its picture comes first."""
        if self.health.problem is not None or self.damaged.since_ms is not None:
            return self.health.problem or "damaged"
        return None if self.odd_clock.since_ms is None else "clock"


class Snapshot(BaseModel):
    """What is stored every few seconds of a camera's learner, or of what the model remembers of a camera (its *memory*).

    Its field names are part of the format in Redis.
    """

    model_config = ConfigDict(frozen=True)

    clip_from: int | None
    """Offset of the oldest frame needed to go on from it; None if no past frame is needed."""
    content: str
    """Base64."""
    clip_clock: ClockState | None = None
    """The camera's clock before that frame."""
    quota_used: QuotaUsed = QuotaUsed()
    """The camera's before the frame ``clip_from``."""
    offset: int | None = None
    """Of the newest frame that it holds; None in one of a version that did not say."""
    model_id: str | None = None
    """The network whose memory it is."""


class OwedLetter(BaseModel):
    """A dead letter that Kafka has not taken yet, by reference. Its field names are part of the format in Redis."""

    model_config = ConfigDict(frozen=True)

    offset: int
    first_offset: int | None = None
    """See :class:`~streamer.types.FrameMessage`."""
    reason: str
    detail: str

    @classmethod
    def of(cls, rejected: Rejected) -> "OwedLetter":
        """The reference to a rejected message."""
        message = rejected.message
        return cls(offset=message.offset, first_offset=message.first_offset, reason=rejected.reason, detail=rejected.detail[:500])

    def rejected(self, partition: Partition) -> Rejected:
        """The rejected message, without its content."""
        message = FrameMessage(partition, self.offset, None, None, (), -1, self.first_offset)
        return Rejected(message, self.reason, self.detail)


class OwedLetters(BaseModel):
    """All of a partition."""

    model_config = ConfigDict(frozen=True)

    letters: tuple[OwedLetter, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """The stored progress of a partition; ``next_offset`` is None if none was ever stored."""

    next_offset: int | None = None
    cameras: Mapping[str, CameraState] = field(default_factory=dict)
    learners: Mapping[str, Snapshot] = field(default_factory=dict)
    memories: Mapping[str, Snapshot] = field(default_factory=dict)
    damaged: Sequence[str] = ()
    """What was stored of cameras and could not be read; their history is lost."""
    topic: TopicVersion | None = None
    """What the offset belongs to; None if it was stored by a version that did not know."""
    letters: OwedLetters = field(default_factory=OwedLetters)
    """The dead letters that were still to be stored."""


@dataclass(frozen=True, slots=True)
class Step:
    """The effects of the frames from ``expected`` up to, but not including, ``next_offset``; written atomically."""

    partition: Partition
    expected: int | None
    """The next offset that must be stored when the step is written."""
    next_offset: int
    cameras: Mapping[str, CameraState] = field(default_factory=dict)
    scores: Sequence[tuple[str, Fields]] = ()
    """(camera_id, entry) in frame order."""
    events: Sequence[Fields] = ()
    learners: Mapping[str, Snapshot | None] = field(default_factory=dict)
    """New snapshots; None where the camera is learned, or is not to be learned any more."""
    memories: Mapping[str, Snapshot | None] = field(default_factory=dict)
    """New snapshots; None where what is stored is of no use any more."""
    health: Sequence[Fields] = ()
    """Entries of the stream of health."""
    heatmaps: Sequence[Fields] = ()
    """Entries of the stream of heat maps."""
    minutes: Sequence[tuple[str, Fields]] = ()
    """(camera_id, entry) of minutes of scores that ended, in frame order."""
    letters: OwedLetters | None = None
    """The dead letters that are still to be stored; None if they are the same as before."""
    forgotten: Sequence[str] = ()
    """Cameras of which nothing is kept any more."""
    step_id: str = field(default_factory=lambda: uuid4().hex, init=False, compare=False)
    """Tells whether this step is the one that was written last."""
    topic: TopicVersion | None = None
    """What the offset belongs to from now on; None if that is stored already."""


class ProgressStore(Protocol):
    """Stores a partition's progress together with the scores and events it stands for."""

    def read(self, partition: Partition) -> Progress:
        """The stored progress.

        Raises:
            RedisUnavailable: try again later.
            ProgressUnusable: it cannot be understood; somebody must mend it.
        """

    def apply(self, step: Step) -> None:
        """Write a step, whole or not at all, and only once: if it is the one that was written last, nothing is done.

        Raises:
            Fenced: the stored next offset is not ``step.expected``; nothing was written.
            RedisUnavailable: the step may or may not have been written; apply it again, or read the progress before going on.
        """


class ProfileStore(Protocol):
    """Stores the cameras' profiles. Every method raises RedisUnavailable: try again later."""

    def version(self) -> str:
        """A text that is another one after every change."""

    def current(self) -> Mapping[str, str]:
        """camera_id -> profile_id in force; cameras with the default profile are missing."""

    def frozen(self) -> Collection[str]:
        """The cameras whose profiles are to stay as they are."""

    def read(self, camera_id: str, profile_id: str) -> Profile:
        """One version of a camera's profile; raises ProfileCorrupt if it is missing or damaged."""

    def put_first(self, profile: Profile) -> None:
        """Make a profile its camera's current one, unless the camera has one already."""

    def put_after(self, profile: Profile, before: str) -> bool:
        """Make a profile its camera's current one, if that is still the one with the profile_id ``before``; whether it is."""


class AreaStore(Protocol):
    """Stores the areas that operators draw. Every method raises RedisUnavailable: try again later."""

    def version(self) -> str:
        """A text that is another one after every change."""

    def read(self) -> Mapping[str, CameraAreas]:
        """camera_id -> its areas, without damaged ones."""


class ReferenceStore(Protocol):
    """Stores how the cameras' pictures look when all is well. Every method raises RedisUnavailable: try again later."""

    def read_references(self) -> Mapping[str, Reference]:
        """camera_id -> reference, without damaged ones."""

    def put_reference(self, camera_id: str, reference: Reference) -> None:
        """Store a camera's reference in place of an earlier one."""

    def delete_references(self, camera_ids: Collection[str]) -> None:
        """Delete what is stored of cameras, at least one."""


class DeadLetterSink(Protocol):
    """Where rejected messages go."""

    def send(self, rejected: Rejected) -> None:
        """Queue a rejected message; does not wait."""

    def owed(self, partition: Partition) -> tuple[OwedLetter, ...]:
        """The queued messages of a partition that are neither stored nor lost yet."""

    def flush(self) -> None:
        """Wait a moment for the queued messages to be stored. Called before the partition's progress moves past them.

        Those that take longer are stored later, or lost, which is logged and counted: frames do not wait for them.
        """


class StreamError(OddsightError):
    """The running service, or something it depends on, failed."""


class BrokerUnavailable(StreamError):
    """Kafka cannot be reached or refuses the connection; the message names host, port, TLS or password as the cause."""

    retriable = True


class RedisUnavailable(StreamError):
    """Redis cannot be reached or refuses a command."""

    retriable = True


class StoreUnavailable(StreamError):
    """The store of evidence, a folder or a bucket, cannot be reached or refuses a request."""

    retriable = True


class ProgressUnusable(StreamError):
    """The stored progress of a partition is damaged, or was written by a newer version."""

    retriable = True


class Fenced(StreamError):
    """Another consumer moved this partition's progress in Redis; nothing was written."""

    retriable = True


class SourceUnavailable(StreamError):
    """A camera, file or folder delivers no frames."""

    retriable = True


class EmbeddedUnavailable(StreamError):
    """The demo's embedded Kafka or Redis is not installed or did not start."""


class DeliveryFailed(StreamError):
    """A receiver could not be told; the message names its host at most, since the rest of a URL may be a secret."""

    retriable = True


class MessageRefused(StreamError):
    """A receiver does not take this message, and would not take it later."""
