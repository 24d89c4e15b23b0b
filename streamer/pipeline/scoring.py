"""Micro-batches are scored on a thread of their own, while the loop reads, decodes and publishes.

One at a time: a camera's next clip needs the state that the one before leaves behind, and an engine uses all cores for one call.
While it is scored the clips in it, and their cameras' memories, belong to that thread; everything else belongs to the loop.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from typing import Final

from deploy.batching import MicroBatcher
from streamer.interfaces import CameraState
from streamer.monitoring import Metrics
from streamer.pipeline.learning import CameraLearning
from streamer.pipeline.partitions import ActivePartition, QueuedClip
from streamer.pipeline.profiles import CameraProfiles
from streamer.pipeline.score import CameraProfile, Scored, Scorer

_NO_STATE: Final = CameraState()

IsNeeded = Callable[[ActivePartition], bool]
"""Whether the clips of a partition are still needed, or it has been dropped meanwhile."""


class BatchScoring:
    """The clips that wait to be scored, and the micro-batch that ``executor`` scores, if there is one."""

    def __init__(
        self,
        batcher: MicroBatcher[QueuedClip],
        scorer: Scorer,
        profiles: CameraProfiles,
        learning: CameraLearning,
        executor: Executor,
        metrics: Metrics,
    ) -> None:
        self._batcher, self._scorer, self._profiles, self._learning = batcher, scorer, profiles, learning
        self._executor, self._metrics = executor, metrics
        self._batch: Sequence[QueuedClip] = ()
        self._future: Future[list[Scored]] | None = None

    def __len__(self) -> int:
        """How many clips wait for their micro-batch."""
        return len(self._batcher)

    @property
    def is_busy(self) -> bool:
        """Whether a micro-batch is being scored, or its results have not been taken."""
        return self._future is not None

    @property
    def is_done(self) -> bool:
        """Whether there are results to take."""
        return self._future is not None and self._future.done()

    def add(self, queued: QueuedClip) -> None:
        """Let a clip wait for its micro-batch."""
        self._batcher.add(queued, queued.queued_at_s, queued.clip.memory, may_share=not self._scorer.one_by_one)

    def nothing_due_s(self, now_s: float) -> float:
        """For how long nothing is to be done here: 0 while a micro-batch is scored, as it may be done at any moment."""
        deadline_s = self._batcher.deadline_s()
        return 0.0 if self.is_busy else math.inf if deadline_s is None else max(0.0, deadline_s - now_s)

    def start_due(self, now_s: float, is_needed: IsNeeded) -> bool:
        """Start the next micro-batch if it is due and nothing is being scored; whether it was due. See :meth:`start_next`."""
        return self._start(self._batcher.take(now_s), now_s, is_needed)

    def start_next(self, now_s: float, is_needed: IsNeeded) -> bool:
        """Start the next micro-batch, due or not, and without the clips that are not needed any more; False if no clip waits.

        Each is scored with the profile that its camera has now. Nothing else may be being scored.
        """
        return self._start(self._batcher.take_all(), now_s, is_needed)

    def _start(self, waiting: Sequence[QueuedClip], now_s: float, is_needed: IsNeeded) -> bool:
        if batch := [queued for queued in waiting if is_needed(queued.active)]:
            self._metrics.batch_clips.observe(len(batch))
            self._metrics.batch_wait_s.observe(now_s - batch[0].queued_at_s)
            camera_ids = [queued.clip.info.camera_id for queued in batch]
            profiles = [self._profiles.get(camera_id) for camera_id in camera_ids]
            keep_state = [
                self._learning.needs_state(camera_id, queued.active.cameras.get(camera_id, _NO_STATE).health)
                for camera_id, queued in zip(camera_ids, batch, strict=True)
            ]
            self._batch, self._future = batch, self._executor.submit(self._score, batch, profiles, keep_state)
        return bool(waiting)

    def wait(self, longest_s: float) -> None:
        """Wait until what is being scored is done, at most ``longest_s``; return at once if nothing is."""
        if self._future is not None:
            wait([self._future], longest_s)

    def take(self) -> Iterator[tuple[QueuedClip, Scored]]:
        """The results, for which it waits if need be; then the next micro-batch may be started.

        Raises EngineFailed, EngineClosed: none of the clips is scored, and their memories are as before.
        """
        future, batch = self._future, self._batch
        self._future, self._batch = None, ()
        return iter(()) if future is None else zip(batch, future.result(), strict=True)

    def _score(self, batch: Sequence[QueuedClip], profiles: Sequence[CameraProfile], keep_state: Sequence[bool]) -> list[Scored]:
        with self._metrics.score_s.time():
            return self._scorer.score([queued.clip for queued in batch], profiles, keep_state)
