"""Load test: one engine scores the clips of synthetic cameras, which arrive evenly in real time whether or not it keeps up.

Clips are scored in the service's micro-batches, those that wait when the engine is free; with at most one clip of a camera if the
model has a state or the engine caches frames.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deploy.batching import MicroBatcher
from deploy.engine import CachingEngine, Clips, Engine, State, StateHandle, caching_engine, upload_history
from deploy.errors import ConfigError
from deploy.records import LoadTestResult

_MAX_FRAME_RATE = 1000
_ROUNDING_S = 1e-10  # a clip that is waited for has arrived, however the sum of times was rounded


class WholeClipCameras:
    """Cameras that show one clip over and over; clips and states are uploaded in every call.

    ``one_by_one``: a call may hold only one clip of each camera.
    """

    def __init__(self, engine: Engine, clips: Clips) -> None:
        shape = engine.spec.state_shape
        self.count, self.one_by_one = len(clips), shape is not None
        self._engine, self._clips = engine, clips
        self._state: State | None = None if shape is None else np.zeros((len(clips), *shape), np.float32)

    def score(self, cameras: NDArray[np.int64]) -> None:
        """Score the next clip of each of these cameras, int64 (N,)."""
        scores = self._engine.score(self._clips[cameras], None if self._state is None else self._state[cameras])
        if self._state is not None:
            self._state[cameras] = scores.state


class NewestFrameCameras:
    """The same for an engine that caches frames: only the newest frame of each camera is uploaded."""

    def __init__(self, engine: CachingEngine, clips: Clips) -> None:
        self.count, self.one_by_one = len(clips), engine.spec.length > 1 or engine.spec.state_shape is not None
        self._engine, self._newest = engine, clips[:, -1]
        self._before = upload_history(engine, clips)
        self._states: list[StateHandle | None] = [None] * len(clips)

    def score(self, cameras: NDArray[np.int64]) -> None:
        before, states = [self._before[camera] for camera in cameras], [self._states[camera] for camera in cameras]
        scores = self._engine.score_newest(self._newest[cameras], before, states)
        for camera, frame, state in zip(cameras, scores.frames, scores.states, strict=True):
            self._before[camera] = [*self._before[camera], frame][1:]
            self._states[camera] = state


@dataclass(frozen=True, slots=True)
class CameraLoad:
    """A number of cameras and their frame rate; every frame completes a clip. ConfigError if out of range."""

    cameras: int
    frame_rate: float

    def __post_init__(self) -> None:
        if self.cameras < 1:
            raise ConfigError(f"cameras must be at least 1, got {self.cameras}")
        if not 0 < self.frame_rate <= _MAX_FRAME_RATE:
            raise ConfigError(f"frame rate must be above 0 and at most {_MAX_FRAME_RATE} frames/s, got {self.frame_rate:g}")

    @property
    def clips_per_s(self) -> float:
        return self.cameras * self.frame_rate


@dataclass(frozen=True, slots=True)
class Clock:
    """Sources of time, all in seconds."""

    now_s: Callable[[], float] = time.perf_counter
    cpu_s: Callable[[], float] = time.process_time
    sleep: Callable[[float], None] = time.sleep


@dataclass(slots=True)
class LoadTest:
    """The load test of one engine, run in turns with others: its clock stands still between turns, and its backlog stays."""

    engine: Engine
    load: CameraLoad
    due: int  # number of clips that arrive
    cameras: WholeClipCameras | NewestFrameCameras  # if the load has more cameras, the others show the same clips
    clock: Clock
    _arrived: int = 0  # clips put into the batcher, which holds one micro-batch at most: the load may be any number
    _at_s: float = 0.0
    _busy_s: float = 0.0
    _cpu_s: float = 0.0
    _slowest_s: float = 0.0
    _latencies_s: list[float] = field(default_factory=list)  # of the clips scored so far, in order of arrival
    _batcher: MicroBatcher[int] = field(init=False)

    def __post_init__(self) -> None:
        self._batcher = MicroBatcher(self.engine.max_clips, max_wait_s=0.0)

    def run(self, until_s: float) -> None:
        """Continue until the test's clock shows ``until_s``: no call begins later, but one may end later. Raises EngineFailed."""
        begin_cpu_s, begin_s = self.clock.cpu_s(), self.clock.now_s() - self._at_s
        while len(self._latencies_s) < self.due and self._at_s <= until_s:
            self._add_arrived()
            if batch := self._batcher.take(self._at_s):
                self._score(batch, begin_s)
                continue
            wake_s = self._due_s(self._arrived)
            self._wait_for(min(wake_s, until_s), begin_s)
            if wake_s > until_s:
                break
        self._cpu_s += self.clock.cpu_s() - begin_cpu_s

    def finish(self) -> None:
        """Continue after the last arrival for the slowest call; clips that are not begun by then are not scored."""
        self.run(self._due_s(self.due - 1) + self._slowest_s + _ROUNDING_S)

    def result(self) -> LoadTestResult:
        """Measurements so far; at least one clip must have been scored."""
        scored = len(self._latencies_s)
        # After its last clip an engine is idle until the next one would arrive.
        elapsed_s = max(self._at_s, self.due / self.load.clips_per_s)
        return LoadTestResult(
            due=self.due,
            scored=scored,
            clips_per_s=scored / elapsed_s,
            cpu_s_per_clip=self._cpu_s / scored,
            latency_ms=latency_percentiles_ms(self._latencies_s),
            busy_share=self._busy_s / elapsed_s,
        )

    def _add_arrived(self) -> None:
        while (
            self._arrived < self.due
            and len(self._batcher) < self.engine.max_clips
            and (due_s := self._due_s(self._arrived)) <= self._at_s + _ROUNDING_S
        ):
            key = self._arrived % self.cameras.count if self.cameras.one_by_one else None
            self._batcher.add(self._arrived, due_s, key)
            self._arrived += 1

    def _wait_for(self, time_s: float, begin_s: float) -> None:
        if time_s > self._at_s:
            self.clock.sleep(time_s - self._at_s)
        self._at_s = max(time_s, self.clock.now_s() - begin_s)

    def _score(self, clips: list[int], begin_s: float) -> None:
        self.cameras.score(np.array(clips) % self.cameras.count)
        done_s = self.clock.now_s() - begin_s
        self._latencies_s += [done_s - self._due_s(clip) for clip in clips]
        self._busy_s += done_s - self._at_s
        self._slowest_s = max(self._slowest_s, done_s - self._at_s)
        self._at_s = done_s

    def _due_s(self, clip: int) -> float:
        return clip / self.load.clips_per_s


def start_load_test(engine: Engine, load: CameraLoad, duration_s: float, clips: Clips, clock: Clock | None = None) -> LoadTest:
    """Warm up an engine for a load test of ``duration_s`` seconds and at least one clip.

    The cameras show ``clips``, uint8 (N, T, H, W, C). Memory is needed for ``max_clips`` of them only, so that any number of
    cameras can be tested. Raises EngineFailed if the backend failed.
    """
    numbers = np.arange(min(load.cameras, engine.max_clips))
    shown, caching = clips[numbers % len(clips)], caching_engine(engine)
    cameras = WholeClipCameras(engine, shown) if caching is None else NewestFrameCameras(caching, shown)
    for _ in range(2):
        cameras.score(numbers)
    return LoadTest(engine, load, max(1, int(duration_s * load.clips_per_s)), cameras, clock or Clock())


def latency_percentiles_ms(times_s: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds."""
    return {f"p{rank}": float(np.percentile(times_s, rank)) * 1000 for rank in (50, 95, 99)}
