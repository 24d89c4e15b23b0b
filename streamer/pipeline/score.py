"""Micro-batches to scores.

An engine that caches frames and states on its device receives only the newest frame of each camera. Clips of cameras that do
not fit into the cache, and all clips of other engines, are uploaded in full, with the states of a recurrent model.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple
from weakref import WeakSet

import numpy as np
import structlog
from numpy.typing import NDArray

from deploy.dwell import Map
from deploy.engine import CachingEngine, Engine, Frames, NewestScores, Profiles, Scores, State, caching_engine
from deploy.errors import EngineError, EngineFailed, backend_errors
from deploy.image import AnyFrame, DeviceFrame, Frame
from deploy.memory import followed_by, remembered, with_remembered
from deploy.profile import Profile, ProfileValues
from deploy.profile_learning import Channel, Normal
from deploy.score_maps import Grid, dwell_of, picture_of, state_maps
from streamer.monitoring import Metrics
from streamer.types import CameraMemory, Clip, DeviceHandles, DeviceProfile, FrameMessage, Outcome, Rejected, Remembered

log = structlog.get_logger("oddsight.score")

_SCORE_ROUNDING = 1e-3
"""Relative margin below ``heatmap_threshold``: scores and their scale are rounded, and no heat map of an event may be missing."""

CameraProfile = Profile | None
"""A camera's profile, or None for the bundle's default."""

_Pair = tuple[Clip, CameraProfile]
_EngineCall = Callable[[Sequence[Clip], Sequence[CameraProfile]], Scores | NewestScores]
"""Scores clips with profiles and updates the clips' memories, or raises EngineFailed and leaves them as they are."""


LoadEngine = Callable[[], tuple[Engine, float]]
"""Loads an engine; with its scores divided by the reference's."""


class Refused(NamedTuple):
    """A profile with which the engine failed, and how."""

    profile: Profile
    reason: str


class Scored(NamedTuple):
    """The result for one clip, in units of the reference engine's scores."""

    score: float
    heatmap: NDArray[np.float32]
    """float32 (h, w); may be NaN if the clip scores less than ``heatmap_threshold``."""
    profile: CameraProfile
    """What the clip was scored with."""
    refused: Refused | None = None
    """The camera's profile, if the default had to be used instead."""
    state: NDArray[np.float32] | None = None
    """The model's state after the clip, float32 (C, h, w), if it was asked for."""
    channel: Channel | None = None
    """What raised the score; None if it is too low to matter, or if the model's state does not show it or is on the device."""
    unscorable: str | None = None
    """Why the engine cannot score this clip; then there is no score."""
    picture: NDArray[np.uint8] | None = None
    """The newest frame reduced to places, see :mod:`deploy.dwell`; None where the channel would not be known either."""
    memory: Remembered | None = None
    """None where the channel would not be known either."""

    def outcome(self, clip: Clip) -> Outcome:
        """The result of the clip's newest frame."""
        return Outcome(
            clip.info,
            clip.clip_from,
            self.profile,
            self.score,
            self.heatmap,
            state=self.state,
            channel=self.channel,
            picture=self.picture,
            memory=self.memory,
            clip_clock=clip.clip_clock,
        )

    def rejected(self, clip: Clip) -> Rejected:
        """The clip's newest frame, if it is unscorable: its message by reference, for its content is no longer held."""
        info = clip.info
        message = FrameMessage(info.partition, info.offset, info.camera_id.encode(), None, (), info.captured_at_ms)
        return Rejected(message, "unscorable", self.unscorable or "")


class Scorer:
    """Scores clips; those of one camera must come in order.

    ``score_scale``: the engine's scores divided by the reference's. ``heatmap_threshold``: heat maps are needed only of clips
    that score at least this, in units of the reference's scores. ``default_profile``: the bundle's. ``grid``: of the maps in
    the model's states, None if they hold none. ``load_again``: loads the same engine from the bundle.
    """

    def __init__(
        self,
        engine: Engine,
        score_scale: float,
        heatmap_threshold: float,
        metrics: Metrics,
        default_profile: ProfileValues | None = None,
        grid: Grid | None = None,
        load_again: LoadEngine | None = None,
    ) -> None:
        self._grid, self._load_again = grid, load_again
        self._metrics, self._default_profile = metrics, default_profile
        self._use(engine, score_scale, heatmap_threshold)
        self._warned = False
        self.carries_state = engine.spec.state_shape is not None
        """Whether replayed clips must be scored, to rebuild the model's state."""
        self.one_by_one = self.carries_state or (self._cache is not None and engine.spec.length > 1)
        """Whether a call may hold only one clip of a camera, since scoring a clip needs what the previous one leaves behind."""

    def _use(self, engine: Engine, score_scale: float, heatmap_threshold: float) -> None:
        self._engine, self._scale = engine, score_scale
        self.set_heatmap_threshold(heatmap_threshold)
        caching = caching_engine(engine)
        self._cache = None if caching is None else _GpuCache(caching)

    def reload(self, error: EngineFailed) -> bool:
        """Close the engine, which fails for all clips, and load it again; False if that was tried before, or cannot be.

        The memories of all clips then hold states of the engine before, and must not be scored with any more.

        Raises OddsightError if the engine cannot be loaded.
        """
        if self._load_again is None:
            return False
        load, self._load_again = self._load_again, None
        log.error("the engine fails for all clips, loading it again", engine=self._engine.name, error=str(error))
        with suppress(EngineError):
            self._engine.close()
        self._use(*load(), self._heatmap_threshold)
        self._metrics.engine_recoveries.labels("reload").inc()
        log.info("engine loaded again, its cameras are replayed", engine=self._engine.name)
        return True

    def set_heatmap_threshold(self, threshold: float) -> None:
        """Change the score from which on heat maps are needed."""
        self._heatmap_threshold = threshold
        self._engine.heatmap_threshold = self._scale * (threshold - _SCORE_ROUNDING * abs(threshold))

    def score(
        self, clips: Sequence[Clip], profiles: Sequence[CameraProfile], keep_state: Sequence[bool] | None = None
    ) -> list[Scored]:
        """Score at most the engine's ``max_clips`` clips, each with its camera's profile, and update their memories.

        A clip with whose profile the engine fails is scored with the default, and is ``unscorable`` if that fails as well while
        the engine scores others. ``keep_state``: which results are to have the model's state. Those clips do not use the GPU
        cache; but a camera that is in it already stays there, and its results have no state.

        Raises:
            EngineFailed, EngineClosed: the memory of a clip that was not scored is unchanged.
        """
        keep = keep_state or [False] * len(clips)
        use_cache = [
            self._cache is not None and (self._cache.holds(clip.memory) or (not kept and self._cache.reserve(clip.memory)))
            for clip, kept in zip(clips, keep, strict=True)
        ]
        pairs = list(zip(clips, profiles, strict=True))
        cached = [pair for pair, use in zip(pairs, use_cache, strict=True) if use]
        uploaded = [pair for pair, use in zip(pairs, use_cache, strict=True) if not use]
        results = {}
        if cached and self._cache is not None:
            results[True] = iter(self._score_pairs(self._cache.score, cached))
        if uploaded:
            if self._cache is not None:
                self._count_cache_misses(len(uploaded))
            results[False] = iter(self._score_pairs(self._score_whole_clips, uploaded))
        scored = [next(results[use]) for use in use_cache]
        scored = [self._with_maps(each, clip) for each, clip in zip(scored, clips, strict=True)]
        return [
            each._replace(state=clip.memory.state) if kept else each for each, clip, kept in zip(scored, clips, keep, strict=True)
        ]

    @property
    def grid(self) -> Grid | None:
        """Of the maps by which a camera's memory can be stored; None if the states hold none, or are on the device."""
        return self._grid if self._cache is None else None

    def recall(self, clip: Clip, maps: Map | None = None) -> None:
        """Take a clip into its memory without scoring it, for which the model must be one with a ``grid``.

        ``maps``: what the model remembered after the clip; until they are put in, nothing may be scored.
        """
        shape, memory = self._engine.spec.state_shape, clip.memory
        if shape is None:
            return
        memory.state = followed_by(memory.state, _on_host(clip.frames[-1]), shape)
        memory.newest = clip.info
        if maps is not None:
            memory.state = with_remembered(memory.state, maps)

    def _with_maps(self, scored: Scored, clip: Clip) -> Scored:
        """The result with what the maps in the model's state tell, if they are on the host."""
        memory, since = clip.memory, clip.memory.newest
        memory.newest = None if memory.state is None else clip.info
        values = self._default_profile if scored.profile is None else scored.profile.values
        if self._grid is None or values is None or memory.state is None:
            return scored
        state = memory.state[None]
        picture = np.clip(np.round(picture_of(state)[0]), 0, 255).astype(np.uint8)
        scored = scored._replace(picture=picture, memory=Remembered(clip.info, since or clip.info, remembered(memory.state)))
        if scored.score * self._scale < self._engine.heatmap_threshold:
            return scored
        normal = Normal.from_values(values, self._grid.shape)
        maps = state_maps(state, dwell_of(state), normal.lights_of(picture_of(state)), self._grid)
        return scored._replace(channel=normal.leading_channel(maps))

    def _score_pairs(self, call: _EngineCall, pairs: Sequence[_Pair]) -> list[Scored]:
        """The results of one call; or of a call for each clip, if that one fails although the engine works."""
        try:
            return self._scaled(call(*zip(*pairs, strict=True)), pairs)
        except EngineFailed:
            if not self._works():
                raise
        return [self._score_alone(call, pair) for pair in pairs]

    def _works(self) -> bool:
        """Whether the engine scores an empty clip."""
        spec = self._engine.spec
        clips = np.zeros((1, spec.length, *spec.frame_shape), np.uint8)
        state = None if spec.state_shape is None else np.zeros((1, *spec.state_shape), np.float32)
        try:
            self._engine.score(clips, state, None)
        except EngineFailed:
            return False
        return True

    def _score_alone(self, call: _EngineCall, pair: _Pair) -> Scored:
        """The result with the clip's own profile, else with the default, else none; then the camera starts with a new memory."""
        clip, profile = pair
        reason = ""
        for tried in dict.fromkeys((profile, None)):
            try:
                scored = self._scaled(call([clip], [tried]), [(clip, tried)])[0]
            except EngineFailed as error:
                reason = reason or str(error)
            else:
                return scored if tried is profile or profile is None else scored._replace(refused=Refused(profile, reason))
        clip.memory.state = clip.memory.device_handles = None
        return Scored(math.nan, np.empty((0, 0), np.float32), None, unscorable=reason)

    def _scaled(self, scores: Scores | NewestScores, pairs: Sequence[_Pair]) -> list[Scored]:
        return [
            Scored(float(score) / self._scale, heatmap, profile)
            for score, heatmap, (_, profile) in zip(scores.score, scores.heatmap, pairs, strict=True)
        ]

    def _score_whole_clips(self, clips: Sequence[Clip], profiles: Sequence[CameraProfile]) -> Scores:
        frames = [_on_host(frame) for clip in clips for frame in clip.frames]
        stacked = np.stack(frames).reshape(len(clips), -1, *frames[0].shape)
        scores = self._engine.score(stacked, self._state_array(clips), self._profile_array(profiles))
        if scores.state is not None:
            for clip, state in zip(clips, scores.state, strict=True):
                # A view would keep the whole micro-batch's states in memory until this camera's next frame.
                clip.memory.state = state.copy()
        return scores

    def _state_array(self, clips: Sequence[Clip]) -> State | None:
        """float32 (N, C, h, w), zeros for cameras without a state; None for a model without a state."""
        if self._engine.spec.state_shape is None:
            return None
        zeros = np.zeros(self._engine.spec.state_shape, np.float32)
        return np.stack([zeros if clip.memory.state is None else clip.memory.state for clip in clips])

    def _profile_array(self, profiles: Sequence[CameraProfile]) -> Profiles | None:
        """float32 (N, P); None if the default applies to all clips."""
        if self._default_profile is None or all(profile is None for profile in profiles):
            return None
        return np.stack([self._default_profile if profile is None else profile.values for profile in profiles])

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

    def holds(self, memory: CameraMemory) -> bool:
        """Whether the camera with this memory is cached."""
        return memory in self._memories

    def reserve(self, memory: CameraMemory) -> bool:
        """Whether clips with this memory are scored from the cache; reserves room for a new one if there is any."""
        if memory in self._memories:
            return True
        if memory.state is not None or len(self._memories) >= self._engine.gpu_cached_cameras:
            return False
        self._memories.add(memory)
        return True

    def score(self, clips: Sequence[Clip], profiles: Sequence[CameraProfile]) -> NewestScores:
        """Score clips by their newest frames; older frames and profiles are uploaded only if the memory does not have them."""
        older = [frame for clip in clips if clip.memory.device_handles is None for frame in clip.frames[:-1]]
        size = self._engine.max_clips
        batches = (_one_kind(older[begin : begin + size]) for begin in range(0, len(older), size))
        uploaded = iter([handle for batch in batches for handle in self._engine.upload(batch)])
        handles = [
            clip.memory.device_handles or DeviceHandles(tuple(next(uploaded) for _ in clip.frames[:-1]), None) for clip in clips
        ]
        newest = _one_kind([clip.frames[-1] for clip in clips])
        on_device = self._profiles_on_device(handles, profiles)
        scores = self._engine.score_newest(
            newest,
            [each.frames for each in handles],
            [each.state for each in handles],
            [None if each is None else each.handle for each in on_device],
        )
        for clip, before, frame, state, profile in zip(clips, handles, scores.frames, scores.states, on_device, strict=True):
            clip.memory.device_handles = DeviceHandles((*before.frames, frame)[1:], state, profile)
        return scores

    def _profiles_on_device(
        self, handles: Sequence[DeviceHandles], profiles: Sequence[CameraProfile]
    ) -> list[DeviceProfile | None]:
        """Where the profiles are on the device; those that are not there yet are uploaded together."""
        known = {each.profile.profile: each.profile for each in handles if each.profile is not None}
        missing = list(dict.fromkeys(profile for profile in profiles if profile is not None and profile not in known))
        if missing:
            uploaded = self._engine.upload_profiles(np.stack([profile.values for profile in missing]))
            known |= {profile: DeviceProfile(profile, handle) for profile, handle in zip(missing, uploaded, strict=True)}
        return [None if profile is None else known[profile] for profile in profiles]


def _one_kind(frames: Sequence[AnyFrame]) -> Frames | list[DeviceFrame]:
    """Frames on the device as a list, frames on the host as one array; a decoder delivers only one of the two."""
    on_device = [frame for frame in frames if isinstance(frame, DeviceFrame)]
    return on_device or np.stack([frame for frame in frames if not isinstance(frame, DeviceFrame)])


def _on_host(frame: AnyFrame) -> Frame:
    if not isinstance(frame, DeviceFrame):
        return frame
    with backend_errors("a frame cannot be copied from the device"):
        return frame.on_host()
