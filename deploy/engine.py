"""The ``Engine`` protocol, the request an engine is loaded with, and the checks that all backends share."""

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any, Generic, Literal, NoReturn, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import Bundle
from deploy.errors import BadClips, BundleIncompatible, EngineClosed, EngineFailed, backend_errors
from deploy.image import DeviceFrame
from deploy.spec import ClipSpec

Frames = NDArray[np.uint8]  # uint8 (N, H, W, C)
Clips = NDArray[np.uint8]  # uint8 (N, T, H, W, C)
State = NDArray[np.float32]
"""float32 (N, *state_shape): what a recurrent model returned with the previous frame of each clip's camera; zeros at first."""
Profiles = NDArray[np.float32]  # (N, P): the profile of each clip's camera, see deploy.profile
Inputs = Mapping[str, NDArray[Any]]
"""``clips``, and ``state`` and ``profile`` if the model takes them, a row for each clip."""

# Type of convolutions and matrix products; int8: only of as many convolutions as the scores tolerate.
Precision = Literal["f32", "bf16", "f16", "int8"]
# What threads and streams are tuned for: most clips a second, or the shortest call. Scores do not depend on it.
PerformanceHint = Literal["throughput", "latency"]

DEFAULT_ENGINE = "openvino"
DEFAULT_MAX_CLIPS = 32

RESERVED_ROWS = 2
SCRATCH_ROW = 0
"""Row that the unused clips of a bucket read and write. It is 0 because launches before a CUDA graph capture have zeros as inputs
and must not write to any other row."""
ZERO_ROW = 1  # row that always holds zeros: the state of a camera without history
DEFAULT_ROW = 1  # row of the default profile


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """Which engine to load, and how. Every engine's constructor takes a bundle and a request."""

    engine: str = DEFAULT_ENGINE  # a key of deploy.registry.ENGINES
    precision: Precision = "f32"
    max_clips: int = DEFAULT_MAX_CLIPS  # largest number of clips in one call
    threads: int = 0  # CPU threads of one call; 0 leaves the choice to the backend
    performance_hint: PerformanceHint = "throughput"  # ignored by engines that are not in deploy.registry.TUNABLE_ENGINES
    gpu_cached_cameras: int = 0  # number of cameras whose last frames and state stay in GPU memory; ignored by CPU engines


@dataclass(frozen=True, slots=True)
class Scores:
    """Results of N clips, in their order."""

    score: NDArray[np.float32]  # (N,); higher is more anomalous
    heatmap: NDArray[np.float32]  # (N, h, w), in units of the score; smaller than the frame, by a factor of the model
    state: State | None = None  # input for each camera's next clip; None if the model has no state


class Handle:
    """A row of a table on the device. Its content never changes; it is freed with the last reference to the handle."""

    __slots__ = ("_free", "index", "pool")

    def __init__(self, index: int, pool: object, free: Callable[[int], None]) -> None:
        self.index = index
        self.pool = pool
        self._free = free

    def __del__(self) -> None:
        self._free(self.index)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a handle of device memory cannot be copied: each copy would free the row")


class FrameHandle(Handle):
    """A frame in device memory."""

    __slots__ = ()


class StateHandle(Handle):
    """A recurrent model's state of one camera in device memory."""

    __slots__ = ()


class ProfileHandle(Handle):
    """A camera's profile in device memory."""

    __slots__ = ()


H = TypeVar("H", bound=Handle)


class HandlePool(Generic[H]):
    """Hands out free rows of a table. Thread-safe: a handle may be freed in any thread."""

    def __init__(self, kind: type[H], content: str, capacity: int, cameras: int) -> None:
        self.capacity = capacity
        self._kind = kind
        self._exhausted = (
            f"all {capacity} rows for {content} on the device, allocated for {cameras} cameras, are in use; "
            "drop handles that are no longer needed, or load the engine with more gpu_cached_cameras"
        )
        # append and pop of a deque are atomic. A lock would deadlock if a handle died in the thread that holds it.
        self._free_rows = deque(range(RESERVED_ROWS, RESERVED_ROWS + capacity))

    @property
    def n_free(self) -> int:
        return len(self._free_rows)

    def take(self, n_rows: int) -> list[H]:
        """Handles of ``n_rows`` free rows. Raises EngineFailed, and takes none, if fewer are free."""
        try:
            return [self._kind(self._free_rows.pop(), self, self._free_rows.append) for _ in range(n_rows)]
        except IndexError as error:
            raise EngineFailed(self._exhausted) from error

    def owns(self, handle: object) -> bool:
        return isinstance(handle, self._kind) and handle.pool is self


@dataclass(frozen=True, slots=True)
class NewestScores:
    """Like :class:`Scores`, with frames and states left in GPU memory."""

    score: NDArray[np.float32]  # (N,)
    heatmap: NDArray[np.float32]  # (N, h, w)
    frames: list[FrameHandle]  # the newest frame of each clip
    states: list[StateHandle] | list[None]  # the next state of each camera; all None if the model has no state


class Engine(Protocol):
    """A loaded model that scores clips. Safe to call from several threads; usable again after an error."""

    name: str
    spec: ClipSpec
    max_clips: int
    buckets: tuple[int, ...]  # batch sizes that different kernels compute, in rising order; empty if all are computed alike
    gpu_cached_cameras: int  # number of cameras whose frames and states stay in GPU memory; 0 for an engine without a cache
    heatmap_threshold: float  # heat maps of clips scoring lower may be NaN. May be set between calls; -inf at first

    def score(self, clips: Clips, state: State | None = None, profile: Profiles | None = None) -> Scores:
        """Score clips uint8 (N, T, H, W, C), 0 <= N <= ``max_clips``; blocks until done. The result belongs to the caller.

        ``state`` is float32 (N, *spec.state_shape) for a recurrent model; None means zeros. A call must therefore not hold two
        clips of one camera. ``profile`` is float32 (N, spec.profile_size) for a model with profiles; None means the bundle's
        default for all. Results of a clip do not depend on the other clips of the call.

        Raises:
            BadClips: wrong dtype, shape or number, or a state or profile for a model without one.
            EngineClosed: after ``close()``.
            EngineFailed: the backend failed.
        """

    def describe(self) -> dict[str, str]:
        """What is in use: backend, version, device, precision."""

    def close(self) -> None:
        """Free the backend's resources. May be called again."""


class CachingEngine(Engine, Protocol):
    """An engine that keeps frames and states in GPU memory, referred to by handles and freed with them."""

    def score_newest(
        self,
        newest: Frames | Sequence[DeviceFrame],
        history: Sequence[Sequence[FrameHandle]],
        states: Sequence[StateHandle | None],
        profiles: Sequence[ProfileHandle | None] | None = None,
    ) -> NewestScores:
        """Score the clips that end with ``newest``; results equal those of :meth:`Engine.score`. Blocks until done.

        Inputs are never changed, so a call can be repeated with the same handles, also after an error.

        Args:
            newest: uint8 (N, H, W, C), 0 <= N <= ``max_clips``, or N frames on the engine's device.
            history: for each clip the ``spec.length - 1`` previous frames, oldest first.
            states: the state after each camera's previous frame; None for a camera without history or a model without a state.
            profiles: the profile of each clip's camera; None for the bundle's default.

        Raises:
            BadClips: frames or handles of the wrong type, shape or number, or of another engine.
            ConfigError: the engine was loaded without a cache.
            EngineClosed: after ``close()``.
            EngineFailed: the backend failed, or the cache is full.
        """

    def upload(self, frames: Frames | Sequence[DeviceFrame]) -> list[FrameHandle]:
        """Store frames without scoring them, such as the first ones of a camera. Raises as :meth:`score_newest` does."""

    def upload_profiles(self, profiles: Profiles) -> list[ProfileHandle]:
        """Store cameras' profiles, float32 (N, P). Raises as :meth:`score_newest` does."""


def caching_engine(engine: Engine) -> CachingEngine | None:
    """``engine`` if it was loaded with a cache."""
    return cast("CachingEngine", engine) if engine.gpu_cached_cameras else None


def upload_history(engine: CachingEngine, clips: Clips) -> list[list[FrameHandle]]:
    """Upload all frames but the newest of at most ``max_clips`` clips."""
    uploaded = [engine.upload(np.ascontiguousarray(frames)) for frames in clips[:, :-1].swapaxes(0, 1)]
    return [[handles[clip] for handles in uploaded] for clip in range(len(clips))]


class CheckedEngine(ABC):
    """Base of all engines: checks inputs before the backend and results after it, and makes calls take turns."""

    name: str
    buckets: tuple[int, ...] = ()
    gpu_cached_cameras: int = 0
    heatmap_threshold: float = -inf

    def __init__(self, spec: ClipSpec, max_clips: int, default_profile: NDArray[np.float32] | None = None) -> None:
        self.spec = spec
        self.max_clips = max_clips
        self._default_profile = default_profile
        self._description: dict[str, str]  # set by each backend
        self._lock = threading.Lock()
        self._closed = False

    def score(self, clips: Clips, state: State | None = None, profile: Profiles | None = None) -> Scores:
        inputs = self.checked_inputs(clips, state, profile)
        with self._locked(f"scoring {len(clips)} clips failed"):
            empty = Scores(np.empty(0, np.float32), np.empty((0, 0, 0), np.float32), inputs.get("state"))
            scores = self._run(inputs) if len(clips) else empty
        self._check_scores(len(clips), scores)
        return scores

    def checked_inputs(self, clips: Clips, state: State | None, profile: Profiles | None) -> dict[str, NDArray[Any]]:
        """Inputs of the model by name: states of zeros and the default profile stand in for what is None. Raises BadClips."""
        self._check_array("clips", clips, self.spec.clip_shape)
        rest = {"state": self._checked_state(len(clips), state), "profile": self._checked_profile(len(clips), profile)}
        return {"clips": np.ascontiguousarray(clips), **{name: values for name, values in rest.items() if values is not None}}

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._release()

    def describe(self) -> dict[str, str]:
        return dict(self._description)

    @abstractmethod
    def _run(self, inputs: Inputs) -> Scores:
        """Score at least one clip. Inputs are checked and contiguous, those of ``spec.input_shapes`` in that order."""

    @abstractmethod
    def _release(self) -> None: ...  # called once

    @contextmanager
    def _locked(self, action: str) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise EngineClosed(f"the {self.name} engine is closed")
            with backend_errors(f"{self.name}: {action}"):
                yield

    def _check_array(self, name: str, array: NDArray[np.uint8], shape: tuple[int, ...]) -> None:
        if not isinstance(array, np.ndarray):
            raise BadClips(f"{name} must be a numpy array, got {type(array).__name__}")
        if array.dtype != np.uint8:
            raise BadClips(f"{name} must be of dtype uint8, got {array.dtype}")
        if array.shape[1:] != shape:
            raise BadClips(f"{name} must have shape (N, {', '.join(map(str, shape))}), got {array.shape}")
        self._check_number(name, array)

    def _check_number(self, name: str, inputs: Sized) -> None:
        if len(inputs) > self.max_clips:
            raise BadClips(f"at most {self.max_clips} {name} a call (max_clips), got {len(inputs)}")

    def _checked_state(self, n_clips: int, state: State | None) -> State | None:
        expected = self._state_shape(n_clips)
        if expected is None:
            if state is not None:
                raise BadClips("this model has no state; score its clips without one")
            return None
        return np.zeros(expected, np.float32) if state is None else _checked_float32("state", state, expected)

    def _checked_profile(self, n_clips: int, profile: Profiles | None) -> Profiles | None:
        if not self.spec.profile_size:
            if profile is not None:
                raise BadClips("this model takes no profiles; score its clips without one")
            return None
        expected = (n_clips, self.spec.profile_size)
        if profile is not None:
            return _checked_float32("profile", profile, expected)
        if self._default_profile is None:
            raise BadClips("this engine was loaded without a default profile; give the profile of each clip's camera")
        return np.ascontiguousarray(np.broadcast_to(self._default_profile, expected))

    def _state_shape(self, n_clips: int) -> tuple[int, ...] | None:
        return None if self.spec.state_shape is None else (n_clips, *self.spec.state_shape)

    def _check_scores(self, n_clips: int, scores: Scores) -> None:
        self._check_score_and_heatmap(n_clips, scores.score, scores.heatmap)
        state_shape = None if scores.state is None else scores.state.shape
        if state_shape != self._state_shape(n_clips):
            raise EngineFailed(f"{self.name}: the next state has shape {state_shape}, expected {self._state_shape(n_clips)}")
        if scores.state is not None:
            self._check_state_is_finite(scores.state)

    def _check_score_and_heatmap(self, n_clips: int, score: NDArray[np.float32], heatmap: NDArray[np.float32]) -> None:
        if score.shape != (n_clips,) or heatmap.ndim != 3 or len(heatmap) != n_clips:
            raise EngineFailed(f"{self.name}: {n_clips} clips in, scores {score.shape} and heat maps {heatmap.shape} out")
        if not np.isfinite(score).all():
            raise EngineFailed(f"{self.name}: a score is not a finite number: {score}")

    def _check_state_is_finite(self, state: NDArray[np.float32]) -> None:
        if not np.isfinite(state).all():
            raise EngineFailed(f"{self.name}: a next state holds values that are not finite numbers")


def _checked_float32(name: str, values: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    if not isinstance(values, np.ndarray) or values.dtype != np.float32:
        raise BadClips(f"{name} must be a numpy array of dtype float32, got {getattr(values, 'dtype', type(values).__name__)}")
    if values.shape != shape:
        raise BadClips(f"the {name} of {shape[0]} clips must have shape {shape}, got {values.shape}")
    return np.ascontiguousarray(values)


def check_graph(bundle: Bundle, inputs: Mapping[str, Sequence[object]], outputs: Mapping[str, Sequence[object]]) -> None:
    """Raise BundleIncompatible if the graph's input or output shapes, by name, differ from the bundle's spec; N is ignored."""
    expected = bundle.spec.input_shapes
    next_state = {} if bundle.spec.state_shape is None else {"next_state": bundle.spec.state_shape}
    taken = {name: tuple(shape[1:]) for name, shape in inputs.items()}
    returned = {name: tuple(shape[1:]) for name, shape in outputs.items() if name not in {"score", "heatmap"}}
    if taken != expected or returned != next_state:
        raise BundleIncompatible(
            f"{bundle.path}: the model takes {_listed(taken)} and gives {_listed(returned) or 'no state'}, the spec says "
            f"{_listed(expected)}; make the bundle again with oddsight-train"
        )


def _listed(shapes: Mapping[str, tuple[object, ...]]) -> str:
    return " and ".join(f"{name} of {shape}" for name, shape in shapes.items())
