"""Where to begin a partition: from its stored progress, refilling the clips its cameras had under way."""

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from streamer.ports import CameraState, FrameSource, Progress, ProgressStore, Step
from streamer.records import Partition

log = structlog.get_logger("oddsight.refill")

MAX_REFILL_MESSAGES = 5_000
"""How far before the next offset a clip may reach. A camera silent for longer than that many messages of its partition starts
afresh instead of making every restart read the silence again."""


@dataclass(frozen=True, slots=True)
class StartPlan:
    """How to begin a partition."""

    next_offset: int
    """First message whose effects are not stored."""
    read_from: int
    """First message to read: a clip may need frames from before."""
    refill: frozenset[int]
    """Offsets of those frames."""
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
    refill = _refill(progress, max(first, next_offset - MAX_REFILL_MESSAGES), next_offset)
    return StartPlan(next_offset, min(refill, default=next_offset), refill, progress.cameras, lost)


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


def _refill(progress: Progress, earliest: int, next_offset: int) -> frozenset[int]:
    needed = (offset for state in progress.cameras.values() for offset in state.clip)
    return frozenset(offset for offset in needed if earliest <= offset < next_offset)
