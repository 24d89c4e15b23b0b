"""An engine whose states are laid out like those of the video model: two frames, and maps in which all frames left their mark."""

import numpy as np

from deploy.engine import CheckedEngine, Inputs, Scores
from deploy.memory import REMEMBERED_MAPS
from tests.harness.video_bundle import SPEC, UNIT

_PACKED = 16  # maps of a frame
HISTORY = SPEC.model_copy(update={"state_shape": (2 * _PACKED + REMEMBERED_MAPS, *(SPEC.state_shape or ())[1:])})


class HistoryEngine(CheckedEngine):
    """The score is what changed since the two frames before, and a hundredth of all brightness that ever was."""

    name = "history"

    def __init__(self) -> None:
        super().__init__(HISTORY, 32, UNIT)
        self.scored = 0

    def describe(self) -> dict[str, str]:
        return {"backend": self.name}

    def _run(self, inputs: Inputs) -> Scores:
        state, frames = inputs["state"], inputs["clips"].astype(np.float32)
        self.scored += len(frames)
        packed = frames.reshape(len(frames), _PACKED, *state.shape[2:])
        older, maps = np.split(state[:, : 2 * _PACKED], 2, axis=1), state[:, 2 * _PACKED :].copy()
        before = [np.where(maps[:, -1:, :1, :1] > 0, each, packed) for each in older]
        maps = 0.99 * maps + packed[:, :REMEMBERED_MAPS] / 255
        maps[:, -1] = 1
        changes = [np.abs(packed - each).mean(axis=(1, 2, 3)) / 255 for each in before]
        scores = changes[0] + changes[1] / 3 + maps[:, 2].mean(axis=(1, 2)) / 100
        return Scores(scores.astype(np.float32), maps[:, 2], np.concatenate([packed, before[0], maps], axis=1))

    def _release(self) -> None:
        pass
