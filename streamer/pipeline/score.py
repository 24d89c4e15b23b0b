"""Micro-batches to scores: what a camera's next clip needs of those before is kept where the engine has it at hand.

An engine that keeps frames and states on its device is given each camera's newest frame alone; any other is given whole clips,
and the states with them. A camera that the device has no place for is scored in the second way.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple
from weakref import WeakSet

import numpy as np
import structlog
from numpy.typing import NDArray

from deploy.engine import Clips, Engine, Frames, NewestScores, ResidentEngine, Scores, State, resident
from deploy.errors import backend_errors
from deploy.handles import FrameRow
from deploy.image import AnyFrame, DeviceFrame, Frame
from deploy.validation.admission import Admitted
from streamer.monitoring import Metrics
from streamer.types import CameraMemory, Clip, DeviceRows

log = structlog.get_logger("oddsight.score")

_ROUNDING = 1e-3
"""Of a score: heat maps are wanted from a little below, whichever way a score and its scale are rounded."""


class Scored(NamedTuple):
    """What is said of one clip, in units of the reference's scores."""

    score: float
    heatmap: NDArray[np.float32]
    """float32 (h, w); may be NaN where nobody looks at it."""


class Scorer:
    """Scores the clips of each camera in their order.

    ``heatmaps_from``: nobody looks at heat maps of clips that score less, in units of the reference's scores.
    """

    def __init__(self, admitted: Admitted, heatmaps_from: float, metrics: Metrics) -> None:
        self._engine, self._scale, self._metrics = admitted.engine, admitted.score_scale, metrics
        self._engine.heatmaps_from = self._scale * (heatmaps_from - _ROUNDING * abs(heatmaps_from))
        self._told = False
        keeper = resident(self._engine)
        self._device = None if keeper is None else _Device(keeper)
        self.carries_state = self._engine.spec.state_shape is not None
        """Whether clips that counted before must be scored again to rebuild what the model remembers."""
        self.one_by_one = self.carries_state or (keeper is not None and keeper.spec.length > 1)
        """Whether two clips with one memory may not share a call: the second needs what the first leaves."""

    def score(self, clips: Sequence[Clip]) -> list[Scored]:
        """Score clips, at most the engine's ``max_clips``; changes the memories of those that were scored.

        Raises:
            EngineFailed, EngineClosed: see :meth:`deploy.engine.Engine.score`; memories are as they were, or their clips scored.
        """
        rooms = [self._device is not None and self._device.has_room(clip.memory) for clip in clips]
        kept, whole = ([clip for clip, room in zip(clips, rooms, strict=True) if room is wanted] for wanted in (True, False))
        found = {True: self._score_kept(kept), False: self._score_whole(whole)}
        return [next(found[room]) for room in rooms]

    def _score_kept(self, clips: Sequence[Clip]) -> Iterator[Scored]:
        return self._scored(self._device.score(clips)) if self._device is not None and clips else iter(())

    def _score_whole(self, clips: Sequence[Clip]) -> Iterator[Scored]:
        if clips and self._device is not None:
            self._tell_no_room(len(clips))
        return self._scored(_score_whole(self._engine, clips)) if clips else iter(())

    def _scored(self, scores: Scores | NewestScores) -> Iterator[Scored]:
        for score, heatmap in zip(scores.score, scores.heatmap, strict=True):
            yield Scored(float(score) / self._scale, heatmap)

    def _tell_no_room(self, n_clips: int) -> None:
        if not self._told:
            self._told = True
            log.warning(
                "more cameras than stay on the device: the others' clips go up whole; raise engine.gpu_cached_cameras",
                gpu_cached_cameras=self._engine.gpu_cached_cameras,
            )
        self._metrics.gpu_cache_misses.inc(n_clips)


class _Device:
    """The cameras whose frames and states stay on the engine's device, each for as long as its memory lives."""

    def __init__(self, engine: ResidentEngine) -> None:
        self._engine = engine
        self._memories: WeakSet[CameraMemory] = WeakSet()

    def has_room(self, memory: CameraMemory) -> bool:
        """Whether clips with this memory are scored here."""
        if memory in self._memories:
            return True
        if memory.state is not None or len(self._memories) >= self._engine.gpu_cached_cameras:
            return False
        self._memories.add(memory)
        return True

    def score(self, clips: Sequence[Clip]) -> NewestScores:
        """Score clips by their newest frames; those before go up only where a memory is new."""
        known = self._known(clips)
        newest = _together([clip.frames[-1] for clip in clips])
        found = self._engine.score_newest(newest, [kept.frames for kept in known], [kept.state for kept in known])
        for clip, kept, frame, state in zip(clips, known, found.frames, found.states, strict=True):
            clip.memory.device_rows = DeviceRows((*kept.frames, frame)[1:], state)
        return found

    def _known(self, clips: Sequence[Clip]) -> list[DeviceRows]:
        rows = iter(self._upload([frame for clip in clips if clip.memory.device_rows is None for frame in clip.frames[:-1]]))
        return [clip.memory.device_rows or DeviceRows(tuple(next(rows) for _ in clip.frames[:-1]), None) for clip in clips]

    def _upload(self, frames: Sequence[AnyFrame]) -> list[FrameRow]:
        size = self._engine.max_clips
        calls = [frames[begin : begin + size] for begin in range(0, len(frames), size)]
        return [row for call in calls for row in self._engine.upload(_together(call))]


def _together(frames: Sequence[AnyFrame]) -> Frames | list[DeviceFrame]:
    """A decoder gives frames of one kind only."""
    on_device = [frame for frame in frames if isinstance(frame, DeviceFrame)]
    return on_device or np.stack([frame for frame in frames if not isinstance(frame, DeviceFrame)])


def _on_host(frame: AnyFrame) -> Frame:
    if not isinstance(frame, DeviceFrame):
        return frame
    with backend_errors("a frame cannot be copied from the device"):
        return frame.on_host()


def _score_whole(engine: Engine, clips: Sequence[Clip]) -> Scores:
    scores = engine.score(_clip_array(clips), _state_array(engine, clips))
    if scores.state is not None:
        for clip, state in zip(clips, scores.state, strict=True):
            # A view would keep the whole micro-batch's states in memory until this camera's next frame.
            clip.memory.state = state.copy()
    return scores


def _clip_array(clips: Sequence[Clip]) -> Clips:
    """uint8 (N, T, H, W, C) in one copy."""
    frames = [_on_host(frame) for clip in clips for frame in clip.frames]
    return np.stack(frames).reshape(len(clips), -1, *frames[0].shape)


def _state_array(engine: Engine, clips: Sequence[Clip]) -> State | None:
    """float32 (N, C, h, w): what the cameras' frames before have left; None for a model without a state."""
    if engine.spec.state_shape is None:
        return None
    nothing = np.zeros(engine.spec.state_shape, np.float32)
    return np.stack([nothing if clip.memory.state is None else clip.memory.state for clip in clips])
