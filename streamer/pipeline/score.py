"""Micro-batches to scores.

An engine that caches frames and states on its device receives only the newest frame of each camera. Clips of cameras that do
not fit into the cache, and all clips of other engines, are uploaded in full, with the states of a recurrent model.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple
from weakref import WeakSet

import numpy as np
import structlog
from numpy.typing import NDArray

from deploy.engine import CachingEngine, Engine, Frames, NewestScores, Scores, State, caching_engine
from deploy.errors import backend_errors
from deploy.image import AnyFrame, DeviceFrame, Frame
from streamer.monitoring import Metrics
from streamer.types import CameraMemory, Clip, DeviceHandles

log = structlog.get_logger("oddsight.score")

_SCORE_ROUNDING = 1e-3
"""Relative margin below ``heatmap_threshold``: scores and their scale are rounded, and no heat map of an event may be missing."""


class Scored(NamedTuple):
    """The result for one clip, in units of the reference engine's scores."""

    score: float
    heatmap: NDArray[np.float32]
    """float32 (h, w); may be NaN if the clip scores less than ``heatmap_threshold``."""


class Scorer:
    """Scores clips; those of one camera must come in order.

    ``score_scale``: the engine's scores divided by the reference's. ``heatmap_threshold``: heat maps are needed only of clips
    that score at least this, in units of the reference's scores.
    """

    def __init__(self, engine: Engine, score_scale: float, heatmap_threshold: float, metrics: Metrics) -> None:
        self._engine, self._scale, self._metrics = engine, score_scale, metrics
        engine.heatmap_threshold = score_scale * (heatmap_threshold - _SCORE_ROUNDING * abs(heatmap_threshold))
        caching = caching_engine(engine)
        self._cache = None if caching is None else _GpuCache(caching)
        self._warned = False
        self.carries_state = engine.spec.state_shape is not None
        """Whether replayed clips must be scored, to rebuild the model's state."""
        self.one_by_one = self.carries_state or (caching is not None and engine.spec.length > 1)
        """Whether a call may hold only one clip of a camera, since scoring a clip needs what the previous one leaves behind."""

    def score(self, clips: Sequence[Clip]) -> list[Scored]:
        """Score at most the engine's ``max_clips`` clips and update their memories.

        Raises:
            EngineFailed, EngineClosed: the memory of a clip that was not scored is unchanged.
        """
        use_cache = [self._cache is not None and self._cache.reserve(clip.memory) for clip in clips]
        cached = [clip for clip, use in zip(clips, use_cache, strict=True) if use]
        uploaded = [clip for clip, use in zip(clips, use_cache, strict=True) if not use]
        results = {}
        if cached and self._cache is not None:
            results[True] = self._scaled(self._cache.score(cached))
        if uploaded:
            if self._cache is not None:
                self._count_cache_misses(len(uploaded))
            results[False] = self._scaled(_score_whole_clips(self._engine, uploaded))
        return [next(results[use]) for use in use_cache]

    def _scaled(self, scores: Scores | NewestScores) -> Iterator[Scored]:
        for score, heatmap in zip(scores.score, scores.heatmap, strict=True):
            yield Scored(float(score) / self._scale, heatmap)

    def _count_cache_misses(self, n_clips: int) -> None:
        self._metrics.gpu_cache_misses.inc(n_clips)
        if not self._warned:
            self._warned = True
            log.warning(
                "GPU cache exhausted: clips of further cameras are uploaded in full; raise engine.gpu_cached_cameras",
                gpu_cached_cameras=self._engine.gpu_cached_cameras,
            )


class _GpuCache:
    """The cameras whose last frames and states are cached on the engine's device, each as long as its memory is referenced."""

    def __init__(self, engine: CachingEngine) -> None:
        self._engine = engine
        self._memories: WeakSet[CameraMemory] = WeakSet()

    def reserve(self, memory: CameraMemory) -> bool:
        """Whether clips with this memory are scored from the cache; reserves room for a new one if there is any."""
        if memory in self._memories:
            return True
        if memory.state is not None or len(self._memories) >= self._engine.gpu_cached_cameras:
            return False
        self._memories.add(memory)
        return True

    def score(self, clips: Sequence[Clip]) -> NewestScores:
        """Score clips by their newest frames; older frames are uploaded only for a new memory."""
        older = [frame for clip in clips if clip.memory.device_handles is None for frame in clip.frames[:-1]]
        size = self._engine.max_clips
        batches = (_one_kind(older[begin : begin + size]) for begin in range(0, len(older), size))
        uploaded = iter([handle for batch in batches for handle in self._engine.upload(batch)])
        handles = [
            clip.memory.device_handles or DeviceHandles(tuple(next(uploaded) for _ in clip.frames[:-1]), None) for clip in clips
        ]
        newest = _one_kind([clip.frames[-1] for clip in clips])
        scores = self._engine.score_newest(newest, [each.frames for each in handles], [each.state for each in handles])
        for clip, before, frame, state in zip(clips, handles, scores.frames, scores.states, strict=True):
            clip.memory.device_handles = DeviceHandles((*before.frames, frame)[1:], state)
        return scores


def _one_kind(frames: Sequence[AnyFrame]) -> Frames | list[DeviceFrame]:
    """Frames on the device as a list, frames on the host as one array; a decoder delivers only one of the two."""
    on_device = [frame for frame in frames if isinstance(frame, DeviceFrame)]
    return on_device or np.stack([frame for frame in frames if not isinstance(frame, DeviceFrame)])


def _score_whole_clips(engine: Engine, clips: Sequence[Clip]) -> Scores:
    frames = [_on_host(frame) for clip in clips for frame in clip.frames]
    scores = engine.score(np.stack(frames).reshape(len(clips), -1, *frames[0].shape), _state_array(engine, clips))
    if scores.state is not None:
        for clip, state in zip(clips, scores.state, strict=True):
            # A view would keep the whole micro-batch's states in memory until this camera's next frame.
            clip.memory.state = state.copy()
    return scores


def _on_host(frame: AnyFrame) -> Frame:
    if not isinstance(frame, DeviceFrame):
        return frame
    with backend_errors("a frame cannot be copied from the device"):
        return frame.on_host()


def _state_array(engine: Engine, clips: Sequence[Clip]) -> State | None:
    """float32 (N, C, h, w), zeros for cameras without a state; None for a model without a state."""
    if engine.spec.state_shape is None:
        return None
    zeros = np.zeros(engine.spec.state_shape, np.float32)
    return np.stack([zeros if clip.memory.state is None else clip.memory.state for clip in clips])
