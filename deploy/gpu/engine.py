"""Base of the GPU engines: a call is split into chunks that pass through slots, so that copies overlap with computing.

Each slot has its own buffers, streams, events and, for each bucket, its own captured launch. A bucket is a batch size with a
captured launch; a smaller chunk runs in the next larger bucket, and the results of the unused rows are ignored.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from deploy.engine import (
    SCRATCH_ROW,
    CheckedEngine,
    EngineRequest,
    FrameHandle,
    Frames,
    Inputs,
    NewestScores,
    ProfileHandle,
    Profiles,
    Scores,
    StateHandle,
)
from deploy.errors import ConfigError
from deploy.gpu.driver import CudaDriver, Launch
from deploy.gpu.store import ROW_INPUTS, STATE_MAX, FrameStore, Input
from deploy.image import DeviceFrame
from deploy.spec import ClipSpec

INPUTS = ("clips", "state", "profile")
OUTPUTS = ("score", "heatmap", "next_state")
SLOTS = 3  # while one chunk is computed, the next is copied in and the previous one copied out

Mode = Literal["clips", "newest", "upload"]  # copied in: whole clips, newest frames of cached clips, or frames not scored yet


class Program(Protocol):
    """A loaded model on a device."""

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of all inputs and outputs, by name, for one clip."""

    def launcher(self, bucket: int, tensors: Mapping[str, Any]) -> Launch:
        """A launch that scores the first ``bucket`` rows of ``tensors``, given by name."""


def program_shapes(spec: ClipSpec, heatmap: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """:meth:`Program.shapes` of a model of ``spec`` with heat maps of shape ``heatmap``."""
    next_state = {} if spec.state_shape is None else {"next_state": spec.state_shape}
    return {**spec.input_shapes, "score": (), "heatmap": tuple(heatmap), **next_state}


class Chunk(NamedTuple):
    """Rows ``begin`` to ``end`` of a call, run in ``bucket``."""

    begin: int
    end: int
    bucket: int


def split_call(n_clips: int, buckets: Sequence[int]) -> Iterator[Chunk]:
    """Chunks of a call: full ones of the largest bucket, and the rest in the smallest that holds it. ``buckets`` rise."""
    begin = 0
    while begin < n_clips:
        size = min(n_clips - begin, buckets[-1])
        yield Chunk(begin, begin + size, next(bucket for bucket in buckets if bucket >= size))
        begin += size


def buckets_for(max_clips: int, available: Sequence[int]) -> tuple[int, ...]:
    """The buckets that calls of up to ``max_clips`` may need: the smaller ones and the first that holds a whole call, or all."""
    smaller = [bucket for bucket in available if bucket < max_clips]
    return (*smaller, *[bucket for bucket in available if bucket >= max_clips][:1])


@dataclass(frozen=True, slots=True)
class Call:
    """Inputs and results of a call, by name, a row for each clip.

    Must be kept unchanged until all chunks are finished, because copies from frames on the device are asynchronous.
    """

    mode: Mode
    inputs: Mapping[str, Input]
    results: Mapping[str, NDArray[Any]]


class _PerStage(NamedTuple):
    """A stream or an event for each stage of a chunk."""

    copy_in: Any
    compute: Any
    copy_out: Any


class Slot:
    """Buffers and launches for one chunk at a time. Without a ``store`` only the mode ``clips`` is available."""

    def __init__(self, driver: CudaDriver, program: Program, buckets: Sequence[int], store: FrameStore | None) -> None:
        self._driver = driver
        self._streams = _PerStage(driver.new_stream(), driver.new_stream(), driver.new_stream())
        self._done = _PerStage(driver.new_event(), driver.new_event(), driver.new_event())
        self._on_device = {
            name: driver.zeros((buckets[-1], *shape), "uint8" if name == "clips" else "float32")
            for name, shape in program.shapes().items()
        }
        programs = {bucket: program.launcher(bucket, self._on_device) for bucket in buckets}
        self._launches: dict[Mode, dict[int, Launch]] = {"clips": self._captured(programs)}
        if store is not None:
            self._on_device |= store.buffers(buckets[-1])
            scoring = {bucket: store.scorer(bucket, self._on_device, launch) for bucket, launch in programs.items()}
            self._launches["newest"] = self._captured(scoring)
            self._launches["upload"] = {bucket: store.writer(bucket, self._on_device) for bucket in buckets}
        self._on_host = {name: driver.pinned_like(values) for name, values in self._on_device.items()}
        self._work: tuple[Chunk, Call] | None = None

    def start(self, chunk: Chunk, call: Call) -> None:
        """Enqueue a chunk of ``call`` and return at once. The slot must be free."""
        self._work, rows = (chunk, call), chunk.end - chunk.begin
        with self._driver.use_stream(self._streams.copy_in):
            for name, values in call.inputs.items():
                self._send(name, values[chunk.begin : chunk.end], chunk.bucket)
            self._done.copy_in.record(self._streams.copy_in)
        self._done.copy_in.wait(self._streams.compute)
        with self._driver.use_stream(self._streams.compute):
            self._launches[call.mode][chunk.bucket]()
            self._done.compute.record(self._streams.compute)
        self._done.compute.wait(self._streams.copy_out)
        with self._driver.use_stream(self._streams.copy_out):
            for name in call.results.keys() - {"heatmap"}:
                self._on_host[name][:rows].copy_(self._on_device[name][:rows], non_blocking=True)
            self._done.copy_out.record(self._streams.copy_out)

    def finish(self, heatmap_threshold: float) -> None:
        """Wait for the chunk, if there is one, and write its outputs, but heat maps only if needed, to its call's results."""
        if self._work is None:
            return
        (chunk, call), self._work = self._work, None
        self._done.copy_out.synchronize()
        for name in call.results.keys() - {"heatmap"}:
            call.results[name][chunk.begin : chunk.end] = self._on_host[name].numpy()[: chunk.end - chunk.begin]
        if "heatmap" in call.results:
            needed = np.flatnonzero(call.results["score"][chunk.begin : chunk.end] >= heatmap_threshold)
            if len(needed):
                with self._driver.use_stream(self._streams.copy_out):
                    call.results["heatmap"][chunk.begin + needed] = self._on_device["heatmap"][needed.tolist()].cpu().numpy()

    def compute(self, bucket: int) -> None:
        """Score the clips on the device once more, without copies. Blocks until done. The slot must be free."""
        with self._driver.use_stream(self._streams.compute):
            self._launches["clips"][bucket]()
            self._done.compute.record(self._streams.compute)
        self._done.compute.synchronize()

    def abandon(self) -> None:
        """Drop the chunk, after the device has stopped reading and writing its memory."""
        self._work = None
        with suppress(RuntimeError):  # an error of the device is raised again at every call
            # The failed step may have enqueued work without recording its event.
            for event, stream in zip(self._done, self._streams, strict=True):
                event.record(stream)
            for event in self._done:
                event.synchronize()

    def _captured(self, launches: Mapping[int, Launch]) -> dict[int, Launch]:
        return {bucket: self._driver.capture(launch, self._streams.compute) for bucket, launch in launches.items()}

    def _send(self, name: str, values: Input, bucket: int) -> None:
        if not isinstance(values, np.ndarray):
            self._driver.stack([frame.pixels for frame in values], self._on_device[name][: len(values)])
            return
        host, rows = self._on_host[name], len(values)
        host.numpy()[:rows] = values
        if name in ROW_INPUTS:
            # Row numbers left over from an earlier chunk would overwrite rows that belong to others by now.
            host.numpy()[rows:bucket] = SCRATCH_ROW
            rows = bucket
        self._on_device[name][:rows].copy_(host[:rows], non_blocking=True)


class GpuEngine(CheckedEngine):
    """A :class:`deploy.engine.CachingEngine` around a backend's ``program``.

    Heat maps of clips that score less than ``heatmap_threshold`` are not copied from the device; they are NaN.
    """

    def __init__(
        self,
        spec: ClipSpec,
        request: EngineRequest,
        driver: CudaDriver,
        program: Program,
        buckets: Sequence[int],
        default_profile: NDArray[np.float32] | None = None,
    ) -> None:
        super().__init__(spec, request.max_clips, default_profile)
        self.gpu_cached_cameras = request.gpu_cached_cameras
        self.buckets = tuple(buckets)
        self._shapes = {**program.shapes(), STATE_MAX: ()}
        self._program = program
        cameras = self.gpu_cached_cameras
        self._store = FrameStore(driver, spec, cameras, self.max_clips, default_profile) if cameras else None
        self._slots = [Slot(driver, program, self.buckets, self._store) for _ in range(SLOTS)]

    def score_newest(
        self,
        newest: Frames | Sequence[DeviceFrame],
        history: Sequence[Sequence[FrameHandle]],
        states: Sequence[StateHandle | None],
        profiles: Sequence[ProfileHandle | None] | None = None,
    ) -> NewestScores:
        store, n_clips = self._checked_store(newest), len(newest)
        profiles = [None] * n_clips if profiles is None else profiles
        store.check_handles(n_clips, history, states, profiles)
        with store.allocate(n_clips, n_clips) as new:
            inputs = store.scorer_inputs(newest, history, states, profiles, new)
            results = self._empty_results(n_clips, {"score", "heatmap", STATE_MAX} if new.states else {"score", "heatmap"})
            with self._locked(f"scoring {n_clips} newest frames failed"):
                self._run_in_slots(n_clips, Call("newest", inputs, results))
            self._check_score_and_heatmap(n_clips, results["score"], results["heatmap"])
            if STATE_MAX in results:
                self._check_state_is_finite(results[STATE_MAX])
            return NewestScores(results["score"], results["heatmap"], [*new.frames], [*new.states] or [None] * n_clips)

    def upload(self, frames: Frames | Sequence[DeviceFrame]) -> list[FrameHandle]:
        store = self._checked_store(frames)
        with store.allocate(len(frames), 0) as new:
            with self._locked(f"uploading {len(frames)} frames failed"):
                self._run_in_slots(len(frames), Call("upload", store.writer_inputs(frames, new), {}))
            return [*new.frames]

    def upload_profiles(self, profiles: Profiles) -> list[ProfileHandle]:
        store, values = self._caching_store(), self._checked_profile(len(profiles), profiles)
        with self._locked(f"uploading {len(profiles)} profiles failed"):
            return [] if values is None else store.store_profiles(values)

    def compute(self, n_clips: int) -> None:
        """Score ``n_clips`` clips that are on the device, without copies, to measure a call's pure computing time."""
        with self._locked(f"computing {n_clips} clips failed"):
            for chunk in split_call(n_clips, self.buckets):
                self._slots[0].compute(chunk.bucket)

    def _run(self, inputs: Inputs) -> Scores:
        n_clips = len(inputs["clips"])
        results = self._empty_results(n_clips, OUTPUTS)
        self._run_in_slots(n_clips, Call("clips", inputs, results))
        return Scores(results["score"], results["heatmap"], results.get("next_state"))

    def _run_in_slots(self, n_clips: int, call: Call) -> None:
        try:
            for number, chunk in enumerate(split_call(n_clips, self.buckets)):
                slot = self._slots[number % SLOTS]
                slot.finish(self.heatmap_threshold)
                slot.start(chunk, call)
            for slot in self._slots:
                slot.finish(self.heatmap_threshold)
        except BaseException:
            # The next call must not receive results of this one.
            for slot in self._slots:
                slot.abandon()
            raise

    def _checked_store(self, frames: Frames | Sequence[DeviceFrame]) -> FrameStore:
        store = self._caching_store()
        if isinstance(frames, Sequence):
            self._check_number("frames", frames)
            store.check_frames(frames)
        else:
            self._check_array("frames", frames, self.spec.frame_shape)
        return store

    def _caching_store(self) -> FrameStore:
        if self._store is None:
            raise ConfigError(f"the {self.name} engine caches no frames; load it with gpu_cached_cameras of at least 1, got 0")
        return self._store

    def _empty_results(self, n_clips: int, names: Collection[str]) -> dict[str, NDArray[Any]]:
        return {name: np.full((n_clips, *shape), np.nan, np.float32) for name, shape in self._shapes.items() if name in names}

    def _release(self) -> None:
        del self._slots, self._program
        if self._store is not None:
            self._store.free()
