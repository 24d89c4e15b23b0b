"""The partitions that this consumer works on: how they start, what is held of each, and how they stop.

Everything held of a partition can be rebuilt from Redis and Kafka. Whenever something goes wrong with one (revoked, fenced, a
learned profile not stored), it is dropped as a whole, its progress is read again, its clips and states are replayed, and it goes
on. Only while Redis is unavailable it is held: nothing more of it is read, and its step is sent again until it is known to be
written.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import structlog

from deploy.dwell import Map
from deploy.health import HealthProblem
from streamer.interfaces import (
    BrokerUnavailable,
    CameraState,
    ChangeKind,
    DeadLetterSink,
    Fenced,
    FrameSource,
    OwedLetter,
    OwedLetters,
    PartitionChange,
    ProgressStore,
    ProgressUnusable,
    RedisUnavailable,
    Snapshot,
    Step,
)
from streamer.monitoring import Health, Metrics
from streamer.pipeline.capture_times import CameraClocks
from streamer.pipeline.clips import ClipBuffer
from streamer.pipeline.learning import CameraLearning, Learners
from streamer.pipeline.pacing import CameraPace
from streamer.pipeline.registry import CameraRegistry
from streamer.pipeline.start_plan import FORGET_AFTER_S, StoredMemory, plan_start
from streamer.types import Clip, FrameInfo, FrameMessage, Outcome, Partition, Remembered, Shed

log = structlog.get_logger("oddsight.partitions")

_MOST_WAITING = 32  # messages of a partition
_RETRY_S = (0.25, 0.5, 1.0, 2.0)

T = TypeVar("T")

Result = Outcome | FrameInfo | Shed | None
"""What became of a message: a FrameInfo is the result of a frame whose image was rejected, None that of any other that was."""


class OffsetTracker(Generic[T]):
    """Which messages of a partition are done, in offset order.

    Frames finish out of order: rejected ones at once, scored ones with their micro-batch. Results come out in order and only
    up to the first unfinished message, so that a single number, ``next_offset``, describes the progress.
    """

    def __init__(self, next_offset: int) -> None:
        self.next_offset = next_offset
        """First offset whose result has not been taken out yet."""
        self._results: OrderedDict[int, list[T]] = OrderedDict()  # an empty list: not done yet

    def __len__(self) -> int:
        """How many messages have arrived whose result has not been taken out."""
        return len(self._results)

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

    def skip_to(self, offset: int) -> None:
        """No offset before ``offset`` holds a message that was not added; no effect while a result is outstanding."""
        if not self._results:
            self.next_offset = max(self.next_offset, offset)

    def take_finished(self) -> Iterator[T]:
        """Take out the results before the first unfinished message; ``next_offset`` advances with each one."""
        while self._results:
            offset, result = next(iter(self._results.items()))
            if not result:
                return
            del self._results[offset]
            self.next_offset = offset + 1
            yield result[0]


@dataclass(frozen=True, slots=True)
class Pending:
    """A step that is to be written, and what is to be done after that."""

    step: Step
    after: Callable[[], None]


@dataclass(slots=True, eq=False)
class ActivePartition:
    """All that is held of one started partition, apart from its cameras' clips."""

    partition: Partition
    stored_offset: int
    """In Redis: messages before it have been counted."""
    offsets: OffsetTracker[Result]
    cameras: dict[str, CameraState]
    learners: Learners
    clocks: CameraClocks
    started_s: float
    read_to: int
    """The first message that has not been read."""
    catch_up_to: int
    """Messages before it waited when the partition was started or went on: until they are done its cameras are not watched."""
    pending: Pending | None = None
    """Sent, but not known to be written."""
    is_held: bool = False
    """Whether nothing more of it is read until its step is written."""
    is_full: bool = False
    """Whether nothing more of it is read until less of it waits."""
    seen_s: dict[str, float] = field(default_factory=dict)
    """camera_id -> when its newest frame arrived, by the clock of the loop."""
    findings: dict[int, tuple[HealthProblem | None]] = field(default_factory=dict)
    """Offset -> what the frame showed of its camera's health, of those that were measured."""
    remembered: dict[str, Remembered] = field(default_factory=dict)
    """camera_id -> memory after its newest frame that was decided on, until a snapshot is taken of it."""
    frames_since_snapshot: dict[str, int] = field(default_factory=dict)
    """camera_id -> number of frames that were scored since the last snapshot of its memory, or a little more."""
    recalling: dict[str, StoredMemory] = field(default_factory=dict)
    """camera_id -> memory that was stored, until the frame is replayed that it is put in after."""
    has_memory: set[str] = field(default_factory=set)
    """Cameras of whose memories a snapshot is stored."""
    replay_from: Mapping[bytes, int] = field(default_factory=dict)
    """Message key -> first message before ``stored_offset`` that rebuilds the camera's clip and state."""
    paces: dict[str, CameraPace] = field(default_factory=dict)
    """camera_id -> how far its quota of frames is used up."""
    first_behind: set[int] = field(default_factory=set)
    """Offsets of frames with which their cameras begin anew, because frames before them were shed."""
    sheds: list[Shed] = field(default_factory=list)
    """Frames that were shed, for the next step."""
    replay_to: int = 0
    """The first message that is not read only to rebuild clips and states."""
    owed_letters: tuple[OwedLetter, ...] = ()
    """The dead letters that were still to be stored at the last step."""
    queued_replays: int = 0
    """How many clips of replayed frames wait for their micro-batch."""

    @property
    def is_replaying(self) -> bool:
        """Whether frames that were counted before are still being read or scored, so that new ones must wait."""
        return self.read_to < self.replay_to or self.queued_replays > 0

    def is_replay(self, offset: int) -> bool:
        """Whether the message was counted before and is read only to rebuild a clip or state."""
        return offset < self.stored_offset

    def forget_memories(self, camera_ids: Collection[str]) -> None:
        """Drop the memories of cameras that start anew, or are not watched any more."""
        for camera_id in camera_ids:
            for of_camera in (self.remembered, self.frames_since_snapshot, self.recalling):
                of_camera.pop(camera_id, None)

    def forget(self, camera_ids: Collection[str]) -> None:
        """Drop all that is held of cameras that are not watched any more."""
        self.forget_memories(camera_ids)
        self.has_memory.difference_update(camera_ids)
        for camera_id in camera_ids:
            for of_camera in (self.cameras, self.learners, self.seen_s, self.paces, self.clocks.read, self.clocks.replayed):
                of_camera.pop(camera_id, None)

    def letters_to_store(self, owed: tuple[OwedLetter, ...]) -> OwedLetters | None:
        """What the next step is to store of the dead letters that are still to be stored; None if that is known there."""
        before, self.owed_letters = self.owed_letters, owed
        return None if owed == before else OwedLetters(letters=owed)


@dataclass(frozen=True, slots=True)
class QueuedClip:
    """A clip of a partition that waits for its micro-batch."""

    active: ActivePartition
    clip: Clip
    queued_at_s: float


@dataclass(slots=True, eq=False)
class PartitionManager:
    """Starts assigned partitions from their stored progress, and drops those that are revoked or must be read again."""

    source: FrameSource
    store: ProgressStore
    clips: ClipBuffer
    start_at: str
    """Where a group without progress begins: ``earliest`` or ``latest``."""
    learning: CameraLearning
    unpack_memory: Callable[[Snapshot], Map | None]
    """See :func:`~streamer.pipeline.start_plan.plan_start`."""
    registry: CameraRegistry
    dead_letters: DeadLetterSink
    metrics: Metrics
    health: Health
    clock_s: Callable[[], float]
    wall_clock_s: Callable[[], float]
    active: dict[Partition, ActivePartition] = field(default_factory=dict)
    _waiting: dict[Partition, ChangeKind] = field(default_factory=dict)
    """Assigned partitions that are not started yet."""
    _retry_at_s: float = 0.0
    _failures: int = 0
    _unusable: dict[Partition, str] = field(default_factory=dict)
    """Waiting partitions whose stored progress somebody must mend, and what is wrong with it."""
    _look_again_at_s: float = 0.0

    def accept(self, message: FrameMessage) -> ActivePartition | None:
        """The active partition of a message that is needed; tracks the message if it is new."""
        active = self.active.get(message.partition)
        if active is None:
            return None
        active.read_to = message.offset + 1
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
        self._unusable.pop(change.partition, None)
        self.clips.forget(change.partition)
        self.registry.drop(change.partition)
        self.metrics.partitions.set(len(self.active))
        if change.kind == "revoked":
            self._waiting.pop(change.partition, None)
        else:
            self.source.pause(change.partition)
            self._waiting[change.partition] = change.kind

    def restart(self, partition: Partition) -> None:
        """Start a partition again from its stored progress."""
        self.apply(PartitionChange("assigned", partition))

    def limit_reading(self) -> None:
        """Read on only where few messages wait: one partition that is far behind must not keep the messages of others unread."""
        for active in self.active.values():
            is_full = len(active.offsets) >= _MOST_WAITING
            if not active.is_held and is_full != active.is_full:
                active.is_full = is_full
                (self.source.pause if is_full else self.source.resume)(active.partition)

    @property
    def is_backing_off(self) -> bool:
        """Whether the last attempt failed a moment ago."""
        return self.clock_s() < self._retry_at_s

    def hold_all(self, error: Exception) -> None:
        """A step may not have been written: read nothing more of any partition, and try again after a pause."""
        for active in self.active.values():
            if not active.is_held:
                self.source.pause(active.partition)
                active.is_held = True
        self._back_off(error)

    def go_on(self) -> None:
        """All steps are written: read on where partitions are held, and be ready if none waits or is replayed."""
        for active in self.active.values():
            if active.is_held:
                self.source.start(active.partition, active.read_to)
                with suppress(BrokerUnavailable):
                    active.catch_up_to = self.source.bounds(active.partition)[1]
                # That no frame arrived meanwhile says nothing of the cameras.
                active.is_held, active.is_full, active.started_s = False, False, self.clock_s()
                active.seen_s.clear()
                log.info("partition goes on from memory", partition=str(active.partition), offset=active.read_to)
        if self._waiting.keys() <= self._unusable.keys():
            self._failures = 0
            if self.source.joined:
                self.health.problem = next(iter(self._unusable.values()), None) or self._replaying() or self._behind()

    def _replaying(self) -> str | None:
        """How far the replays are, None if all are done. They end with what Kafka holds, whether a camera sends more or not."""
        cameras = sum(len(active.replay_from) for active in self.active.values())
        waiting = sum(len(active.replay_from) for active in self.active.values() if active.is_replaying)
        return f"replaying: {cameras - waiting} of {cameras} cameras are on watch" if waiting else None

    def _behind(self) -> str | None:
        """How many messages are still to be counted of those that waited when their partitions were started; None if none is."""
        behind = [active for active in self.active.values() if active.stored_offset < active.catch_up_to]
        # What Kafka says with the messages is right also where the embedded broker's end offsets are not.
        waiting = [active for active in behind if self.source.lag(active.partition, active.stored_offset) != 0]
        messages = sum(active.catch_up_to - active.stored_offset for active in waiting)
        return f"catching up: {messages} messages that waited are still to be looked at" if waiting else None

    def restart_all_later(self, error: Exception) -> None:
        """Redis, Kafka or the engine failed, and outcomes are lost: start all partitions again after a pause."""
        for partition in list(self.active):
            self.restart(partition)
        self._back_off(error)

    def start_waiting(self) -> None:
        """Start the waiting partitions unless the last attempt failed a moment ago."""
        if self.is_backing_off:
            return
        try:
            for partition in self._startable():
                self._start_or_set_aside(partition)
        except Fenced as error:
            log.info("another consumer stored progress first, reading it again", error=str(error))
        except (RedisUnavailable, BrokerUnavailable) as error:
            self._back_off(error)

    def _startable(self) -> list[Partition]:
        if self._unusable and self.clock_s() >= self._look_again_at_s:
            self._look_again_at_s = self.clock_s() + _RETRY_S[-1]
            return sorted(self._waiting)
        return sorted(self._waiting.keys() - self._unusable.keys())

    def _start_or_set_aside(self, partition: Partition) -> None:
        """Start a partition; one whose progress is unusable goes on waiting, which is no reason for others to wait."""
        try:
            self._start(partition, self._waiting[partition])
        except ProgressUnusable as error:
            if partition not in self._unusable:
                log.warning("a partition waits until its progress is mended", partition=str(partition), error=str(error))
            self._unusable[partition] = str(error)
        else:
            del self._waiting[partition]
            self._unusable.pop(partition, None)

    def _start(self, partition: Partition, reason: ChangeKind) -> None:
        before_ms = round((self.wall_clock_s() - FORGET_AFTER_S) * 1000)
        plan = plan_start(
            self.source,
            self.store,
            partition,
            self.start_at,
            out_of_range=reason == "out_of_range",
            forget_before_ms=before_ms,
            unpack_memory=self.unpack_memory,
        )
        self.metrics.lost.inc(plan.lost)
        self.metrics.damaged.inc(len(plan.damaged))
        if plan.damaged:
            log.error("what was stored of cameras cannot be read", partition=str(partition), fields=plan.damaged)
        self.metrics.recreated.inc(plan.starts_over)
        replay_from = {camera_id.encode(): offset for camera_id, offset in plan.replay_from.items()}
        tracker = OffsetTracker[Result](plan.next_offset)
        learners = self.learning.restore(plan.learners)
        self.registry.load(partition, {**plan.cameras, **learners})
        self.active[partition] = ActivePartition(
            partition,
            plan.next_offset,
            tracker,
            dict(plan.cameras),
            learners,
            CameraClocks.of(plan),
            self.clock_s(),
            plan.read_from,
            plan.end,
            recalling=dict(plan.memories),
            has_memory=set(plan.memories),
            replay_from=replay_from,
            replay_to=plan.next_offset,
            paces={camera_id: CameraPace(quota_used) for camera_id, quota_used in plan.quota_used.items()},
        )
        self._send_owed(self.active[partition], plan.letters)
        self.clips.expect(partition, plan.fallbacks())
        self.source.start(partition, plan.read_from)
        self.metrics.partitions.set(len(self.active))
        log.info("partition started", partition=str(partition), offset=plan.next_offset, replay_from=plan.read_from)

    def _send_owed(self, active: ActivePartition, letters: Sequence[OwedLetter]) -> None:
        """Send the dead letters that Kafka had not taken, if they do not wait in this process all the same."""
        active.owed_letters = tuple(letters)
        for letter in set(letters).difference(self.dead_letters.owed(active.partition)):
            self.dead_letters.send(letter.rejected(active.partition))

    def _back_off(self, error: Exception) -> None:
        # Nothing is consumed until progress can be read again; Kafka keeps the frames.
        pause_s = _RETRY_S[min(self._failures, len(_RETRY_S) - 1)]
        self._failures += 1
        self._retry_at_s = self.clock_s() + pause_s
        self.health.problem = str(error)
        log.warning("waiting before the next attempt", error=str(error), retry_in_s=pause_s)
