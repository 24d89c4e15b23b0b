"""Where a partition starts: at its stored progress, after a replay of the frames that its cameras' clips and states need."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import structlog

from deploy.clock import ClockState
from deploy.dwell import Map
from deploy.errors import MemoryCorrupt
from streamer.interfaces import (
    CameraState,
    FrameSource,
    OwedLetter,
    OwedLetters,
    Progress,
    ProgressStore,
    ProgressUnusable,
    Snapshot,
    Step,
    TopicVersion,
)
from streamer.pipeline.clips import ReplayStart
from streamer.types import Partition, QuotaUsed

log = structlog.get_logger("oddsight.partitions")

MAX_REPLAY_MESSAGES = 12_000
"""How far before the next offset a replay may begin: 60 frames of each of 100 cameras, doubled for cameras slower than others.
A camera whose frames lie farther back starts without history; else every restart would replay as long as it was silent."""

FORGET_AFTER_S = 30 * 86_400
"""A camera that has been offline for longer is forgotten; else all that ever sent would be kept."""


class StoredMemory(NamedTuple):
    """What the model remembered of a camera after the frame ``offset``; ``snapshot`` tells where its replay begins."""

    offset: int
    snapshot: Snapshot
    maps: Map


@dataclass(frozen=True, slots=True)
class StartPlan:
    """How to start a partition: at its stored progress, after a replay of the frames its cameras' clips and states need."""

    next_offset: int
    """First message whose effects are not stored."""
    end: int
    """The offset that the next message gets which Kafka receives."""
    read_from: int
    """First message to read; before ``next_offset`` if frames are to be replayed."""
    replay_from: Mapping[str, int]
    """camera_id -> first frame to replay, for cameras that need any."""
    cameras: Mapping[str, CameraState]
    learners: Mapping[str, Snapshot]
    lost: int
    """Number of messages that Kafka deleted before they were read."""
    starts_over: bool
    """Whether the topic was deleted and created again, so that nothing stored of it counts any more."""
    damaged: Sequence[str] = ()
    """See :class:`~streamer.interfaces.Progress`."""
    replay_clocks: Mapping[str, ClockState] = field(default_factory=dict)
    """camera_id -> its clock before the first frame to replay, where that is known."""
    quota_used: Mapping[str, QuotaUsed] = field(default_factory=dict)
    """camera_id -> how much of its quota was used up where it begins."""
    letters: Sequence[OwedLetter] = ()
    """Dead letters that were still to be stored."""
    memories: Mapping[str, StoredMemory] = field(default_factory=dict)
    """Those of whose cameras only the frames since are replayed."""

    def fallbacks(self) -> dict[str, ReplayStart]:
        """camera_id -> where a replay without the memory begins, of cameras with one."""
        states = {name: self.cameras[name] for name, stored in self.memories.items()}
        starts = {
            name: ReplayStart(each.clip_from, each.clip_clock) for name, each in states.items() if each.clip_from is not None
        }
        return {name: start for name, start in starts.items() if start.offset < self.replay_from[name]}


def plan_start(
    source: FrameSource,
    store: ProgressStore,
    partition: Partition,
    start: str,
    *,
    out_of_range: bool = False,
    forget_before_ms: int = 0,
    unpack_memory: Callable[[Snapshot], Map | None] = lambda _: None,
) -> StartPlan:
    """Read a partition's progress, correct it if there is none or Kafka does not have its offset, and write it again.

    ``start`` (``earliest`` or ``latest``) is where a group without progress begins; partitions that came to the topic after the
    group are read from their beginning. So is a topic that was deleted and created again, and everything starts over: it has
    another id, or Kafka refused the offset (``out_of_range``) and it lies beyond the topic's end. Cameras that went offline
    before ``forget_before_ms``, a wall clock time, are forgotten. ``unpack_memory`` gives the maps of a stored memory, None if
    they are of no use, and raises MemoryCorrupt if they are damaged; what is stored of such memories is deleted.

    Raises:
        Fenced: another consumer stored progress at the same time; try again.
        RedisUnavailable, BrokerUnavailable: try again later.
        ProgressUnusable: somebody must mend the stored progress.
    """
    progress, topic = store.read(partition), source.topic(partition)
    first, end = source.bounds(partition)
    stored, lost = progress.next_offset, 0
    beyond_end = out_of_range and stored is not None and stored > end
    starts_over = beyond_end or (progress.topic is not None and progress.topic.is_other(topic))
    if stored is None:
        next_offset = _first_offset(source, store, partition, start, topic)
    elif starts_over:
        log.error("the topic was deleted and created again, starting over", partition=str(partition), offset=stored, end=end)
        next_offset = first
    else:
        next_offset = max(stored, first)
        lost = next_offset - stored
    if lost:
        log.error("Kafka deleted messages before they were read", partition=str(partition), messages=lost)
    forgotten = (
        [] if starts_over else [name for name, state in progress.cameras.items() if is_long_offline(state, forget_before_ms)]
    )
    version = _version_to_store(progress.topic, topic, starts_over=starts_over)
    memories, damaged = ({}, []) if starts_over else _unpacked(progress, first, next_offset, unpack_memory)
    step = Step(partition, stored, next_offset, forgotten=forgotten, topic=version)
    step = _corrected(progress, step, memories, starts_over=starts_over)
    store.apply(step)  # also if nothing is corrected: progress that can be read does not mean that steps can be written
    if forgotten:
        log.info("cameras are forgotten that have long been offline", partition=str(partition), cameras=forgotten)
    cameras = {name: state for name, state in {**progress.cameras, **step.cameras}.items() if name not in forgotten}
    learners = {name: each for name, each in progress.learners.items() if not starts_over and name not in forgotten}
    memories = {name: each for name, each in memories.items() if name in cameras}
    all_damaged = (*progress.damaged, *damaged)
    plan = StartPlan(next_offset, end, next_offset, {}, cameras, learners, lost, starts_over, all_damaged, memories=memories)
    return _with_replay(plan if starts_over else replace(plan, letters=progress.letters.letters), first)


def _corrected(progress: Progress, step: Step, memories: Collection[str], *, starts_over: bool) -> Step:
    """The first step, with what is wrong in the progress: in a new topic all of it, else the memories but for these."""
    step = replace(step, memories=dict.fromkeys(progress.memories.keys() - set(memories)))
    if not starts_over:
        return step
    states = dict.fromkeys(progress.cameras, CameraState())
    return replace(step, cameras=states, learners=dict.fromkeys(progress.learners), letters=OwedLetters())


def _first_offset(source: FrameSource, store: ProgressStore, partition: Partition, start: str, topic: TopicVersion) -> int:
    """Where the group begins in a partition of which it has no progress."""
    first, end = source.bounds(partition)
    if (committed := source.committed(partition)) is not None:
        return max(committed, first)
    known = _known_topic(store, partition.topic)
    if known is not None and (known.is_other(topic) or partition.number >= known.partitions):
        log.info("the partition came after the group, reading it from its beginning", partition=str(partition))
        return first
    return first if start == "earliest" else end


def _known_topic(store: ProgressStore, topic: str) -> TopicVersion | None:
    """The topic as it was when the group came to it: stored with its first partition."""
    try:
        return store.read(Partition(topic, 0)).topic
    except ProgressUnusable:  # that partition waits until it is mended; others need not
        return None


def _version_to_store(known: TopicVersion | None, topic: TopicVersion, *, starts_over: bool) -> TopicVersion:
    if starts_over:  # the group was there before this topic, so that all its partitions came later
        return topic.model_copy(update={"partitions": 0})
    if known is None:
        return topic
    return known if known.topic_id is not None else known.model_copy(update={"topic_id": topic.topic_id})


class _Replay(NamedTuple):
    """The first frame of a camera to replay, and its clock and quota before it."""

    offset: int
    clock: ClockState | None
    quota_used: QuotaUsed


def _unpacked(
    progress: Progress, first: int, next_offset: int, unpack: Callable[[Snapshot], Map | None]
) -> tuple[dict[str, StoredMemory], list[str]]:
    """The memories that can be used, and the names of damaged ones; ``first``: the first offset that Kafka still has."""
    memories: dict[str, StoredMemory] = {}
    damaged: list[str] = []
    for name, snapshot in progress.memories.items():
        offset = snapshot.offset
        if offset is None or not _is_usable(progress, name, snapshot, offset, max(first, next_offset - MAX_REPLAY_MESSAGES)):
            continue
        try:
            maps = unpack(snapshot)
        except MemoryCorrupt:
            damaged.append(f"memory:{name}")
        else:
            memories |= {} if maps is None else {name: StoredMemory(offset, snapshot, maps)}
    return memories, damaged


def _is_usable(progress: Progress, name: str, memory: Snapshot, offset: int, oldest: int) -> bool:
    """Whether a memory after the frame ``offset`` belongs to the camera's newest clip, and frames from it on to its replay."""
    state, learner = progress.cameras.get(name), progress.learners.get(name)
    if state is None or state.clip_from is None or memory.clip_from is None or progress.next_offset is None:
        return False
    # Else a new clip has begun, and what was before it counts no more.
    is_of_clip = state.clip_from <= offset < progress.next_offset and oldest <= memory.clip_from <= offset
    # A learner sees the states after its own newest frame.
    return is_of_clip and (learner is None or (learner.offset is not None and offset <= learner.offset))


def _with_replay(plan: StartPlan, first: int) -> StartPlan:
    """The plan with the older frames that its cameras need; ``first``: the first offset that Kafka still has."""
    replay = _replay(plan, first)
    replay_from = {name: each.offset for name, each in replay.items()}
    quota_used = {name: state.quota_used for name, state in plan.cameras.items() if state.quota_used != QuotaUsed()}
    return replace(
        plan,
        read_from=min(replay_from.values(), default=plan.next_offset),
        replay_from=replay_from,
        replay_clocks={name: each.clock for name, each in replay.items() if each.clock is not None},
        quota_used=quota_used | {name: each.quota_used for name, each in replay.items()},
    )


def _replay(plan: StartPlan, first: int) -> dict[str, _Replay]:
    """What to replay of each camera; a learner goes on from its snapshot, so the frames since then are read again."""
    next_offset = plan.next_offset
    oldest = next_offset - MAX_REPLAY_MESSAGES
    replay: dict[str, _Replay] = {}
    all_needed: list[tuple[str, CameraState | Snapshot]] = [*plan.cameras.items(), *plan.learners.items()]
    all_needed = [(name, stored) for name, stored in all_needed if name not in plan.memories]
    all_needed += [(name, stored.snapshot) for name, stored in plan.memories.items()]
    for name, stored in all_needed:
        offset = stored.clip_from
        if offset is None or offset < oldest or max(first, offset) >= next_offset:
            continue
        if name not in replay or offset < replay[name].offset:
            replay[name] = _Replay(max(first, offset), stored.clip_clock, stored.quota_used)
    return replay


def is_long_offline(state: CameraState, before_ms: int) -> bool:
    """Whether a camera is to be forgotten: it went offline before ``before_ms``, a wall clock time."""
    # An open event would never end; one of a camera that is offline has ended.
    return state.event is None and state.health.problem == "offline" and state.health.since_ms < before_ms
