"""Cameras that send nothing: after a while they are reported as offline, then put away, and in the end forgotten.

Nor does another frame of theirs end the minute of scores that was being summed up; it is told as it is after a minute.

Put away is what is held of a camera in memory: its next frame starts a new clip, as after any long gap. What Redis holds of it
stays until the camera is forgotten: after 30 days, or when another camera needs the room.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import structlog

from deploy.health import go_offline
from streamer.interfaces import CameraState, Fields, FrameSource, Snapshot, Step
from streamer.minutes import MINUTE_MS
from streamer.pipeline.adaptation import CameraAdaptation
from streamer.pipeline.clips import ClipBuffer
from streamer.pipeline.decide import Decider
from streamer.pipeline.health import CameraHealth
from streamer.pipeline.learning import CameraLearning
from streamer.pipeline.partitions import ActivePartition, Pending
from streamer.pipeline.profiles import CameraProfiles
from streamer.pipeline.registry import CameraRegistry
from streamer.pipeline.start_plan import FORGET_AFTER_S, is_long_offline
from streamer.types import Event, FrameInfo, Partition, QuotaUsed

log = structlog.get_logger("oddsight.silent")

_MOST_LAG = 1_000  # messages of a partition, beyond which the service is behind
_MOST_AT_ONCE = 1_000  # cameras to be forgotten: Redis does nothing else meanwhile
_MOST_LOGGED = 20  # names of cameras

Silences = Mapping[Partition, Mapping[str, float]]
"""Partition -> camera_id -> seconds without a frame; no cameras of partitions of which nothing can be said."""


class CameraMemories(Protocol):
    """Whatever holds something of each camera."""

    def forget(self, camera_ids: Collection[str]) -> None:
        """Drop what is held of these cameras, if anything is."""


@dataclass(slots=True)
class _Effects:
    """What becomes of a partition's silent cameras."""

    states: dict[str, CameraState] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    health: list[Fields] = field(default_factory=list)
    minutes: list[tuple[str, Fields]] = field(default_factory=list)
    learners: dict[str, Snapshot] = field(default_factory=dict)
    memories: dict[str, None] = field(default_factory=dict)
    forgotten: list[str] = field(default_factory=list)

    def step(self, active: ActivePartition) -> Step | None:
        """The step that writes them, which leaves the offset as it is; None if there are none."""
        if not (self.states or self.forgotten or self.learners or self.memories):
            return None
        offset, events = active.stored_offset, [event.fields() for event in self.events]
        return Step(
            active.partition,
            offset,
            offset,
            cameras=self.states,
            events=events,
            health=self.health,
            minutes=self.minutes,
            learners=self.learners,
            memories=self.memories,
            forgotten=self.forgotten,
        )


@dataclass(slots=True, kw_only=True, eq=False)
class SilentCameras:
    """Finds the cameras from which no frame has come for a while."""

    source: FrameSource
    registry: CameraRegistry
    clips: ClipBuffer
    memories: Sequence[CameraMemories]
    """Of the whole consumer, apart from clips and learners."""
    learning: CameraLearning
    adaptation: CameraAdaptation
    camera_health: CameraHealth
    profiles: CameraProfiles
    decider: Decider
    count_events: Callable[[Sequence[Event]], None]
    clock_s: Callable[[], float]
    wall_clock_s: Callable[[], float]
    _left_s: dict[str, float] = field(default_factory=dict, init=False)
    """camera_id -> when its partition was dropped, of cameras that have not come back."""

    def poll(self, partitions: Iterable[ActivePartition]) -> Iterator[tuple[ActivePartition, Pending]]:
        """About once a second: put idle cameras away, and yield what is to be written of silent ones.

        Raises BrokerUnavailable.
        """
        actives = list(partitions)
        silent_s = {active.partition: self._silences(active) for active in actives}
        self._put_away(silent_s)
        displaced = self._displaced(silent_s)
        for active in actives:
            if active.pending is not None or active.is_held:  # perhaps only since a step of these was tried
                continue
            effects = _Effects()
            for camera_id, each_s in silent_s[active.partition].items():
                self._judge(active, camera_id, each_s, effects, is_displaced=(active.partition, camera_id) in displaced)
            if (step := effects.step(active)) is not None:
                yield active, Pending(step, partial(self._end, active, effects))

    def _silences(self, active: ActivePartition) -> dict[str, float]:
        if active.pending is not None or active.is_held:
            return {}
        # While the service is behind, frames of a camera may wait in Kafka.
        if (self.source.lag(active.partition, active.stored_offset) or 0) >= _MOST_LAG:
            return {}
        return {camera_id: self._silence_s(active, camera_id) for camera_id in sorted(self.registry.cameras(active.partition))}

    def _silence_s(self, active: ActivePartition, camera_id: str) -> float:
        now_s = self.clock_s()
        if (seen_s := active.seen_s.get(camera_id)) is not None:
            return now_s - seen_s
        health, since_s = active.cameras.get(camera_id, CameraState()).health, now_s - active.started_s
        # One that went offline before the start has been silent for longer.
        return max(since_s, self.wall_clock_s() - health.since_ms / 1000) if health.problem == "offline" else since_s

    def _is_idle(self, silent_s: float) -> bool:
        return silent_s >= self.registry.idle_after_s

    def _put_away(self, silent_s: Silences) -> None:
        """Drop what is held of idle cameras, and after the same time of those whose partition was given to another consumer."""
        now_s, awake, idle = self.clock_s(), set[str](), set[str]()
        for partition, cameras in silent_s.items():
            idle_here = {camera_id for camera_id, each_s in cameras.items() if self._is_idle(each_s)}
            self.clips.forget_cameras(partition, idle_here)
            awake |= self.registry.cameras(partition) - idle_here
            idle |= idle_here
        self._left_s |= dict.fromkeys(self.registry.take_left(), now_s)
        gone = (idle | {camera_id for camera_id, at_s in self._left_s.items() if self._is_idle(now_s - at_s)}) - awake
        self._left_s = {name: at_s for name, at_s in self._left_s.items() if name not in awake and name not in gone}
        for memories in self.memories:
            memories.forget(gone)

    def _displaced(self, silent_s: Silences) -> set[tuple[Partition, str]]:
        """The cameras that have been idle for longest, as many as there are too many."""
        idle = [
            (each_s, (partition, camera_id))
            for partition, cameras in silent_s.items()
            for camera_id, each_s in cameras.items()
            if self._is_idle(each_s)
        ]
        return {where for _, where in sorted(idle, reverse=True)[: min(self.registry.take_shortage(), _MOST_AT_ONCE)]}

    def _judge(self, active: ActivePartition, camera_id: str, silent_s: float, effects: _Effects, *, is_displaced: bool) -> None:
        """Add what becomes of one camera."""
        state, now_ms = active.cameras.get(camera_id), round(self.wall_clock_s() * 1000)
        if state is not None and state.minute is not None and silent_s * 1000 >= MINUTE_MS:
            effects.minutes.append((camera_id, state.minute.fields()))
            state = effects.states[camera_id] = state.model_copy(update={"minute": None})
        if state is not None and self.camera_health.is_offline(state.health, silent_s):
            health, changes = go_offline(state.health, now_ms - round(silent_s * 1000))
            effects.health += self.camera_health.entries(FrameInfo(active.partition, -1, camera_id, now_ms, 0, 0), changes)
            state = effects.states[camera_id] = self._without_event(active, camera_id, state, effects, health=health)
        is_idle = self._is_idle(silent_s)
        is_unwanted = is_displaced or (is_idle and not self.registry.is_allowed(camera_id))
        if is_unwanted or (state is not None and is_long_offline(state, now_ms - FORGET_AFTER_S * 1000)):
            if state is not None:
                self._without_event(active, camera_id, state, effects)
            effects.states.pop(camera_id, None)
            effects.forgotten.append(camera_id)
        elif is_idle:
            self._shelve(active, camera_id, state, effects)

    def _without_event(
        self, active: ActivePartition, camera_id: str, state: CameraState, effects: _Effects, **changed: object
    ) -> CameraState:
        """The state with its event ended, and other changes."""
        if state.event is not None and state.event.announced_at_ms is not None:
            profile, offset = self.profiles.get(camera_id), active.stored_offset - 1
            learns = self.learning.learns(camera_id)
            end = self.decider.end_event(camera_id, profile, state.event, active.partition, offset, provisional=learns)
            effects.events.append(end)
        return state.model_copy(update={**changed, "event": None})

    def _shelve(self, active: ActivePartition, camera_id: str, state: CameraState | None, effects: _Effects) -> None:
        """Replace a camera's learner by its snapshot, and begin its quota anew. A restart needs no past frame of it either."""
        active.paces.pop(camera_id, None)
        active.forget_memories([camera_id])
        if camera_id in active.has_memory:
            effects.memories[camera_id] = None
        if (snapshot := self.learning.shelved(active.learners, camera_id)) is not None:
            effects.learners[camera_id] = snapshot
        update = {"clip_from": None, "clip_clock": None, "quota_used": QuotaUsed()}
        if state is not None and (shelved := state.model_copy(update=update)) != state:
            effects.states[camera_id] = shelved

    def _end(self, active: ActivePartition, effects: _Effects) -> None:
        """Do in memory what was written."""
        active.cameras.update(effects.states)
        active.learners.update(effects.learners)
        active.has_memory -= effects.memories.keys()
        self.count_events(effects.events)
        if not (forgotten := effects.forgotten):
            return
        active.forget(forgotten)
        self.registry.forget(active.partition, forgotten)
        self.adaptation.delete_footage(forgotten)
        self.camera_health.delete_references([camera_id for camera_id in forgotten if self.profiles.get(camera_id) is None])
        log.info("cameras are forgotten", partition=str(active.partition), count=len(forgotten), cameras=forgotten[:_MOST_LOGGED])
