"""Cameras as an engine watches them in the service, their clips and states going up whole or staying on its device."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deploy.engine import Clips, Engine, ResidentEngine, State, resident, upload_before
from deploy.rows import StateRow


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
