"""The partitions that this consumer works on: how they start, what is held of each, and how they stop.

Everything held of a partition can be rebuilt from Redis and Kafka. Whenever something goes wrong with one (revoked, fenced,
Redis unavailable), it is dropped as a whole, its progress is read again, its clips and states are replayed, and it goes on.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import structlog

from deploy.health import HealthProblem
from streamer.interfaces import (
    BrokerUnavailable,
    CameraState,
    ChangeKind,
    Fenced,
    FrameSource,
    LearnerSnapshot,
    PartitionChange,
    ProgressStore,
    RedisUnavailable,
    Step,
)
from streamer.monitoring import Health, Metrics
from streamer.pipeline.clips import ClipBuffer
from streamer.pipeline.learning import CameraLearning, Learners
from streamer.types import FrameInfo, FrameMessage, Outcome, Partition

log = structlog.get_logger("oddsight.partitions")

MAX_REPLAY_MESSAGES = 12_000
"""How far before the next offset a replay may begin: 60 frames of each of 100 cameras, doubled for cameras slower than others.
A camera whose frames lie farther back starts without history; else every restart would replay as long as it was silent."""

_RETRY_S = (0.5, 1.0, 2.0, 5.0)

T = TypeVar("T")


class OffsetTracker(Generic[T]):
    """Which messages of a partition are done, in offset order.

    Frames finish out of order: rejected ones at once, scored ones with their micro-batch. Results come out in order and only
    up to the first unfinished message, so that a single number, ``next_offset``, describes the progress.
    """

    def __init__(self, next_offset: int) -> None:
        self.next_offset = next_offset
        """First offset whose result has not been taken out yet."""
        self._results: OrderedDict[int, list[T]] = OrderedDict()  # an empty list: not done yet

    def add(self, offset: int) -> None:
        """A message arrived. Offsets increase, else ValueError; not always by one, because compacted topics have holes."""
        newest = next(reversed(self._results), self.next_offset - 1)
        if offset <= newest:
            raise ValueError(f"offset {offset} does not follow {newest}")
        self._results[offset] = []

    def finish(self, offset: int, result: T) -> None:
        """The message at ``offset`` is done. Raises KeyError if it was not added or is done already."""
        if self._results[offset]:
            raise KeyError(offset)
        self._results[offset].append(result)

    def take_finished(self) -> Iterator[T]:
        """Take out the results before the first unfinished message; ``next_offset`` advances with each one."""
        while self._results:
            offset, result = next(iter(self._results.items()))
            if not result:
                return
            del self._results[offset]
            self.next_offset = offset + 1
            yield result[0]


@dataclass(slots=True, eq=False)
class ActivePartition:
    """All that is held of one started partition, apart from its cameras' clips."""

    partition: Partition
    stored_offset: int
    """In Redis: messages before it have been counted."""
    offsets: OffsetTracker[Outcome | FrameInfo | None]
    """A FrameInfo is the result of a frame whose image was rejected, None that of any other rejected message."""
    cameras: dict[str, CameraState]
    learners: Learners
    started_s: float
    seen_s: dict[str, float] = field(default_factory=dict)
    """camera_id -> when its newest frame arrived, by the clock of the loop."""
    findings: dict[int, tuple[HealthProblem | None]] = field(default_factory=dict)
    """Offset -> what the frame showed of its camera's health, of those that were measured."""
    replay_from: Mapping[bytes, int] = field(default_factory=dict)
    """Message key -> first message before ``stored_offset`` that rebuilds the camera's clip and state."""

    def is_replay(self, offset: int) -> bool:
        """Whether the message was counted before and is read only to rebuild a clip or state."""
        return offset < self.stored_offset


@dataclass(frozen=True, slots=True)
class StartPlan:
    """How to start a partition: at its stored progress, after a replay of the frames its cameras' clips and states need."""

    next_offset: int
    """First message whose effects are not stored."""
    read_from: int
    """First message to read; before ``next_offset`` if frames are to be replayed."""
    replay_from: Mapping[str, int]
    """camera_id -> first frame to replay, for cameras that need any."""
    cameras: Mapping[str, CameraState]
    learners: Mapping[str, LearnerSnapshot]
    lost: int
    """Number of messages that Kafka deleted before they were read."""


def plan_start(
    source: FrameSource, store: ProgressStore, partition: Partition, start: str, *, out_of_range: bool = False
) -> StartPlan:
    """Read a partition's progress, and correct it first if there is none or Kafka does not have its offset.

    ``start`` (``earliest`` or ``latest``) is where a group without progress begins. ``out_of_range``: Kafka refused the
    offset; if it lies beyond the topic's end, the topic was deleted and created again, and everything starts over.

    Raises:
        Fenced: another consumer stored progress at the same time; try again.
        RedisUnavailable, BrokerUnavailable: try again later.
    """
    progress = store.read(partition)
    first, end = source.bounds(partition)
    stored, lost = progress.next_offset, 0
    reset: dict[str, CameraState] = {}
    if stored is None:
        next_offset = first if start == "earliest" else end
        if (committed := source.committed(partition)) is not None:
            next_offset = max(committed, first)
    elif out_of_range and stored > end:
        log.error("progress lies beyond the topic's end, starting over", partition=str(partition), offset=stored, end=end)
        next_offset, reset = first, dict.fromkeys(progress.cameras, CameraState())
    else:
        next_offset = max(stored, first)
        lost = next_offset - stored
    if lost:
        log.error("Kafka deleted messages before they were read", partition=str(partition), messages=lost)
    if next_offset != stored:
        store.apply(Step(partition, stored, next_offset, reset))
    cameras = {**progress.cameras, **reset}
    oldest = next_offset - MAX_REPLAY_MESSAGES
    learners = {} if reset else progress.learners
    replay_from: dict[str, int] = {}
    # A learner goes on from its snapshot, so the frames since then are read again.
    needed = [(name, state.clip_from) for name, state in cameras.items()]
    needed += [(name, snapshot.clip_from) for name, snapshot in learners.items()]
    for name, offset in needed:
        if offset is not None and oldest <= offset and max(first, offset) < next_offset:
            replay_from[name] = min(max(first, offset), replay_from.get(name, next_offset))
    return StartPlan(
        next_offset,
        min(replay_from.values(), default=next_offset),
        replay_from,
        cameras,
        learners,
        lost,
    )


@dataclass(slots=True, eq=False)
class PartitionManager:
    """Starts assigned partitions from their stored progress, and drops those that are revoked or must be read again."""

    source: FrameSource
    store: ProgressStore
    clips: ClipBuffer
    start_at: str
    """Where a group without progress begins: ``earliest`` or ``latest``."""
    learning: CameraLearning
    metrics: Metrics
    health: Health
    clock_s: Callable[[], float]
    active: dict[Partition, ActivePartition] = field(default_factory=dict)
    _waiting: dict[Partition, ChangeKind] = field(default_factory=dict)
    """Assigned partitions that are not started yet."""
    _retry_at_s: float = 0.0
    _failures: int = 0

    def accept(self, message: FrameMessage) -> ActivePartition | None:
        """The active partition of a message that is needed; tracks the message if it is new."""
        active = self.active.get(message.partition)
        if active is None:
            return None
        if not active.is_replay(message.offset):
            active.offsets.add(message.offset)
            return active
        needed = message.key is not None and message.offset >= active.replay_from.get(message.key, active.stored_offset)
        return active if needed else None

    def holds(self, active: ActivePartition) -> bool:
        """Whether this is still the partition's active instance, not one that was dropped."""
        return self.active.get(active.partition) is active

    def apply(self, change: PartitionChange) -> None:
        """Drop the partition, and queue it for a new start unless it was revoked."""
        log.info("partition changed", partition=str(change.partition), change=change.kind)
        self.active.pop(change.partition, None)
        self.clips.forget(change.partition)
        self.metrics.partitions.set(len(self.active))
        if change.kind == "revoked":
            self._waiting.pop(change.partition, None)
        else:
            self.source.pause(change.partition)
            self._waiting[change.partition] = change.kind

    def restart(self, partition: Partition) -> None:
        """Start a partition again from its stored progress."""
        self.apply(PartitionChange("assigned", partition))

    def restart_all_later(self, error: Exception) -> None:
        """Redis or Kafka failed: start all partitions again after a pause."""
        for partition in list(self.active):
            self.restart(partition)
        self._back_off(error)

    def start_waiting(self) -> None:
        """Start the waiting partitions unless the last attempt failed a moment ago."""
        if self.clock_s() < self._retry_at_s:
            return
        try:
            for partition in sorted(self._waiting):
                self._start(partition, self._waiting[partition])
                del self._waiting[partition]
        except Fenced as error:
            log.info("another consumer stored progress first, reading it again", error=str(error))
        except (RedisUnavailable, BrokerUnavailable) as error:
            self._back_off(error)
        else:
            self._failures = 0
            if self.source.joined:
                self.health.problem = None

    def _start(self, partition: Partition, reason: ChangeKind) -> None:
        plan = plan_start(self.source, self.store, partition, self.start_at, out_of_range=reason == "out_of_range")
        self.metrics.lost.inc(plan.lost)
        replay_from = {camera_id.encode(): offset for camera_id, offset in plan.replay_from.items()}
        tracker = OffsetTracker[Outcome | FrameInfo | None](plan.next_offset)
        learners = self.learning.restore(plan.learners)
        self.active[partition] = ActivePartition(
            partition, plan.next_offset, tracker, dict(plan.cameras), learners, self.clock_s(), replay_from=replay_from
        )
        self.source.start(partition, plan.read_from)
        self.metrics.partitions.set(len(self.active))
        log.info("partition started", partition=str(partition), offset=plan.next_offset, replay_from=plan.read_from)

    def _back_off(self, error: Exception) -> None:
        # Nothing is consumed until progress can be read again; Kafka keeps the frames.
        pause_s = _RETRY_S[min(self._failures, len(_RETRY_S) - 1)]
        self._failures += 1
        self._retry_at_s = self.clock_s() + pause_s
        self.health.problem = str(error)
        log.warning("waiting before the next attempt", error=str(error), retry_in_s=pause_s)
