"""The cache in GPU memory: the last frames of each camera, the state of a recurrent model, and profiles.

They are rows of three tables. A row is written once, by the call that allocates it, and read until its handle dies; a
call writes only to new rows. So a failed call changes nothing, and a frame can be scored again with the same handles.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.engine import DEFAULT_ROW, RESERVED_ROWS, ZERO_ROW, FrameHandle, Handle, HandlePool, ProfileHandle, StateHandle
from deploy.errors import BadClips
from deploy.gpu.driver import CudaDriver, Dtype, Launch
from deploy.image import DeviceFrame
from deploy.spec import ClipSpec

ROW_INPUTS = frozenset({"clip_rows", "state_rows", "next_state_rows", "profile_rows"})  # they hold rows of the tables
STATE_MAX = "state_max"
"""Output: the largest magnitude of each next state, not finite if any value is not. The state itself stays on the device."""

Input = NDArray[Any] | Sequence[DeviceFrame]  # host values or frames on the device, one for each clip


@dataclass(frozen=True, slots=True)
class NewHandles:
    """The rows that a call writes to."""

    frames: list[FrameHandle]
    states: list[StateHandle]  # empty for a model without a state


class FrameStore:
    """Tables of frames and states for ``cameras`` cameras and calls of at most ``max_clips`` clips.

    Between calls each camera may hold ``spec.length - 1`` frames, one state and two profiles: its own and its next. There is room
    for the new rows of two more calls: the current one, and the previous one, whose old rows may not have been freed yet.
    """

    def __init__(
        self,
        driver: CudaDriver,
        spec: ClipSpec,
        cameras: int,
        max_clips: int,
        default_profile: NDArray[np.float32] | None = None,
    ) -> None:
        self._driver, self._spec = driver, spec
        self.frames = HandlePool(FrameHandle, "frames", cameras * (spec.length - 1) + 2 * max_clips, cameras)
        self.states = None if spec.state_shape is None else HandlePool(StateHandle, "states", cameras + 2 * max_clips, cameras)
        self._tables = {"frames": driver.zeros((RESERVED_ROWS + self.frames.capacity, *spec.frame_shape), "uint8")}
        self._frame_layout = _layout(self._tables["frames"][0])
        if self.states is not None and spec.state_shape is not None:
            self._tables["states"] = driver.zeros((RESERVED_ROWS + self.states.capacity, *spec.state_shape), "float32")
        self.profiles = None if default_profile is None else HandlePool(ProfileHandle, "profiles", 2 * cameras, cameras)
        if self.profiles is not None and default_profile is not None:
            self._tables["profiles"] = driver.zeros((RESERVED_ROWS + self.profiles.capacity, spec.profile_size), "float32")
            for row in range(RESERVED_ROWS):
                self._write_profile(row, default_profile)

    def buffers(self, clips: int) -> dict[str, Any]:
        """Device buffers for the inputs and outputs of :meth:`scorer` and :meth:`writer` that the model itself does not have."""
        layouts: dict[str, tuple[tuple[int, ...], Dtype]] = {
            "newest": (self._spec.frame_shape, "uint8"),
            "clip_rows": ((self._spec.length,), "int64"),
        }
        if self.states is not None:
            layouts |= {"state_rows": ((), "int64"), "next_state_rows": ((), "int64"), STATE_MAX: ((), "float32")}
        if self.profiles is not None:
            layouts["profile_rows"] = ((), "int64")
        return {name: self._driver.zeros((clips, *shape), dtype) for name, (shape, dtype) in layouts.items()}

    def writer(self, bucket: int, tensors: Mapping[str, Any]) -> Launch:
        """A launch that stores the first ``bucket`` newest frames in the last rows of their clips."""
        table, rows, newest = self._tables["frames"], tensors["clip_rows"][:bucket, -1], tensors["newest"][:bucket]
        return lambda: table.index_copy_(0, rows, newest)

    def scorer(self, bucket: int, tensors: Mapping[str, Any], program: Launch) -> Launch:
        """A launch that stores newest frames, gathers the other inputs, runs ``program``, and stores the next states."""
        launches = [self.writer(bucket, tensors), self._clips_gatherer(bucket, tensors), program]
        if self.states is not None:
            table, rows, state = self._tables["states"], tensors["state_rows"][:bucket], tensors["state"][:bucket]
            launches.insert(2, lambda: self._driver.gather(table, rows, state))
            launches.append(self._states_writer(bucket, tensors))
        if self.profiles is not None:
            profiles, places, profile = self._tables["profiles"], tensors["profile_rows"][:bucket], tensors["profile"][:bucket]
            launches.insert(2, lambda: self._driver.gather(profiles, places, profile))

        def launch() -> None:
            for part in launches:
                part()

        return launch

    def scorer_inputs(
        self,
        newest: NDArray[np.uint8] | Sequence[DeviceFrame],
        history: Sequence[Sequence[FrameHandle]],
        states: Sequence[StateHandle | None],
        profiles: Sequence[ProfileHandle | None],
        new: NewHandles,
    ) -> dict[str, Input]:
        clips = [[*frames, frame] for frames, frame in zip(history, new.frames, strict=True)]
        inputs: dict[str, Input] = {"newest": newest, "clip_rows": _rows(clips).reshape(-1, self._spec.length)}
        if self.states is not None:
            inputs["state_rows"] = np.array([ZERO_ROW if state is None else state.index for state in states], np.int64)
            inputs["next_state_rows"] = np.array([state.index for state in new.states], np.int64)
        if self.profiles is not None:
            rows = [DEFAULT_ROW if profile is None else profile.index for profile in profiles]
            inputs["profile_rows"] = np.array(rows, np.int64)
        return inputs

    def writer_inputs(self, frames: NDArray[np.uint8] | Sequence[DeviceFrame], new: NewHandles) -> dict[str, Input]:
        return {"newest": frames, "clip_rows": _rows([[frame] * self._spec.length for frame in new.frames])}

    def store_profiles(self, profiles: NDArray[np.float32]) -> list[ProfileHandle]:
        """Write profiles float32 (N, P) to free rows. Raises BadClips for a model without profiles, EngineFailed if full."""
        if self.profiles is None:
            raise BadClips("this model takes no profiles")
        handles = self.profiles.take(len(profiles))
        for handle, values in zip(handles, profiles, strict=True):
            self._write_profile(handle.index, values)
        return handles

    @contextmanager
    def allocate(self, n_frames: int, n_states: int) -> Iterator[NewHandles]:
        """Rows for a call to write to, freed again if it fails. Raises EngineFailed if fewer rows are free."""
        new = NewHandles([], [])
        try:
            new.frames.extend(self.frames.take(n_frames))
            if self.states is not None:
                new.states.extend(self.states.take(n_states))
            yield new
        except BaseException:
            # The error's traceback keeps ``new`` alive for as long as somebody holds the error.
            new.frames.clear()
            new.states.clear()
            raise

    def check_handles(
        self,
        n_clips: int,
        history: Sequence[Sequence[FrameHandle]],
        states: Sequence[StateHandle | None],
        profiles: Sequence[ProfileHandle | None],
    ) -> None:
        """Raise BadClips unless there are handles of this engine for each of ``n_clips`` newest frames."""
        if len(history) != n_clips:
            raise BadClips(f"{n_clips} newest frames need the history of each, got {len(history)}")
        for frames in history:
            if len(frames) != self._spec.length - 1:
                raise BadClips(f"a clip of this model has {self._spec.length - 1} frames before the newest, got {len(frames)}")
            if not all(self.frames.owns(frame) for frame in frames):
                raise BadClips("the history must be FrameHandles of this engine")
        _check_one_each("state", n_clips, states, self.states, "this model has no state")
        _check_one_each("profile", n_clips, profiles, self.profiles, "this model takes no profiles")

    def check_frames(self, frames: Sequence[object]) -> None:
        """Raise BadClips if a frame is not a DeviceFrame of the right dtype, shape and device."""
        for number, frame in enumerate(frames):
            if not isinstance(frame, DeviceFrame):
                kind = type(frame).__name__
                raise BadClips(f"frames must be one numpy array, or DeviceFrames all of them; frame {number} is of type {kind}")
            layout = _layout(frame.pixels)
            if layout != self._frame_layout:
                expected, actual = (
                    f"{dtype} {tuple(shape)} on {device}" for dtype, shape, device in (self._frame_layout, layout)
                )
                raise BadClips(f"frames on the device must be {expected}; frame {number} is {actual}")

    def free(self) -> None:
        """Free the tables; no launch may follow. Handles may outlive them."""
        self._tables.clear()

    def _write_profile(self, row: int, values: NDArray[np.float32]) -> None:
        target = self._tables["profiles"][row]
        host = self._driver.pinned_like(target)
        host.numpy()[:] = values
        target.copy_(host)  # returns when it is done, so that any stream may read the row

    def _clips_gatherer(self, bucket: int, tensors: Mapping[str, Any]) -> Launch:
        table, rows = self._tables["frames"], tensors["clip_rows"][:bucket].view(-1)
        clips = tensors["clips"][:bucket].view(-1, *self._spec.frame_shape)
        return lambda: self._driver.gather(table, rows, clips)

    def _states_writer(self, bucket: int, tensors: Mapping[str, Any]) -> Launch:
        table, rows = self._tables["states"], tensors["next_state_rows"][:bucket]
        next_state, state_max = tensors["next_state"][:bucket], tensors[STATE_MAX][:bucket]

        def launch() -> None:
            table.index_copy_(0, rows, next_state)
            state_max.copy_(next_state.abs().flatten(1).amax(1))

        return launch


def _check_one_each(
    name: str, n_clips: int, handles: Sequence[Handle | None], pool: HandlePool[Any] | None, without_pool: str
) -> None:
    """Raise BadClips unless there is a handle of ``pool``, or None, for each clip."""
    if len(handles) != n_clips:
        raise BadClips(f"{n_clips} newest frames need a {name} (or None) each, got {len(handles)}")
    given = [handle for handle in handles if handle is not None]
    if given and pool is None:
        raise BadClips(f"{without_pool}; score its frames with None for each")
    if pool is not None and not all(pool.owns(handle) for handle in given):
        raise BadClips(f"{name}s must be {name.title()}Handles of this engine, or None")


def _layout(tensor: Any) -> tuple[Any, Any, Any]:
    return tensor.dtype, tensor.shape, tensor.device


def _rows(clips: Sequence[Sequence[FrameHandle]]) -> NDArray[np.int64]:
    return np.array([[frame.index for frame in frames] for frames in clips], np.int64)
