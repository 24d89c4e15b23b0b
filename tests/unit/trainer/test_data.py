import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.spec import ClipSpec
from deploy.video import VideoInfo
from trainer.data.clips import ClipDataset, choose_frame_size, clip_windows, split_by_video, split_off_last_tenth
from trainer.data.footage import Footage
from trainer.errors import TooLittleFootage

SPEC = ClipSpec(length=3, height_px=16, width_px=16)


def numbered(name: str, frames_n: int, first: int = 0) -> Footage:
    """Each frame is filled with its own number."""
    frames = np.arange(first, first + frames_n, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 1), np.uint8)
    return Footage(name, frames, np.arange(frames_n), frames_n, ())


@pytest.mark.parametrize(
    ("width_px", "height_px", "expected"),
    [(360, 240, (160, 240)), (240, 360, (240, 160)), (96, 64, (64, 96)), (1920, 1080, (144, 256))],
)
def test_frame_size_keeps_the_aspect_and_never_enlarges(width_px, height_px, expected):
    assert choose_frame_size(VideoInfo(width_px, height_px, 10.0), 38_400, 16) == expected


def test_frame_size_of_an_odd_aspect_is_a_multiple_of_16():
    height_px, width_px = choose_frame_size(VideoInfo(768, 576, 10.0), 38_400, 16)
    assert height_px % 16 == width_px % 16 == 0
    assert abs(width_px / height_px / (768 / 576) - 1) < 0.05


def test_a_fifth_of_the_videos_is_held_out_whole():
    videos = [numbered(str(number), 5) for number in range(10)]
    split = split_by_video(videos, 3)
    assert len(split.validation) == 2
    assert {video.name for video in split.train}.isdisjoint(video.name for video in split.validation)
    assert len(split.train) + len(split.validation) == 10
    assert all(len(video.frames) == 5 for video in split.validation)


def test_of_two_videos_one_is_held_out():
    split = split_by_video([numbered("a", 5), numbered("b", 5)], 3)
    assert len(split.train) == len(split.validation) == 1


def test_of_a_single_video_the_last_fifth_is_held_out():
    split = split_by_video([numbered("a", 50)], 3)
    assert split.train[0].frames[:, 0, 0, 0].tolist() == list(range(40))
    assert split.validation[0].frames[:, 0, 0, 0].tolist() == list(range(40, 50))


def test_too_little_footage_says_how_much_is_needed():
    with pytest.raises(TooLittleFootage, match=r"10 frames in 1 videos .* give at least 30 frames of one video"):
        split_by_video([numbered("a", 10)], 3)


def test_the_last_tenth_of_one_video_is_its_end_and_keeps_its_places():
    (kept,), (last,) = split_off_last_tenth([numbered("a", 50)])
    assert (kept.index.tolist(), last.index.tolist()) == (list(range(45)), list(range(45, 50)))
    assert last.frames[:, 0, 0, 0].tolist() == list(range(45, 50))
    assert (last.name, last.total) == ("a", 50)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_the_last_tenth_is_a_tenth_of_all_frames_and_comes_after_all_others(lengths):
    kept, last = split_off_last_tenth([numbered(str(number), length) for number, length in enumerate(lengths)])
    order = [(int(video.name), int(place)) for video in (*kept, *last) for place in video.index]
    assert order == [(number, place) for number, length in enumerate(lengths) for place in range(length)]
    assert sum(len(video.frames) for video in last) == sum(lengths) - round(sum(lengths) * 0.9)
    assert all(len(video.frames) for video in (*kept, *last))


def test_clips_are_numbered_through_all_videos_and_never_cross_from_one_to_the_next():
    bank = ClipDataset((numbered("a", 4), numbered("short", 2), numbered("b", 3, first=50)), 3)
    assert len(bank) == 3
    assert bank.take(np.arange(3))[..., 0, 0, 0].tolist() == [[0, 1, 2], [1, 2, 3], [50, 51, 52]]
    assert [len(clips) for clips in bank.batches(2)] == [2, 1]
    assert np.concatenate(list(bank.evenly_spaced(2, 8)))[:, 0, 0, 0, 0].tolist() == [0, 50]


def test_windows_end_at_every_frame_from_the_first_full_clip_on():
    windows = list(clip_windows(numbered("a", 6).frames, SPEC, 3))
    assert [first for first, _ in windows] == [2, 5]
    assert windows[0][1][..., 0, 0, 0].tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
