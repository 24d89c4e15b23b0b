"""Where a partition starts: at its stored progress, after a replay of the frames that its cameras' clips and states need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import structlog

from deploy.clock import ClockState
from streamer.interfaces import (
    CameraState,
    FrameSource,
    LearnerSnapshot,
    ProgressStore,
    ProgressUnusable,
    Step,
    TopicVersion,
)
from streamer.types import Partition, QuotaUsed

log = structlog.get_logger("oddsight.partitions")

MAX_REPLAY_MESSAGES = 12_000
"""How far before the next offset a replay may begin: 60 frames of each of 100 cameras, doubled for cameras slower than others.
A camera whose frames lie farther back starts without history; else every restart would replay as long as it was silent."""

FORGET_AFTER_S = 30 * 86_400
"""A camera that has been offline for longer is forgotten; else all that ever sent would be kept."""


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
    starts_over: bool
    """Whether the topic was deleted and created again, so that nothing stored of it counts any more."""
    damaged: Sequence[str] = ()
    """See :class:`~streamer.interfaces.Progress`."""
    replay_clocks: Mapping[str, ClockState] = field(default_factory=dict)
    """camera_id -> its clock before the first frame to replay, where that is known."""
    quota_used: Mapping[str, QuotaUsed] = field(default_factory=dict)
    """camera_id -> how much of its quota was used up where it begins."""


def plan_start(
    source: FrameSource,
    store: ProgressStore,
    partition: Partition,
    start: str,
    *,
    out_of_range: bool = False,
    forget_before_ms: int = 0,
) -> StartPlan:
    """Read a partition's progress, correct it if there is none or Kafka does not have its offset, and write it again.

    ``start`` (``earliest`` or ``latest``) is where a group without progress begins; partitions that came to the topic after the
    group are read from their beginning. So is a topic that was deleted and created again, and everything starts over: it has
    another id, or Kafka refused the offset (``out_of_range``) and it lies beyond the topic's end. Cameras that went offline
    before ``forget_before_ms``, a wall clock time, are forgotten.

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
    reset = dict.fromkeys(progress.cameras, CameraState()) if starts_over else {}
    forgotten = (
        [] if starts_over else [name for name, state in progress.cameras.items() if is_long_offline(state, forget_before_ms)]
    )
    # Also if there is nothing to correct: progress that can be read does not mean that steps can be written.
    version = _version_to_store(progress.topic, topic, starts_over=starts_over)
    no_learners = dict.fromkeys(progress.learners) if starts_over else {}
    store.apply(Step(partition, stored, next_offset, reset, learners=no_learners, forgotten=forgotten, topic=version))
    if forgotten:
        log.info("cameras are forgotten that have long been offline", partition=str(partition), cameras=forgotten)
    cameras = {name: state for name, state in {**progress.cameras, **reset}.items() if name not in forgotten}
    learners = {name: each for name, each in progress.learners.items() if not starts_over and name not in forgotten}
    plan = StartPlan(next_offset, next_offset, {}, cameras, learners, lost, starts_over, progress.damaged)
    return _with_replay(plan, first)


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


def _with_replay(plan: StartPlan, first: int) -> StartPlan:
    """The plan with the older frames that its cameras need; ``first``: the first offset that Kafka still has."""
    replay = _replay(plan.cameras, plan.learners, first, plan.next_offset)
    replay_from = {name: each.offset for name, each in replay.items()}
    quota_used = {name: state.quota_used for name, state in plan.cameras.items() if state.quota_used != QuotaUsed()}
    return replace(
        plan,
        read_from=min(replay_from.values(), default=plan.next_offset),
        replay_from=replay_from,
        replay_clocks={name: each.clock for name, each in replay.items() if each.clock is not None},
        quota_used=quota_used | {name: each.quota_used for name, each in replay.items()},
    )


def _replay(
    cameras: Mapping[str, CameraState], learners: Mapping[str, LearnerSnapshot], first: int, next_offset: int
) -> dict[str, _Replay]:
    """What to replay of each camera; a learner goes on from its snapshot, so the frames since then are read again."""
    oldest = next_offset - MAX_REPLAY_MESSAGES
    replay: dict[str, _Replay] = {}
    all_needed: list[tuple[str, CameraState | LearnerSnapshot]] = [*cameras.items(), *learners.items()]
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
