"""Where a partition starts: at its stored progress, after a replay of the frames that its cameras' clips and states need."""

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from streamer.interfaces import CameraState, FrameSource, Progress, ProgressStore, Step
from streamer.types import Partition

log = structlog.get_logger("oddsight.replay")

MAX_REPLAY_MESSAGES = 12_000
"""How far before the next offset a replay may begin: 60 frames of each of 100 cameras, doubled for cameras slower than others.
A camera whose frames lie farther back starts without history; else every restart would replay as long as it was silent."""


@dataclass(frozen=True, slots=True)
class StartPlan:
    """How to start a partition."""

    next_offset: int
    """First message whose effects are not stored."""
    read_from: int
    """First message to read; before ``next_offset`` if frames are to be replayed."""
    replay_from: Mapping[str, int]
    """camera_id -> first frame to replay, for cameras that need any."""
    cameras: Mapping[str, CameraState]
    lost: int
    """Number of messages that Kafka deleted before they were read."""


def plan_start(source: FrameSource, store: ProgressStore, partition: Partition, start: str) -> StartPlan:
    """Read a partition's progress. If there is none, or Kafka no longer has its offset, store a new one first.

    ``start`` (``earliest`` or ``latest``) is where a group without progress begins.

    Raises:
        Fenced: another consumer stored progress at the same time; try again.
        RedisUnavailable, BrokerUnavailable: try again later.
    """
    progress = store.read(partition)
    first, end = source.bounds(partition)
    if progress.next_offset is None:
        next_offset, lost = _first_offset(source.committed(partition), first, end, start), 0
    else:
        next_offset = max(progress.next_offset, first)
        lost = next_offset - progress.next_offset
    if lost:
        log.error("Kafka deleted messages before they were read", partition=str(partition), messages=lost)
    if next_offset != progress.next_offset:
        store.apply(Step(partition, progress.next_offset, next_offset))
    replay_from = _replay_from(progress, first, next_offset)
    return StartPlan(next_offset, min(replay_from.values(), default=next_offset), replay_from, progress.cameras, lost)


def start_over(source: FrameSource, store: ProgressStore, partition: Partition) -> None:
    """Reset a partition's progress if it lies beyond the topic's end: the topic was deleted and created again.

    Raises:
        Fenced, RedisUnavailable, BrokerUnavailable: try again later.
    """
    progress = store.read(partition)
    first, end = source.bounds(partition)
    if progress.next_offset is not None and progress.next_offset > end:
        offset = progress.next_offset
        log.error("progress lies beyond the topic's end, starting over", partition=str(partition), offset=offset, end=end)
        store.apply(Step(partition, offset, first, dict.fromkeys(progress.cameras, CameraState())))


def _first_offset(committed: int | None, first: int, end: int, start: str) -> int:
    """The group's committed offset, else what ``start`` says."""
    if committed is not None:
        return max(committed, first)
    return first if start == "earliest" else end


def _replay_from(progress: Progress, first: int, next_offset: int) -> dict[str, int]:
    oldest = next_offset - MAX_REPLAY_MESSAGES
    needed = {name: state.clip_from for name, state in progress.cameras.items() if state.clip_from is not None}
    available = {name: max(first, offset) for name, offset in needed.items() if offset >= oldest}
    return {name: offset for name, offset in available.items() if offset < next_offset}
