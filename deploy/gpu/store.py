"""What stays on the device between calls: the last frames of each camera, and what a recurrent model remembers of it.

Frames and states lie in rows of two tables. A row is written once, by the call that takes it, and read until its handle dies; a
call writes to new rows only. So a call that fails changes nothing, and a frame can be scored again with the same handles.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.errors import BadClips
from deploy.gpu.driver import Driver, Kind, Launch
from deploy.handles import NOTHING, RESERVED, FrameRow, Rows, StateRow
from deploy.image import DeviceFrame
from deploy.spec import ClipSpec

ROW_NUMBERS = frozenset({"clip_rows", "state_rows", "next_state_rows"})
"""Inputs that say where in the tables a clip's frames and states are."""
LARGEST = "largest_of_state"
"""Output: the largest magnitude in each next state, no finite number if one of its values is none. The state itself stays."""

Given = NDArray[Any] | Sequence[DeviceFrame]
"""An input: values on the host, or frames that lie on the device; one for each clip."""


@dataclass(frozen=True, slots=True)
class NewRows:
    """What a call writes to: a row for each newest frame, and for each next state where the model has one."""

    frames: list[FrameRow]
    states: list[StateRow]

    def clear(self) -> None:
        """Let go of all of them."""
        self.frames.clear()
        self.states.clear()


class Store:
    """Tables of frames and states on a device, for ``cameras`` cameras and calls of at most ``max_clips`` clips.

    Between calls each camera may hold ``spec.length - 1`` frames and one state. Besides, there is room for the new frames and
    states of two calls: of one, and of the one before it whose older rows were not let go yet.
    """

    def __init__(self, driver: Driver, spec: ClipSpec, cameras: int, max_clips: int) -> None:
        self._driver, self._spec = driver, spec
        self.frames = Rows(FrameRow, "frames", cameras * (spec.length - 1) + 2 * max_clips, cameras)
        self.states = None if spec.state_shape is None else Rows(StateRow, "states", cameras + 2 * max_clips, cameras)
        self._tables = {"frames": driver.zeros((RESERVED + self.frames.capacity, *spec.frame_shape), "uint8")}
        self._frames_are = _kind(self._tables["frames"][0])
        if self.states is not None and spec.state_shape is not None:
            self._tables["states"] = driver.zeros((RESERVED + self.states.capacity, *spec.state_shape), "float32")

    def buffers(self, clips: int) -> dict[str, Any]:
        """What the launches of :meth:`scorer` and :meth:`writer` take and give, for as many clips, besides a program's own."""
        kinds: dict[str, tuple[tuple[int, ...], Kind]] = {
            "newest": (self._spec.frame_shape, "uint8"),
            "clip_rows": ((self._spec.length,), "int64"),
        }
        if self.states is not None:
            kinds |= {"state_rows": ((), "int64"), "next_state_rows": ((), "int64"), LARGEST: ((), "float32")}
        return {name: self._driver.zeros((clips, *shape), kind) for name, (shape, kind) in kinds.items()}

    def writer(self, bucket: int, tensors: Mapping[str, Any]) -> Launch:
        """What writes the first ``bucket`` of the newest frames to the rows that their clips end with."""
        table, rows, newest = self._tables["frames"], tensors["clip_rows"][:bucket, -1], tensors["newest"][:bucket]

        def launch() -> None:
            table.index_copy_(0, rows, newest)

        return launch

    def scorer(self, bucket: int, tensors: Mapping[str, Any], program: Launch) -> Launch:
        """What writes newest frames, gathers clips and states for ``program``, runs it, and keeps the next states."""
        write, gather_clips = self.writer(bucket, tensors), self._clips_gatherer(bucket, tensors)
        if self.states is None:
            return _one_after_the_other(write, gather_clips, program)
        return _one_after_the_other(
            write, gather_clips, self._states_gatherer(bucket, tensors), program, self._state_keeper(bucket, tensors)
        )

    def given(
        self,
        newest: NDArray[np.uint8] | Sequence[DeviceFrame],
        before: Sequence[Sequence[FrameRow]],
        states: Sequence[StateRow | None],
        new: NewRows,
    ) -> dict[str, Given]:
        """Inputs of :meth:`scorer` by name."""
        clips = [[*rows, row] for rows, row in zip(before, new.frames, strict=True)]
        inputs: dict[str, Given] = {"newest": newest, "clip_rows": _numbers(clips).reshape(-1, self._spec.length)}
        if self.states is not None:
            inputs["state_rows"] = np.array([NOTHING if row is None else row.index for row in states], np.int64)
            inputs["next_state_rows"] = np.array([row.index for row in new.states], np.int64)
        return inputs

    def uploaded(self, frames: NDArray[np.uint8] | Sequence[DeviceFrame], new: NewRows) -> dict[str, Given]:
        """Inputs of :meth:`writer` by name."""
        return {"newest": frames, "clip_rows": _numbers([[row] * self._spec.length for row in new.frames])}

    @contextmanager
    def new_rows(self, n_frames: int, n_states: int) -> Iterator[NewRows]:
        """Free rows for a call to write to; they are free again if it fails.

        Raises:
            EngineFailed: there are not as many.
        """
        new = NewRows([], [])
        try:
            new.frames.extend(self.frames.take(n_frames))
            if self.states is not None:
                new.states.extend(self.states.take(n_states))
            yield new
        except BaseException:
            # Whoever keeps the error keeps its traceback, and with it the names in there.
            new.clear()
            raise

    def check(self, n_clips: int, before: Sequence[Sequence[FrameRow]], states: Sequence[StateRow | None]) -> None:
        """Check the handles that ``n_clips`` newest frames come with.

        Raises:
            BadClips: some are missing, too many, or not of this store.
        """
        self._check_before(n_clips, before)
        self._check_states(n_clips, states)

    def check_frames(self, frames: Sequence[object]) -> None:
        """Check frames that are said to lie on the device.

        Raises:
            BadClips: one is of another type, shape or device, or lies on the host.
        """
        for number, frame in enumerate(frames):
            if not isinstance(frame, DeviceFrame):
                kind = type(frame).__name__
                raise BadClips(f"frames must be one numpy array, or DeviceFrames all of them; frame {number} is of type {kind}")
            found = _kind(frame.pixels)
            if found != self._frames_are:
                raise BadClips(f"frames on the device must be {_told(*self._frames_are)}; frame {number} is {_told(*found)}")

    def free(self) -> None:
        """Let go of the tables; no launch may follow. Handles stay harmless."""
        self._tables.clear()

    def _clips_gatherer(self, bucket: int, tensors: Mapping[str, Any]) -> Launch:
        table, rows = self._tables["frames"], tensors["clip_rows"][:bucket].view(-1)
        clips = tensors["clips"][:bucket].view(-1, *self._spec.frame_shape)
        return lambda: self._driver.gather(table, rows, clips)

    def _states_gatherer(self, bucket: int, tensors: Mapping[str, Any]) -> Launch:
        table, rows, state = self._tables["states"], tensors["state_rows"][:bucket], tensors["state"][:bucket]
        return lambda: self._driver.gather(table, rows, state)

    def _state_keeper(self, bucket: int, tensors: Mapping[str, Any]) -> Launch:
        table, rows = self._tables["states"], tensors["next_state_rows"][:bucket]
        following, largest = tensors["next_state"][:bucket], tensors[LARGEST][:bucket]

        def launch() -> None:
            table.index_copy_(0, rows, following)
            largest.copy_(following.abs().flatten(1).amax(1))

        return launch

    def _check_before(self, n_clips: int, before: Sequence[Sequence[FrameRow]]) -> None:
        wanted = self._spec.length - 1
        if len(before) != n_clips:
            raise BadClips(f"{n_clips} newest frames need the frames before each, got those of {len(before)}")
        for rows in before:
            if len(rows) != wanted:
                raise BadClips(f"a clip of this model is {wanted} frames before the newest, got {len(rows)}")
            if not all(self.frames.owns(row) for row in rows):
                raise BadClips("the frames before the newest must be FrameRows that this engine gave")

    def _check_states(self, n_clips: int, states: Sequence[StateRow | None]) -> None:
        if len(states) != n_clips:
            raise BadClips(f"{n_clips} newest frames need a state (or None) each, got {len(states)}")
        given = [row for row in states if row is not None]
        if given and self.states is None:
            raise BadClips("this model carries no state; score its frames with None for each")
        if self.states is not None and not all(self.states.owns(row) for row in given):
            raise BadClips("states must be StateRows that this engine gave, or None")


def _kind(tensor: Any) -> tuple[Any, Any, Any]:
    return tensor.dtype, tensor.shape, tensor.device


def _told(dtype: Any, shape: Any, device: Any) -> str:
    return f"{dtype} {tuple(shape)} on {device}"


def _numbers(clips: Sequence[Sequence[FrameRow]]) -> NDArray[np.int64]:
    return np.array([[row.index for row in rows] for rows in clips], np.int64)


def _one_after_the_other(*launches: Launch) -> Launch:
    def launch() -> None:
        for part in launches:
            part()

    return launch
