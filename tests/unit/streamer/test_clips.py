"""Clips hold the newest frames of one camera of one partition, and of nobody else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.clips import ClipBuffer
from streamer.records import CameraFrame, Clip, Partition

P0, P1 = Partition("frames", 0), Partition("frames", 1)
MAX_GAP_MS = 1_000


def frame(offset: int, camera_id: str = "gate", *, partition: Partition = P0, at_ms: int | None = None) -> CameraFrame:
    """A frame whose pixels tell its offset; 100 ms apart unless ``at_ms`` says otherwise."""
    pixels = np.full((2, 2, 1), offset % 256, np.uint8)
    return CameraFrame(partition, offset, camera_id, offset * 100 if at_ms is None else at_ms, pixels, 2, 2)


def shown(clip: Clip) -> list[int]:
    """The offsets that a clip's pixels tell."""
    return [int(pixels[0, 0, 0]) for pixels in clip.frames]


def test_a_clip_is_full_with_its_last_frame_and_slides_from_then_on() -> None:
    buffer = ClipBuffer(3, MAX_GAP_MS)

    clips = [buffer.push(frame(offset)) for offset in range(5)]

    assert [shown(clip) for clip in clips] == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert [buffer.is_full(clip) for clip in clips] == [False, False, True, True, True]
    assert [clip.starts_camera for clip in clips] == [True, False, False, False, False]


def test_a_model_of_single_frames_has_a_full_clip_at_once() -> None:
    buffer = ClipBuffer(1, MAX_GAP_MS)

    clips = [buffer.push(frame(offset)) for offset in range(2)]

    assert [shown(clip) for clip in clips] == [[0], [1]]
    assert all(buffer.is_full(clip) for clip in clips)


def test_a_clip_names_the_frame_that_its_score_belongs_to() -> None:
    buffer = ClipBuffer(2, MAX_GAP_MS)
    buffer.push(frame(0))
    newest = frame(1)

    assert buffer.push(newest).newest is newest


def test_a_clip_does_not_change_when_further_frames_come() -> None:
    buffer = ClipBuffer(2, MAX_GAP_MS)
    clip = buffer.push(frame(0))

    buffer.push(frame(1))

    assert shown(clip) == [0]


@pytest.mark.parametrize(("gap_ms", "begins_anew"), [(1_000, False), (1_001, True), (-1_000, False), (-1_001, True)])
def test_a_jump_in_capture_time_begins_a_new_run(gap_ms: int, begins_anew: bool) -> None:
    buffer = ClipBuffer(3, MAX_GAP_MS)
    buffer.push(frame(0, at_ms=50_000))

    clip = buffer.push(frame(1, at_ms=50_000 + gap_ms))

    assert clip.starts_camera == begins_anew
    assert shown(clip) == ([1] if begins_anew else [0, 1])


def test_a_forgotten_partition_starts_afresh_and_the_others_go_on() -> None:
    buffer = ClipBuffer(2, MAX_GAP_MS)
    for partition in (P0, P1):
        buffer.push(frame(0, partition=partition))

    buffer.forget(P0)

    assert shown(buffer.push(frame(1, partition=P0))) == [1]
    assert shown(buffer.push(frame(1, partition=P1))) == [0, 1]


@given(st.integers(1, 4), st.lists(st.tuples(st.sampled_from([P0, P1]), st.sampled_from(["gate", "yard", "hall"])), max_size=40))
def test_frames_of_different_cameras_and_partitions_never_mix(length: int, origins: list[tuple[Partition, str]]) -> None:
    buffer = ClipBuffer(length, 1_000_000)
    seen: dict[tuple[Partition, str], list[int]] = {}

    for offset, origin in enumerate(origins):
        clip = buffer.push(frame(offset, origin[1], partition=origin[0]))
        seen.setdefault(origin, []).append(offset)
        assert shown(clip) == seen[origin][-length:]
        assert buffer.is_full(clip) == (len(seen[origin]) >= length)
