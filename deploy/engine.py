"""The ``Engine`` protocol, the checks every backend shares, and ``load_engine``."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import Bundle
from deploy.errors import BadClips, BundleIncompatible, EngineClosed, EngineFailed, backend_errors
from deploy.handles import FrameRow, StateRow
from deploy.image import DeviceFrame
from deploy.spec import ClipSpec

Frames = NDArray[np.uint8]
"""uint8 (N, H, W, C)."""
Clips = NDArray[np.uint8]
"""uint8 (N, T, H, W, C)."""
State = NDArray[np.float32]
"""float32 (N, *state_shape): of each clip's camera, as it was given back with the frame before; zeros: nothing seen yet."""

Precision = Literal["f32", "bf16", "f16", "int8"]
"""What convolutions and sums are computed in; ``int8``: as many convolutions as scores bear, and nothing else."""
PerformanceHint = Literal["throughput", "latency"]
"""What threads and streams are tuned for: most clips a second, or the shortest call. Scores do not depend on it."""

DEFAULT_ENGINE = "openvino"
DEFAULT_MAX_CLIPS = 32


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """Which engine to load, and how. Every engine's constructor takes a bundle and a request."""

    engine: str = DEFAULT_ENGINE
    """A key of :data:`deploy.engines.registry.ENGINES`."""
    precision: Precision = "f32"
    max_clips: int = DEFAULT_MAX_CLIPS
    """Largest number of clips in one call."""
    threads: int = 0
    """CPU threads of one call; 0 leaves the choice to the backend."""
    performance_hint: PerformanceHint = "throughput"
    """Ignored by engines that are not in :data:`deploy.engines.registry.TUNABLE`."""
    gpu_cached_cameras: int = 0
    """Number of cameras whose last frames and state stay in GPU memory; ignored by CPU engines."""


@dataclass(frozen=True, slots=True)
class Scores:
    """One score and one heat map a clip, in the order of the clips."""

    score: NDArray[np.float32]
    """float32 (N,); higher is more anomalous."""
    heatmap: NDArray[np.float32]
    """float32 (N, h, w); where in the frame, in the units of the score; h and w are the model's own, coarser than the frame."""
    state: State | None = None
    """What each camera's next clip is to be scored with; None for a model without a state."""


@dataclass(frozen=True, slots=True)
class NewestScores:
    """As :class:`Scores`, for clips whose frames stay on the device."""

    score: NDArray[np.float32]
    """float32 (N,)."""
    heatmap: NDArray[np.float32]
    """float32 (N, h, w)."""
    frames: list[FrameRow]
    """Where the newest frame of each clip is now."""
    states: list[StateRow] | list[None]
    """What each camera's next frame is to be scored with; None for each where the model has no state."""


class Engine(Protocol):
    """A loaded model that scores clips. Safe to call from several threads; usable again after an error."""

    name: str
    spec: ClipSpec
    max_clips: int
    buckets: tuple[int, ...]
    """Numbers of clips that are computed in different ways, in rising order; empty where any number is computed in one way."""
    gpu_cached_cameras: int
    """Number of cameras whose frames and states it keeps in GPU memory, see :func:`resident`; 0 for engines without a cache."""
    heatmaps_from: float
    """Nobody looks at heat maps of clips that score less: an engine for which they are dear may leave them NaN. May be set
    between calls; -inf at first, which leaves none out."""

    def score(self, clips: Clips, state: State | None = None) -> Scores:
        """Score ``clips``, uint8 (N, T, H, W, C) with 0 <= N <= ``max_clips``; the result is the caller's own.

        ``state`` is, for a recurrent model, float32 (N, *spec.state_shape); None means zeros for all clips. So no call may hold
        two clips of one camera. A clip's score and next state do not depend on the other clips of the call. Blocks until done.

        Raises:
            BadClips: wrong dtype, shape or number, or a state for a model that carries none.
            EngineClosed: after ``close()``.
            EngineFailed: the backend failed.
        """

    def describe(self) -> dict[str, str]:
        """What is really in use: backend, version, device, precision."""

    def close(self) -> None:
        """Free the backend's resources. May be called again."""


class ResidentEngine(Engine, Protocol):
    """An engine that keeps frames and states on its device: a handle stands for one, and its place is free when that dies."""

    def score_newest(
        self, newest: Frames | Sequence[DeviceFrame], before: Sequence[Sequence[FrameRow]], states: Sequence[StateRow | None]
    ) -> NewestScores:
        """Score the clips that end with ``newest``, uint8 (N, H, W, C) with 0 <= N <= ``max_clips``.

        ``newest`` may as well be a list of N frames that lie on the engine's device: nothing of them is copied by the host then.
        ``before`` are the handles of each clip's ``spec.length - 1`` frames before, oldest first. ``states`` are those of the
        cameras' frames before; None is "nothing seen yet", and the only one for a model without a state. No handle that is given
        changes: the same call again, after an error or not, gives the same scores. Those are what :meth:`Engine.score` gives for
        the same clips and states. Blocks until done.

        Raises:
            BadClips: frames or handles that are wrong in type, shape or number, or of another engine.
            ConfigError: the engine was loaded for no camera.
            EngineClosed: after ``close()``.
            EngineFailed: the backend failed, or all room on the device is held.
        """

    def upload(self, frames: Frames | Sequence[DeviceFrame]) -> list[FrameRow]:
        """Put frames into rows that are not scored: the first ones of a camera. Raises as :meth:`score_newest` does."""


def resident(engine: Engine) -> ResidentEngine | None:
    """``engine``, if it was loaded to keep frames and states on its device."""
    return cast("ResidentEngine", engine) if engine.gpu_cached_cameras else None


def upload_before(engine: ResidentEngine, clips: Clips) -> list[list[FrameRow]]:
    """Put all frames of each clip but the newest on the device; at most ``max_clips`` clips."""
    places = [engine.upload(np.ascontiguousarray(frames)) for frames in clips[:, :-1].swapaxes(0, 1)]
    return [[rows[clip] for rows in places] for clip in range(len(clips))]


class CheckedEngine(ABC):
    """What all backends share: contract checks before the backend, result checks after it, one call at a time."""

    name: str
    buckets: tuple[int, ...] = ()
    gpu_cached_cameras: int = 0
    heatmaps_from: float = -inf

    def __init__(self, spec: ClipSpec, max_clips: int) -> None:
        self.spec = spec
        self.max_clips = max_clips
        self._lock = threading.Lock()
        self._closed = False

    def score(self, clips: Clips, state: State | None = None) -> Scores:
        """See :meth:`Engine.score`."""
        self._check_pictures("clips", clips, self.spec.clip_shape)
        given = self._checked_state(len(clips), state)
        with self._in_turn(f"scoring {len(clips)} clips failed"):
            scores = self._run(np.ascontiguousarray(clips), given) if len(clips) else self._nothing()
        self._check_scores(len(clips), scores)
        return scores

    def close(self) -> None:
        """See :meth:`Engine.close`."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._release()

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """See :meth:`Engine.describe`."""

    @abstractmethod
    def _run(self, clips: Clips, state: State | None) -> Scores:
        """Score at least one clip; whatever the backend raises becomes an EngineFailed.

        Clips and state are checked and contiguous; the state is None only for a model without one.
        """

    @abstractmethod
    def _release(self) -> None:
        """Free the backend's resources; called once."""

    @contextmanager
    def _in_turn(self, failed: str) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise EngineClosed(f"the {self.name} engine is closed")
            with backend_errors(f"{self.name}: {failed}"):
                yield

    def _check_pictures(self, what: str, given: NDArray[np.uint8], shape: tuple[int, ...]) -> None:
        if not isinstance(given, np.ndarray):
            raise BadClips(f"{what} must be a numpy array, got {type(given).__name__}")
        if given.dtype != np.uint8:
            raise BadClips(f"{what} must be of dtype uint8, got {given.dtype}")
        if given.shape[1:] != shape:
            raise BadClips(f"{what} must have shape (N, {', '.join(map(str, shape))}), got {given.shape}")
        self._check_number(what, given)

    def _check_number(self, what: str, given: Sized) -> None:
        if len(given) > self.max_clips:
            raise BadClips(f"at most {self.max_clips} {what} a call (max_clips), got {len(given)}")

    def _checked_state(self, n_clips: int, state: State | None) -> State | None:
        expected = self._state_shape(n_clips)
        if expected is None:
            if state is not None:
                raise BadClips("this model carries no state; score its clips without one")
            return None
        if state is None:
            return np.zeros(expected, np.float32)
        if not isinstance(state, np.ndarray) or state.dtype != np.float32:
            raise BadClips(f"state must be a numpy array of dtype float32, got {getattr(state, 'dtype', type(state).__name__)}")
        if state.shape != expected:
            raise BadClips(f"the state of {n_clips} clips must have shape {expected}, got {state.shape}")
        return np.ascontiguousarray(state)

    def _state_shape(self, n_clips: int) -> tuple[int, ...] | None:
        return None if self.spec.state_shape is None else (n_clips, *self.spec.state_shape)

    def _nothing(self) -> Scores:
        shape = self._state_shape(0)
        state = None if shape is None else np.empty(shape, np.float32)
        return Scores(np.empty(0, np.float32), np.empty((0, 0, 0), np.float32), state)

    def _check_scores(self, n_clips: int, scores: Scores) -> None:
        self._check_numbers(n_clips, scores.score, scores.heatmap)
        state_shape = None if scores.state is None else scores.state.shape
        if state_shape != self._state_shape(n_clips):
            raise EngineFailed(f"{self.name}: next state {state_shape} out, the spec says {self._state_shape(n_clips)}")
        if scores.state is not None:
            self._check_state_numbers(scores.state)

    def _check_numbers(self, n_clips: int, score: NDArray[np.float32], heatmap: NDArray[np.float32]) -> None:
        if score.shape != (n_clips,) or heatmap.ndim != 3 or len(heatmap) != n_clips:
            raise EngineFailed(f"{self.name}: {n_clips} clips in, scores {score.shape} and heat maps {heatmap.shape} out")
        if not np.isfinite(score).all():
            raise EngineFailed(f"{self.name}: a score is not a finite number: {score}")

    def _check_state_numbers(self, state: NDArray[np.float32]) -> None:
        if not np.isfinite(state).all():
            raise EngineFailed(f"{self.name}: a next state holds values that are no finite numbers")


def check_graph(bundle: Bundle, inputs: Mapping[str, Sequence[object]], outputs: Mapping[str, Sequence[object]]) -> None:
    """Check what the serving graph takes and gives, shapes by name, against the bundle's spec; the first size, N, is free.

    Raises:
        BundleIncompatible: they differ.
    """
    state = {} if bundle.spec.state_shape is None else {"state": bundle.spec.state_shape}
    taken = {name: tuple(shape[1:]) for name, shape in inputs.items()}
    given = {name: tuple(shape[1:]) for name, shape in outputs.items() if name not in {"score", "heatmap"}}
    expected = {"clips": bundle.spec.clip_shape, **state}
    if taken != expected or given != {f"next_{name}": shape for name, shape in state.items()}:
        raise BundleIncompatible(
            f"{bundle.path}: the model takes {_listed(taken)} and gives {_listed(given) or 'no state'}, the spec says "
            f"{_listed(expected)}; make the bundle again with oddsight-train"
        )


def _listed(shapes: Mapping[str, tuple[object, ...]]) -> str:
    return " and ".join(f"{name} of {shape}" for name, shape in shapes.items())
