"""What engines on a GPU do with a call: cut it into pieces, and keep all slots busy."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.cuda.driver import Driver
from deploy.cuda.resident import LARGEST, Given, Store
from deploy.cuda.slots import OUTPUTS, Call, Program, Slot, cut
from deploy.device_frame import DeviceFrame
from deploy.engine import CheckedEngine, Clips, Frames, NewestScores, Options, Scores, State
from deploy.errors import ConfigError
from deploy.rows import FrameRow, StateRow
from deploy.spec import ClipSpec

SLOTS = 3
"""One copied in, one computed, one copied out."""


class GpuEngine(CheckedEngine):
    """See :class:`deploy.engine.ResidentEngine`. A backend gives its program and its name.

    Heat maps of clips that score less than ``heatmaps_from`` are not copied from the device; they hold NaN.
    """

    def __init__(self, spec: ClipSpec, options: Options, driver: Driver, program: Program, buckets: Sequence[int]) -> None:
        super().__init__(spec, options.max_clips)
        self.cameras = options.cameras
        self.buckets = tuple(buckets)
        self._shapes = {**program.shapes(), LARGEST: ()}
        self._program = program
        self._store = Store(driver, spec, self.cameras, self.max_clips) if self.cameras else None
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
            raise ConfigError(f"the {self.name} engine keeps nothing on its device; load it with cameras of at least 1, got 0")
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
