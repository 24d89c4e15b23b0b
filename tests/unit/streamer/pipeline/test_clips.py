"""Clips hold the newest frames of one camera of one partition only."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.clock import ClockRule, tick
from deploy.spec import ClipSpec
from streamer.pipeline.clips import ClipBuffer
from streamer.types import CameraFrame, Clip, FrameInfo, Partition

P0, P1 = Partition("frames", 0), Partition("frames", 1)
MAX_GAP_MS = 1_000


def frame(offset: int, camera_id: str = "gate", *, partition: Partition = P0, at_ms: int | None = None) -> CameraFrame:
    """A frame whose pixel value is its offset; captured at 100 ms times the offset unless ``at_ms`` is given."""
    pixels = np.full((2, 2, 1), offset % 256, np.uint8)
    info = FrameInfo(partition, offset, camera_id, offset * 100 if at_ms is None else at_ms, 2, 2)
    return CameraFrame(info, pixels, "cpu")


def buffer_of(length: int, max_gap_ms: int = MAX_GAP_MS, *, state_warmup_frames: int = 0) -> ClipBuffer:
    state = {"state_shape": (1, 1, 1), "state_warmup_frames": state_warmup_frames} if state_warmup_frames else {}
    return ClipBuffer(ClipSpec(length=length, height_px=16, width_px=16, **state), max_gap_ms)


def offsets(clip: Clip) -> list[int]:
    """The offsets of a clip's frames, from their pixels."""
    return [int(pixels[0, 0, 0]) for pixels in clip.frames]


def test_clip_fills_then_slides() -> None:
    buffer = buffer_of(3)

    clips = [buffer.push(frame(offset)) for offset in range(5)]

    assert [offsets(clip) for clip in clips] == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert [buffer.is_full(clip) for clip in clips] == [False, False, True, True, True]
    assert [clip.clip_from for clip in clips] == [0, 0, 1, 2, 3]


def test_single_frame_clips() -> None:
    buffer = buffer_of(1)

    clips = [buffer.push(frame(offset)) for offset in range(2)]

    assert [offsets(clip) for clip in clips] == [[0], [1]]
    assert all(buffer.is_full(clip) for clip in clips)
    assert [clip.clip_from for clip in clips] == [None, None]


def test_clip_from_covers_warmup() -> None:
    buffer = buffer_of(1, state_warmup_frames=3)

    clips = [buffer.push(frame(offset)) for offset in (2, 3, 5, 6, 9)]

    assert [clip.clip_from for clip in clips] == [2, 2, 2, 3, 5]


def test_memory_shared_between_gaps() -> None:
    buffer = buffer_of(1, state_warmup_frames=3)
    first, second = buffer.push(frame(0)), buffer.push(frame(1))
    other_camera, after_a_gap = buffer.push(frame(2, "yard")), buffer.push(frame(3, at_ms=60_000))
    buffer.forget(P0)
    after_forgetting = buffer.push(frame(4, at_ms=60_100))

    assert first.memory is second.memory
    memories = [clip.memory for clip in (second, other_camera, after_a_gap, after_forgetting)]
    assert len({id(memory) for memory in memories}) == 4


def test_clip_info_is_newest_frame() -> None:
    buffer = buffer_of(2)
    buffer.push(frame(0))
    newest = frame(1)

    assert buffer.push(newest).info is newest.info


def test_clips_are_immutable() -> None:
    buffer = buffer_of(2)
    clip = buffer.push(frame(0))

    buffer.push(frame(1))

    assert offsets(clip) == [0]


@pytest.mark.parametrize(("gap_ms", "new"), [(1_000, False), (1_001, True), (-1_000, False), (-1_001, True)])
def test_time_gap_starts_new_clip(gap_ms: int, new: bool) -> None:
    buffer = buffer_of(3)
    buffer.push(frame(0, at_ms=50_000))

    clip = buffer.push(frame(1, at_ms=50_000 + gap_ms))

    assert clip.clip_from == (1 if new else 0)
    assert offsets(clip) == ([1] if new else [0, 1])


def test_slow_camera_has_no_gap_between_its_frames() -> None:
    buffer, rule, state = buffer_of(2), ClockRule(MAX_GAP_MS, 100), None
    for offset in range(12):
        ticked = tick(rule, state, 1_000_000 + 2_000 * offset, None)
        state, info = ticked.after, frame(offset, at_ms=ticked.after.believed_ms).info
        clip = buffer.push(CameraFrame(replace(info, tick=ticked), frame(offset).frame, "cpu"))
    assert offsets(clip) == [10, 11]
    assert (clip.clip_from, clip.clip_clock) == (11, ticked.before)


def test_forget_drops_one_partition() -> None:
    buffer = buffer_of(2)
    for partition in (P0, P1):
        buffer.push(frame(0, partition=partition))

    buffer.forget(P0)

    assert offsets(buffer.push(frame(1, partition=P0))) == [1]
    assert offsets(buffer.push(frame(1, partition=P1))) == [0, 1]


@given(st.integers(1, 4), st.lists(st.tuples(st.sampled_from([P0, P1]), st.sampled_from(["gate", "yard", "hall"])), max_size=40))
def test_cameras_and_partitions_never_mix(length: int, origins: list[tuple[Partition, str]]) -> None:
    buffer = buffer_of(length, 1_000_000)
    seen: dict[tuple[Partition, str], list[int]] = {}

    for offset, origin in enumerate(origins):
        clip = buffer.push(frame(offset, origin[1], partition=origin[0]))
        seen.setdefault(origin, []).append(offset)
        assert offsets(clip) == seen[origin][-length:]
        assert buffer.is_full(clip) == (len(seen[origin]) >= length)
