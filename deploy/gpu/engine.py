"""What engines on a GPU do with a call: cut it into pieces, and keep all slots busy.

Micro-batches on their way through a GPU: while one is computed, the next is copied in and the one before it out.

Each slot has its own buffers, streams, events and, for each bucket, its own captured launch. A bucket is a number of clips that
is launched at once; fewer are filled up with what lies in the buffer from earlier, whose scores nobody looks at.

There are three ways through a slot: whole clips go up, or only the newest frames, or frames that are not scored yet.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from deploy.engine import CheckedEngine, Clips, EngineRequest, Frames, NewestScores, Scores, State
from deploy.errors import ConfigError
from deploy.gpu.driver import Driver, Launch
from deploy.gpu.store import LARGEST, ROW_NUMBERS, Given, Store
from deploy.handles import SCRATCH, FrameRow, StateRow
from deploy.image import DeviceFrame
from deploy.spec import ClipSpec

INPUTS = ("clips", "state")
OUTPUTS = ("score", "heatmap", "next_state")
KEEP_ON_DEVICE = frozenset({"heatmap"})
"""Outputs that are copied out only for the clips that need them."""


Way = Literal["clips", "newest", "upload"]
"""What goes up: whole clips, or newest frames for clips and states that are there, or frames alone; see :class:`Slot`."""

NeedsHeatmap = Callable[[NDArray[np.float32]], NDArray[np.bool_]]
"""Scores float32 (N,) to bool (N,)."""


class Program(Protocol):
    """A loaded model on a device."""

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of one clip: sizes of each input and output by name."""

    def launcher(self, bucket: int, tensors: Mapping[str, Any]) -> Launch:
        """What scores the first ``bucket`` rows of ``tensors``, by name, on the current stream."""


class Piece(NamedTuple):
    """Part of a call: rows ``begin`` to ``end``, launched as ``bucket``."""

    begin: int
    end: int
    bucket: int


def cut(n_clips: int, buckets: Sequence[int]) -> Iterator[Piece]:
    """A call in pieces: full ones of the largest bucket, and the rest in the smallest that holds it. ``buckets`` rise."""
    begin = 0
    while begin < n_clips:
        size = min(n_clips - begin, buckets[-1])
        yield Piece(begin, begin + size, next(bucket for bucket in buckets if bucket >= size))
        begin += size


def buckets_for(max_clips: int, offered: Sequence[int]) -> tuple[int, ...]:
    """The buckets that a call of ``max_clips`` may need: those below it and the first that holds it, or all."""
    smaller = [bucket for bucket in offered if bucket < max_clips]
    return (*smaller, *[bucket for bucket in offered if bucket >= max_clips][:1])


@dataclass(frozen=True, slots=True)
class Call:
    """What a call brings, and where its results go: by name, a row for each clip.

    It stays what it is until all its pieces are finished: copies from frames on the device are then under way.
    """

    way: Way
    given: Mapping[str, Given]
    results: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class _Streams:
    copy_in: Any
    compute: Any
    copy_out: Any


@dataclass(frozen=True, slots=True)
class _Events:
    arrived: Any
    computed: Any
    returned: Any


class Slot:
    """Buffers and launches for one piece at a time. Without a ``store`` there is one way, ``clips``."""

    def __init__(self, driver: Driver, program: Program, buckets: Sequence[int], store: Store | None) -> None:
        self._driver = driver
        self._streams = _Streams(driver.stream(), driver.stream(), driver.stream())
        self._events = _Events(driver.event(), driver.event(), driver.event())
        self._on_device = _buffers(program, buckets[-1], driver)
        programs = {bucket: program.launcher(bucket, self._on_device) for bucket in buckets}
        self._launches: dict[Way, dict[int, Launch]] = {"clips": self._captured(programs)}
        if store is not None:
            self._on_device |= store.buffers(buckets[-1])
            scoring = {bucket: store.scorer(bucket, self._on_device, launch) for bucket, launch in programs.items()}
            self._launches["newest"] = self._captured(scoring)
            self._launches["upload"] = {bucket: store.writer(bucket, self._on_device) for bucket in buckets}
        self._on_host = {name: driver.pinned_like(values) for name, values in self._on_device.items()}
        self._work: tuple[Piece, Call] | None = None

    def start(self, piece: Piece, call: Call) -> None:
        """Enqueue a piece of ``call``; returns at once. The slot must be free."""
        self._work, rows = (piece, call), piece.end - piece.begin
        with self._driver.on(self._streams.copy_in):
            for name, values in call.given.items():
                self._send(name, values[piece.begin : piece.end], piece.bucket)
            self._events.arrived.record(self._streams.copy_in)
        self._events.arrived.wait(self._streams.compute)
        with self._driver.on(self._streams.compute):
            self._launches[call.way][piece.bucket]()
            self._events.computed.record(self._streams.compute)
        self._events.computed.wait(self._streams.copy_out)
        with self._driver.on(self._streams.copy_out):
            for name in call.results.keys() - KEEP_ON_DEVICE:
                self._on_host[name][:rows].copy_(self._on_device[name][:rows], non_blocking=True)
            self._events.returned.record(self._streams.copy_out)

    def finish(self, needs_heatmap: NeedsHeatmap) -> None:
        """Wait for the piece, if there is one, and put its outputs where they belong in the results of its call.

        Heat maps that are not needed are left as they are there.
        """
        if self._work is None:
            return
        (piece, call), self._work = self._work, None
        self._events.returned.synchronize()
        for name in call.results.keys() - KEEP_ON_DEVICE:
            call.results[name][piece.begin : piece.end] = self._on_host[name].numpy()[: piece.end - piece.begin]
        if call.results.keys() >= KEEP_ON_DEVICE:
            wanted = np.flatnonzero(needs_heatmap(call.results["score"][piece.begin : piece.end]))
            for name in KEEP_ON_DEVICE if len(wanted) else ():
                call.results[name][piece.begin + wanted] = self._fetch(name, wanted)

    def compute(self, bucket: int) -> None:
        """Score what lies on the device once more: nothing is copied in or out. Blocks until done. The slot must be free."""
        with self._driver.on(self._streams.compute):
            self._launches["clips"][bucket]()
            self._events.computed.record(self._streams.compute)
        self._events.computed.synchronize()

    def abandon(self) -> None:
        """Forget the piece, once the device no longer reads or writes what belongs to it."""
        self._work = None
        with suppress(RuntimeError):  # an error of the device comes again at every call
            # What failed may have enqueued a part of its work and recorded no event after it.
            self._events.arrived.record(self._streams.copy_in)
            self._events.computed.record(self._streams.compute)
            self._events.returned.record(self._streams.copy_out)
            for event in (self._events.arrived, self._events.computed, self._events.returned):
                event.synchronize()

    def _captured(self, launches: Mapping[int, Launch]) -> dict[int, Launch]:
        return {bucket: self._driver.captured(launch, self._streams.compute) for bucket, launch in launches.items()}

    def _send(self, name: str, values: Given, bucket: int) -> None:
        if not isinstance(values, np.ndarray):
            self._driver.stack([frame.pixels for frame in values], self._on_device[name][: len(values)])
            return
        host, rows = self._on_host[name], len(values)
        host.numpy()[:rows] = values
        if name in ROW_NUMBERS:
            # Numbers left over from an earlier piece would have this one write to rows that are somebody else's now.
            host.numpy()[rows:bucket] = SCRATCH
            rows = bucket
        self._on_device[name][:rows].copy_(host[:rows], non_blocking=True)

    def _fetch(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        with self._driver.on(self._streams.copy_out):
            kept: NDArray[Any] = self._on_device[name][rows.tolist()].cpu().numpy()
        return kept


def _buffers(program: Program, rows: int, driver: Driver) -> dict[str, Any]:
    return {
        name: driver.zeros((rows, *shape), "uint8" if name == "clips" else "float32") for name, shape in program.shapes().items()
    }


def program_shapes(spec: ClipSpec, heatmap: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """What a program of ``spec`` takes and gives for one clip; ``heatmap``: sizes of the heat map."""
    shapes: dict[str, tuple[int, ...]] = {"clips": spec.clip_shape, "score": (), "heatmap": tuple(heatmap)}
    state = spec.state_shape
    return shapes if state is None else {**shapes, "state": state, "next_state": state}


SLOTS = 3
"""One copied in, one computed, one copied out."""


class GpuEngine(CheckedEngine):
    """See :class:`deploy.engine.ResidentEngine`. A backend gives its program and its name.

    Heat maps of clips that score less than ``heatmaps_from`` are not copied from the device; they hold NaN.
    """

    def __init__(self, spec: ClipSpec, request: EngineRequest, driver: Driver, program: Program, buckets: Sequence[int]) -> None:
        super().__init__(spec, request.max_clips)
        self.gpu_cached_cameras = request.gpu_cached_cameras
        self.buckets = tuple(buckets)
        self._shapes = {**program.shapes(), LARGEST: ()}
        self._program = program
        self._store = Store(driver, spec, self.gpu_cached_cameras, self.max_clips) if self.gpu_cached_cameras else None
        self._slots = [Slot(driver, program, self.buckets, self._store) for _ in range(SLOTS)]

    def score_newest(
        self, newest: Frames | Sequence[DeviceFrame], before: Sequence[Sequence[FrameRow]], states: Sequence[StateRow | None]
    ) -> NewestScores:
        """See :meth:`deploy.engine.ResidentEngine.score_newest`."""
        store, n_clips = self._checked_store(newest), len(newest)
        store.check(n_clips, before, states)
        with store.new_rows(n_clips, n_clips) as new:
            inputs = store.given(newest, before, states, new)
            results = self._empty_results(n_clips, {"score", "heatmap", LARGEST} if new.states else {"score", "heatmap"})
            with self._in_turn(f"scoring {n_clips} newest frames failed"):
                self._through_slots(n_clips, Call("newest", inputs, results))
            self._check_numbers(n_clips, results["score"], results["heatmap"])
            if LARGEST in results:
                self._check_state_numbers(results[LARGEST])
            return NewestScores(results["score"], results["heatmap"], [*new.frames], [*new.states] or [None] * n_clips)

    def upload(self, frames: Frames | Sequence[DeviceFrame]) -> list[FrameRow]:
        """See :meth:`deploy.engine.ResidentEngine.upload`."""
        store = self._checked_store(frames)
        with store.new_rows(len(frames), 0) as new:
            with self._in_turn(f"uploading {len(frames)} frames failed"):
                self._through_slots(len(frames), Call("upload", store.uploaded(frames, new), {}))
            return [*new.frames]

    def compute(self, n_clips: int) -> None:
        """Score so many of the clips that lie on the device, with nothing copied: what is left of a call without its copies."""
        with self._in_turn(f"computing {n_clips} clips failed"):
            for piece in cut(n_clips, self.buckets):
                self._slots[0].compute(piece.bucket)

    def _run(self, clips: Clips, state: State | None) -> Scores:
        inputs: dict[str, Given] = {"clips": clips} if state is None else {"clips": clips, "state": state}
        results = self._empty_results(len(clips), OUTPUTS)
        self._through_slots(len(clips), Call("clips", inputs, results))
        return Scores(results["score"], results["heatmap"], results.get("next_state"))

    def _through_slots(self, n_clips: int, call: Call) -> None:
        try:
            for turn, piece in enumerate(cut(n_clips, self.buckets)):
                slot = self._slots[turn % SLOTS]
                slot.finish(self._needs_heatmap)
                slot.start(piece, call)
            for slot in self._slots:
                slot.finish(self._needs_heatmap)
        except BaseException:
            # What is still on its way belongs to this call: the next one must not be given it.
            for slot in self._slots:
                slot.abandon()
            raise

    def _checked_store(self, frames: Frames | Sequence[DeviceFrame]) -> Store:
        if self._store is None:
            raise ConfigError(f"the {self.name} engine caches no frames; load it with gpu_cached_cameras of at least 1, got 0")
        if isinstance(frames, Sequence):
            self._check_number("frames", frames)
            self._store.check_frames(frames)
        else:
            self._check_pictures("frames", frames, self.spec.frame_shape)
        return self._store

    def _needs_heatmap(self, score: NDArray[np.float32]) -> NDArray[np.bool_]:
        needed: NDArray[np.bool_] = score >= self.heatmaps_from
        return needed

    def _empty_results(self, n_clips: int, names: Collection[str]) -> dict[str, NDArray[Any]]:
        return {name: np.full((n_clips, *shape), np.nan, np.float32) for name, shape in self._shapes.items() if name in names}

    def _release(self) -> None:
        del self._slots, self._program
        if self._store is not None:
            self._store.free()
