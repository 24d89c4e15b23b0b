"""An engine under the load of some cameras: clips come evenly, in real time, whether or not the engine keeps up with them.

They are scored in micro-batches as the service makes them: flushed when full, or when the oldest clip has waited long enough; of
one camera at most one clip a micro-batch where the model carries a state or the engine keeps its frames.

Cameras as an engine watches them in the service, their clips and states going up whole or staying on its device.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deploy.engine import Clips, Engine, ResidentEngine, State, resident, upload_before
from deploy.errors import ConfigError
from deploy.handles import StateRow
from deploy.records import LoadTestResult


class Watched(Protocol):
    """Cameras, as many as have a clip of their own, that an engine watches; each shows its clip over and over."""

    count: int
    one_by_one: bool
    """Whether one camera has at most one clip a call."""

    def score(self, numbers: NDArray[np.int64]) -> None:
        """Score the next clip of each of these."""


class WholeClips:
    """Clips and states go to the engine each time."""

    def __init__(self, engine: Engine, clips: Clips) -> None:
        shape = engine.spec.state_shape
        self.count, self.one_by_one = len(clips), shape is not None
        self._engine, self._clips = engine, clips
        self._state: State | None = None if shape is None else np.zeros((len(clips), *shape), np.float32)

    def score(self, numbers: NDArray[np.int64]) -> None:
        """See :meth:`Watched.score`."""
        scores = self._engine.score(self._clips[numbers], None if self._state is None else self._state[numbers])
        if self._state is not None:
            self._state[numbers] = scores.state


class NewestFrames:
    """Newest frames go to the engine, which keeps the rest."""

    def __init__(self, engine: ResidentEngine, clips: Clips) -> None:
        self.count, self.one_by_one = len(clips), engine.spec.length > 1 or engine.spec.state_shape is not None
        self._engine, self._newest = engine, clips[:, -1]
        self._before = upload_before(engine, clips)
        self._states: list[StateRow | None] = [None] * len(clips)

    def score(self, numbers: NDArray[np.int64]) -> None:
        """See :meth:`Watched.score`."""
        before, states = [self._before[number] for number in numbers], [self._states[number] for number in numbers]
        found = self._engine.score_newest(self._newest[numbers], before, states)
        for number, frame, state in zip(numbers, found.frames, found.states, strict=True):
            self._before[number] = [*self._before[number], frame][1:]
            self._states[number] = state


def watch(engine: Engine, clips: Clips) -> Watched:
    """A camera for each of ``clips``, uint8 (N, T, H, W, C) N at most the engine's ``max_clips`` and ``cameras``.

    Raises:
        EngineFailed: the backend failed.
    """
    keeper = resident(engine)
    return WholeClips(engine, clips) if keeper is None else NewestFrames(keeper, clips)


MAX_WAIT_S = 0.05
"""The service's own default."""
_MAX_FRAME_RATE = 1000
_WARM_UP_CALLS = 2
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class CameraLoad:
    """So many cameras of so many frames a second each, every frame of which completes a clip.

    Raises:
        ConfigError: names the figure that is out of range.
    """

    cameras: int
    frame_rate: float

    def __post_init__(self) -> None:
        if self.cameras < 1:
            raise ConfigError(f"cameras must be at least 1, got {self.cameras}")
        if not 0 < self.frame_rate <= _MAX_FRAME_RATE:
            raise ConfigError(f"frame rate must be above 0 and at most {_MAX_FRAME_RATE} frames/s, got {self.frame_rate:g}")

    @property
    def clips_per_s(self) -> float:
        """Of all cameras together."""
        return self.cameras * self.frame_rate


@dataclass(frozen=True, slots=True)
class Clock:
    """Time, all in seconds."""

    now_s: Callable[[], float] = time.perf_counter
    cpu_s: Callable[[], float] = time.process_time
    sleep: Callable[[float], None] = time.sleep


@dataclass(slots=True)
class LoadRun:
    """One engine's run, in turns with others: its own time stands still between its turns, and its backlog stays."""

    engine: Engine
    load: CameraLoad
    due: int
    watched: Watched
    """The other cameras send the same."""
    clock: Clock
    _at_s: float = 0.0
    _busy_s: float = 0.0
    _cpu_s: float = 0.0
    _slowest_s: float = 0.0
    _latencies_s: list[float] = field(default_factory=list)
    """Of the clips scored so far, which are the first ones that came."""

    def turn(self, until_s: float) -> None:
        """Go on until the run's own time is ``until_s``: no call begins later, but one may end later.

        Raises:
            EngineFailed: the backend failed.
        """
        begin_cpu_s, begin_s = self.clock.cpu_s(), self.clock.now_s() - self._at_s
        while len(self._latencies_s) < self.due:
            ready_s = self._ready_s()
            self._wait_for(min(ready_s, until_s), begin_s)
            if max(ready_s, self._at_s) > until_s:
                break
            self._score(begin_s)
        self._cpu_s += self.clock.cpu_s() - begin_cpu_s

    def finish(self) -> None:
        """All clips have come: those that wait get the time of one wait and one call to be begun; what is left then, is left."""
        self.turn((self.due - 1) / self.load.clips_per_s + MAX_WAIT_S + self._slowest_s)

    def figures(self) -> LoadTestResult:
        """What was seen so far; at least one clip must have been scored."""
        scored = len(self._latencies_s)
        # After its last clip an engine is free until the next one would come.
        elapsed_s = max(self._at_s, self.due / self.load.clips_per_s)
        return LoadTestResult(
            due=self.due,
            scored=scored,
            clips_per_s=scored / elapsed_s,
            cpu_s_per_clip=self._cpu_s / scored,
            latency_ms={f"p{rank}": float(np.percentile(self._latencies_s, rank)) * 1000 for rank in (50, 95, 99)},
            busy_share=self._busy_s / elapsed_s,
        )

    def _ready_s(self) -> float:
        """When the next micro-batch is to be flushed."""
        first = len(self._latencies_s)
        full_at = first + self.engine.max_clips - 1
        # Of a model with a state and fewer cameras than that, no micro-batch is ever full.
        if full_at < self.due and self._most() == self.engine.max_clips:
            return min(self._due_s(first) + MAX_WAIT_S, self._due_s(full_at))
        return self._due_s(first) + MAX_WAIT_S

    def _wait_for(self, time_s: float, begin_s: float) -> None:
        if time_s > self._at_s:
            self.clock.sleep(time_s - self._at_s)
        self._at_s = max(time_s, self.clock.now_s() - begin_s)

    def _score(self, begin_s: float) -> None:
        first = len(self._latencies_s)
        # A clip that is waited for has come, however the sum of times was rounded.
        came = min(self.due, int(self._at_s * self.load.clips_per_s + _ROUNDING) + 1)
        numbers = range(first, first + max(1, min(self._most(), came - first)))
        self.watched.score(np.array(numbers) % self.watched.count)
        done_s = self.clock.now_s() - begin_s
        self._latencies_s += [done_s - self._due_s(number) for number in numbers]
        self._busy_s += done_s - self._at_s
        self._slowest_s = max(self._slowest_s, done_s - self._at_s)
        self._at_s = done_s

    def _most(self) -> int:
        """Clips that a micro-batch may hold."""
        return self.watched.count if self.watched.one_by_one else self.engine.max_clips

    def _due_s(self, number: int) -> float:
        return number / self.load.clips_per_s


def start_run(engine: Engine, load: CameraLoad, run_s: float, clips: Clips, clock: Clock | None = None) -> LoadRun:
    """Warm an engine up for a run of ``run_s`` seconds of its own time, at least one clip.

    ``clips``: any number of real ones, uint8 (N, T, H, W, C). Of them clips and states of at most ``max_clips`` cameras are made,
    so that a number of cameras that no machine has the memory for can be tried.

    Raises:
        EngineFailed: the backend failed.
    """
    cameras = np.arange(min(load.cameras, engine.max_clips))
    watched = watch(engine, clips[cameras % len(clips)])
    for _ in range(_WARM_UP_CALLS):
        watched.score(cameras)
    return LoadRun(engine, load, max(1, int(run_s * load.clips_per_s)), watched, clock or Clock())
