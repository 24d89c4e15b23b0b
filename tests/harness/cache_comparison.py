"""Scores cameras twice with one engine, from uploaded clips and from cached frames, and compares bit for bit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from deploy.engine import CachingEngine, FrameHandle, Frames, NewestScores, ProfileHandle, Scores, StateHandle
from deploy.image import DeviceFrame

Event = Literal["next", "gap", "again"]
"""A camera's next frame, its first after a gap, or its next one scored twice."""


@dataclass
class _Camera:
    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    state: NDArray[np.float32] | None = None
    frame_rows: list[FrameHandle] = field(default_factory=list)
    state_row: StateHandle | None = None
    profile: NDArray[np.float32] | None = None
    profile_row: ProfileHandle | None = None


class CacheComparison:
    """Feeds random frames; ``on_device``: newest frames are on the device already, as a GPU decoder leaves them."""

    def __init__(self, engine: CachingEngine, seed: int, *, on_device: bool = False) -> None:
        self.engine = engine
        self.on_device = on_device
        self.spec = engine.spec
        self.scored = 0
        self.cameras: dict[int, _Camera] = {}
        self._random = np.random.default_rng(seed)

    def step(self, events: Mapping[int, Event]) -> None:
        for number, event in events.items():
            if event == "gap" or number not in self.cameras:
                self.cameras[number] = self._new_camera(number)
        frames = {number: self._random.integers(0, 255, self.spec.frame_shape, dtype=np.uint8) for number in events}
        short = [number for number in events if len(self.cameras[number].frames) < self.spec.length - 1]
        full = [number for number in events if number not in short]
        self._upload(short, frames)
        if full:
            self._score(full, frames, again=[number in full and events[number] == "again" for number in full])

    def _new_camera(self, number: int) -> _Camera:
        """Every second camera of a model with profiles has one of its own."""
        if not self.spec.profile_size or number % 2:
            return _Camera()
        profile = self._random.random((1, self.spec.profile_size), np.float32)
        return _Camera(profile=profile[0], profile_row=self.engine.upload_profiles(profile)[0])

    def _upload(self, numbers: Sequence[int], frames: Mapping[int, NDArray[np.uint8]]) -> None:
        if not numbers:
            return
        for number, row in zip(numbers, self.engine.upload(self._newest_frames([frames[n] for n in numbers])), strict=True):
            self.cameras[number].frames.append(frames[number])
            self.cameras[number].frame_rows.append(row)

    def _score(self, numbers: Sequence[int], frames: Mapping[int, NDArray[np.uint8]], again: Sequence[bool]) -> None:
        cameras = [self.cameras[number] for number in numbers]
        newest = np.stack([frames[number] for number in numbers])
        expected = self._uploaded_scores(cameras, newest)
        cached = self._cached_scores(cameras, newest)
        assert_same(self.engine, cached, expected)
        if any(again):
            cached = self._cached_scores(cameras, newest)
            assert_same(self.engine, cached, expected)
        for place, camera in enumerate(cameras):
            camera.frames = [*camera.frames, newest[place]][1:]
            camera.frame_rows = [*camera.frame_rows, cached.frames[place]][1:]
            camera.state = None if expected.state is None else expected.state[place]
            camera.state_row = cached.states[place]
        self.scored += len(cameras)

    def _uploaded_scores(self, cameras: Sequence[_Camera], newest: NDArray[np.uint8]) -> Scores:
        clips = np.stack([np.stack([*camera.frames, frame]) for camera, frame in zip(cameras, newest, strict=True)])
        shape = self.spec.state_shape
        if shape is None:
            return self.engine.score(clips)
        default: Any = None if not self.spec.profile_size else self.engine._default_profile  # type: ignore[attr-defined]  # of all engines here, not of the protocol
        profiles = [default if camera.profile is None else camera.profile for camera in cameras]
        states = [np.zeros(shape, np.float32) if camera.state is None else camera.state for camera in cameras]
        return self.engine.score(clips, np.stack(states), None if default is None else np.stack(profiles))

    def _cached_scores(self, cameras: Sequence[_Camera], newest: NDArray[np.uint8]) -> NewestScores:
        before, states = [camera.frame_rows for camera in cameras], [camera.state_row for camera in cameras]
        profiles = [camera.profile_row for camera in cameras]
        return self.engine.score_newest(self._newest_frames([*newest]), before, states, profiles)

    def _newest_frames(self, frames: Sequence[NDArray[np.uint8]]) -> Frames | list[DeviceFrame]:
        return to_device(self.engine, frames) if self.on_device else np.stack(frames)


def to_device(engine: Any, frames: Sequence[NDArray[np.uint8]]) -> list[DeviceFrame]:
    """Copies of the frames on the engine's device."""
    cached = [DeviceFrame(torch.tensor(frame, device=engine._store._tables["frames"].device)) for frame in frames]
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return cached


def assert_same(engine: Any, cached: NewestScores, expected: Scores) -> None:
    np.testing.assert_array_equal(cached.score, expected.score)
    np.testing.assert_array_equal(cached.heatmap, expected.heatmap)
    if expected.state is None:
        assert cached.states == [None] * len(cached.score)
    else:
        np.testing.assert_array_equal(contents(engine, cached.states), expected.state)


def contents(engine: Any, rows: Sequence[Any]) -> NDArray[Any]:
    """The content of rows of one table."""
    table = "frames" if isinstance(rows[0], FrameHandle) else "states"
    content: NDArray[Any] = engine._store._tables[table].cpu().numpy()[[row.index for row in rows]]
    return content
