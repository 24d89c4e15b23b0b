"""What engines on a GPU do with a call: cut it into pieces, and keep all slots busy."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.cuda.driver import Driver
from deploy.cuda.slots import OUTPUTS, Program, Slot, cut
from deploy.engine import CheckedEngine, Clips, Scores, State
from deploy.spec import ClipSpec

SLOTS = 3
"""One copied in, one computed, one copied out."""


class GpuEngine(CheckedEngine):
    """See :class:`deploy.engine.Engine`. A backend gives its program and its name.

    ``heatmaps_from``: heat maps of clips that score less are not copied from the device; they hold NaN.
    """

    def __init__(
        self, spec: ClipSpec, max_clips: int, driver: Driver, program: Program, buckets: Sequence[int], heatmaps_from: float
    ) -> None:
        super().__init__(spec, max_clips)
        self._heatmaps_from = heatmaps_from
        self.buckets = tuple(buckets)
        self._shapes = program.shapes()
        self._program = program
        self._slots = [Slot(driver, program, self.buckets) for _ in range(SLOTS)]

    def _run(self, clips: Clips, state: State | None) -> Scores:
        given: dict[str, NDArray[Any]] = {"clips": clips} if state is None else {"clips": clips, "state": state}
        results = self._empty_results(len(clips))
        try:
            for turn, piece in enumerate(cut(len(clips), self.buckets)):
                slot = self._slots[turn % SLOTS]
                slot.finish(results, self._needs_heatmap)
                slot.start(piece, given)
            for slot in self._slots:
                slot.finish(results, self._needs_heatmap)
        except BaseException:
            # What is still on its way belongs to this call: the next one must not be given it.
            for slot in self._slots:
                slot.abandon()
            raise
        return Scores(results["score"], results["heatmap"], results.get("next_state"))

    def _needs_heatmap(self, score: NDArray[np.float32]) -> NDArray[np.bool_]:
        needed: NDArray[np.bool_] = score >= self._heatmaps_from
        return needed

    def _empty_results(self, n_clips: int) -> Mapping[str, NDArray[Any]]:
        return {name: np.full((n_clips, *shape), np.nan, np.float32) for name, shape in self._shapes.items() if name in OUTPUTS}

    def _release(self) -> None:
        del self._slots, self._program
