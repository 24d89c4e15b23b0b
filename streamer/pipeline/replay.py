"""Where a partition starts: at its stored progress, after a replay of the frames its cameras' clips and states need."""

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from streamer.interfaces import CameraState, FrameSource, ProgressStore, Step
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
    replay_from = _replay_from(cameras, first, next_offset)
    return StartPlan(next_offset, min(replay_from.values(), default=next_offset), replay_from, cameras, lost)


def _replay_from(cameras: Mapping[str, CameraState], first: int, next_offset: int) -> dict[str, int]:
    oldest = next_offset - MAX_REPLAY_MESSAGES
    needed = {name: state.clip_from for name, state in cameras.items() if state.clip_from is not None}
    available = {name: max(first, offset) for name, offset in needed.items() if offset >= oldest}
    return {name: offset for name, offset in available.items() if offset < next_offset}
