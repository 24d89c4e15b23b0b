"""Where to begin a partition: from its stored progress, replaying the clips and states its cameras had under way."""

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from streamer.interfaces import CameraState, FrameSource, Progress, ProgressStore, Step
from streamer.types import Partition

log = structlog.get_logger("oddsight.replay")

MAX_REPLAY_MESSAGES = 12_000
"""How far before the next offset a replay may begin: 60 frames of each of 100 cameras, and as much again for cameras slower than
the others. One that would have to begin earlier starts afresh, or every restart would read again how long it was silent."""


@dataclass(frozen=True, slots=True)
class StartPlan:
    """How to begin a partition."""

    next_offset: int
    """First message whose effects are not stored."""
    read_from: int
    """First message to read: clips and states may need frames from before."""
    replay_from: Mapping[str, int]
    """The first of those frames, of each camera that needs any."""
    cameras: Mapping[str, CameraState]
    lost: int
    """Messages that Kafka deleted before they were read."""


def plan_start(source: FrameSource, store: ProgressStore, partition: Partition, start: str) -> StartPlan:
    """Read the progress of a partition; where there is none, or Kafka no longer has its offset, store where it begins.

    Raises:
        Fenced: another consumer stored a beginning at the same time; ask again.
        RedisUnavailable, BrokerUnavailable: try again later.
    """
    progress = store.read(partition)
    first, end = source.bounds(partition)
    lost = 0
    if progress.next_offset is None:
        next_offset = _first_offset(source.committed(partition), first, end, start)
        store.apply(Step(partition, None, next_offset))
    else:
        next_offset = max(progress.next_offset, first)
        lost = next_offset - progress.next_offset
    if lost:
        log.error("Kafka deleted messages before they were read", partition=str(partition), messages=lost)
        store.apply(Step(partition, progress.next_offset, next_offset))
    replay_from = _replay_from(progress, first, next_offset)
    return StartPlan(next_offset, min(replay_from.values(), default=next_offset), replay_from, progress.cameras, lost)


def start_over(source: FrameSource, store: ProgressStore, partition: Partition) -> None:
    """Forget a partition's progress where the topic ends before it: it was deleted and made again, its offsets began anew.

    Raises:
        Fenced, RedisUnavailable, BrokerUnavailable: try again later.
    """
    progress = store.read(partition)
    first, end = source.bounds(partition)
    if progress.next_offset is not None and progress.next_offset > end:
        log.error(
            "progress lies beyond the topic's end, starting over", partition=str(partition), offset=progress.next_offset, end=end
        )
        store.apply(Step(partition, progress.next_offset, first, dict.fromkeys(progress.cameras, CameraState())))


def _first_offset(committed: int | None, first: int, end: int, start: str) -> int:
    """The group's committed offset, else what the settings say."""
    if committed is not None:
        return max(committed, first)
    return first if start == "earliest" else end


def _replay_from(progress: Progress, first: int, next_offset: int) -> dict[str, int]:
    oldest = next_offset - MAX_REPLAY_MESSAGES
    needed = {name: state.clip_from for name, state in progress.cameras.items() if state.clip_from is not None}
    there = {name: max(first, clip_from) for name, clip_from in needed.items() if clip_from >= oldest}
    return {name: clip_from for name, clip_from in there.items() if clip_from < next_offset}
