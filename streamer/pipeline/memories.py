"""What the model remembers of each camera is stored every few frames, so that a restart scores few of them again.

A snapshot is taken of a frame whose effects are counted, and written in one step with them. A restart decodes the frame before
and the frame itself, which puts the state together again, exactly as it was, and scores the frames behind. Without a snapshot
that it can use it scores as many frames as the model needs to forget what was before.
"""

import zlib
from collections.abc import Collection, Iterator
from typing import Final

from deploy.dwell import Map
from deploy.memory import pack_memory, unpack_memory
from streamer.interfaces import Snapshot, Step
from streamer.pipeline.learning import CameraLearning
from streamer.pipeline.partitions import ActivePartition, PartitionManager, Pending
from streamer.pipeline.registry import CameraRegistry
from streamer.pipeline.score import Scorer
from streamer.pipeline.shedding import Taken, with_quotas
from streamer.types import Clip, Outcome, Remembered

MOST_SCORED_AGAIN: Final = 800
"""Frames of up to 200 cameras together that a restart scores again, at most; on average half as many, a few seconds' work."""
LEAST_FRAMES, MOST_FRAMES = 4, 48
"""Of a camera from one snapshot to the next. Each costs about 1 ms and 0.1 MB."""


def frames_between(cameras: int) -> int:
    """How many frames of each of so many cameras lie between two of its snapshots."""
    return min(max(MOST_SCORED_AGAIN // max(cameras, 1), LEAST_FRAMES), MOST_FRAMES)


class MemorySnapshots:
    """When snapshots of the cameras' memories are taken, and how a state is rebuilt from one."""

    def __init__(self, model_id: str, scorer: Scorer, registry: CameraRegistry, learning: CameraLearning) -> None:
        self._model_id, self._scorer, self._registry, self._learning = model_id, scorer, registry, learning

    def unpack(self, snapshot: Snapshot) -> Map | None:
        """The maps of a snapshot; None if this model, or this engine, cannot use it. Raises MemoryCorrupt."""
        grid = self._scorer.grid
        if grid is None or snapshot.model_id != self._model_id:
            return None
        return unpack_memory(snapshot.content, grid.shape)

    def recall(self, active: ActivePartition, clip: Clip) -> bool:
        """Take in a frame after a restart; whether it became part of the state, with what was stored, without being scored."""
        camera_id, offset = clip.info.camera_id, clip.info.offset
        stored = active.recalling.get(camera_id)
        if stored is not None and offset >= stored.offset:
            del active.recalling[camera_id]
        if stored is not None and offset <= stored.offset:
            self._scorer.recall(clip, stored.maps if offset == stored.offset else None)
            return True
        if active.is_replay(offset):
            self._count(active, camera_id)
        return False

    def add(self, active: ActivePartition, outcome: Outcome) -> None:
        """A frame is decided on: a snapshot may be taken of it until the next one is."""
        camera_id = outcome.info.camera_id
        if outcome.memory is None or self._scorer.grid is None:
            active.remembered.pop(camera_id, None)
            return
        active.remembered[camera_id] = outcome.memory
        self._count(active, camera_id)

    def due(self, active: ActivePartition) -> Taken:
        """What the next step is to store.

        Of a camera that is being learned memory and learner are stored together, and only then: so a restart goes on from both.
        """
        learners, every = self._learning.snapshots(active.learners), self._every()
        names = [
            name
            for name in active.remembered
            if learners.get(name) or (name not in active.learners and active.frames_since_snapshot[name] >= every)
        ]
        return Taken(learners, self._taken(active, names))

    def rest(self, partitions: PartitionManager) -> Iterator[tuple[ActivePartition, Pending]]:
        """What has changed since the last snapshots, before the service ends: then a restart scores no frame again."""
        for active in list(partitions.active.values()):
            if active.pending is not None or partitions.is_backing_off:
                continue
            learners, offset = self._learning.snapshots(active.learners, everyone=True), active.stored_offset
            taken = with_quotas(active, Taken(learners, self._taken(active, list(active.remembered))))
            if any(taken):
                yield active, Pending(Step(active.partition, offset, offset, **taken._asdict()), lambda: None)

    def _count(self, active: ActivePartition, camera_id: str) -> None:
        """A frame is scored, perhaps again."""
        before = active.frames_since_snapshot.get(camera_id)
        # Else the snapshots of cameras that are alike would always fall into the same step.
        before = zlib.crc32(camera_id.encode()) % self._every() if before is None else before
        active.frames_since_snapshot[camera_id] = before + 1

    def _taken(self, active: ActivePartition, camera_ids: Collection[str]) -> dict[str, Snapshot]:
        active.frames_since_snapshot |= dict.fromkeys(camera_ids, 0)
        active.has_memory.update(camera_ids)
        return {camera_id: self._snapshot(active.remembered.pop(camera_id)) for camera_id in camera_ids}

    def _snapshot(self, memory: Remembered) -> Snapshot:
        return Snapshot(
            clip_from=memory.since.offset,
            content=pack_memory(memory.maps),
            clip_clock=memory.since.clock_before,
            offset=memory.info.offset,
            model_id=self._model_id,
        )

    def _every(self) -> int:
        return frames_between(self._registry.count)
