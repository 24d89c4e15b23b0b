import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.spec import ClipSpec
from deploy.video import VideoInfo
from trainer.data.clips import (
    STRETCH_FRAMES,
    ClipDataset,
    FrameCache,
    alternate_blocks,
    choose_frame_size,
    split_by_video,
    split_off_last_tenth,
)
from trainer.data.footage import Footage, Source, load_footage
from trainer.errors import TooLittleFootage


def numbered(name: str, frames_n: int, first: int = 0) -> Footage:
    """Each frame is filled with its own number."""
    frames = np.arange(first, first + frames_n, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 1), np.uint8)
    return Footage(name, frames, np.arange(frames_n), frames_n, ())


class TestFrameCache:
    spec = ClipSpec(length=2, height_px=48, width_px=64)

    @pytest.fixture
    def source(self, tmp_path, pictures, street) -> Source:
        """Six images, the third unreadable."""
        folder = pictures(tmp_path / "clip", street(6, 1.0))
        (folder / "2.jpg").write_bytes(b"no picture")
        return Source("clip", folder)

    @pytest.fixture
    def cache(self, tmp_path) -> FrameCache:
        return FrameCache(tmp_path / "cache")

    @staticmethod
    def same(actual, expected) -> bool:
        return np.array_equal(actual.frames, expected.frames) and np.array_equal(actual.index, expected.index)

    def test_equals_uncached_footage(self, cache, source):
        expected = load_footage(source, self.spec)
        for footage in (cache.load(source, self.spec), cache.load(source, self.spec)):
            assert self.same(footage, expected)
            assert (footage.name, footage.total, footage.problems) == ("clip", 6, expected.problems)
            assert len(footage.problems) == 1

    def test_decodes_each_frame_once(self, tmp_path, source):
        calls = []
        cache = FrameCache(tmp_path / "cache", lambda: calls.append(1))
        cache.load(source, self.spec)
        cache.load(source, self.spec)
        assert len(calls) == 6

    def test_frames_are_read_only_on_disk(self, cache, source):
        frames = cache.load(source, self.spec).frames
        assert isinstance(frames, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            frames[0] = 0

    def test_decodes_anew_after_a_change(self, cache, source, pictures, street):
        before = cache.load(source, self.spec)
        assert cache.load(source, self.spec.model_copy(update={"width_px": 32})).frames.shape[2] == 32
        pictures(source.path, street(6, 1.0, seed=5))
        assert not self.same(cache.load(source, self.spec), before)

    def test_decodes_anew_after_an_interruption(self, cache, source):
        cache.load(source, self.spec)
        next(cache.folder.glob("*.json")).unlink()
        next(cache.folder.glob("*.raw")).write_bytes(b"cut")
        assert self.same(cache.load(source, self.spec), load_footage(source, self.spec))

    def test_accepts_clips_without_readable_frame(self, cache, tmp_path):
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "1.jpg").write_bytes(b"no picture")
        footage = cache.load(Source("bad", tmp_path / "bad"), self.spec)
        assert (footage.frames.shape, footage.total) == ((0, 48, 64, 1), 1)


@pytest.mark.parametrize(
    ("width_px", "height_px", "expected"),
    [(360, 240, (160, 240)), (240, 360, (240, 160)), (96, 64, (64, 96)), (1920, 1080, (144, 256))],
)
def test_frame_size_keeps_aspect_and_never_enlarges(width_px, height_px, expected):
    assert choose_frame_size(VideoInfo(width_px, height_px, 10.0), 38_400, 16) == expected


def test_frame_size_of_an_odd_aspect():
    height_px, width_px = choose_frame_size(VideoInfo(768, 576, 10.0), 38_400, 16)
    assert height_px % 16 == width_px % 16 == 0
    assert abs(width_px / height_px / (768 / 576) - 1) < 0.05


@pytest.mark.parametrize(("videos_n", "validation_n"), [(10, 2), (2, 1)])
def test_split_keeps_whole_videos_for_validation(videos_n, validation_n):
    split = split_by_video([numbered(str(number), 5) for number in range(videos_n)], 3)
    assert len(split.validation) == validation_n
    assert {video.name for video in split.train}.isdisjoint(video.name for video in split.validation)
    assert len(split.train) + len(split.validation) == videos_n
    assert all(len(video.frames) == 5 for video in split.validation)


def test_split_of_one_video_is_in_time():
    split = split_by_video([numbered("a", 50)], 3)
    assert split.train[0].frames[:, 0, 0, 0].tolist() == list(range(40))
    assert split.validation[0].frames[:, 0, 0, 0].tolist() == list(range(40, 50))
    assert split.train[0].before is None
    assert split.validation[0].before is not None
    assert split.validation[0].before[:, 0, 0, 0].tolist() == list(range(40))


@given(position=st.integers(0, 300), first=st.integers(0, 50), count=st.integers(1, 50), lead=st.integers(0, 80))
def test_part_has_the_frames_before_a_cut(position, first, count, lead):
    whole = np.arange(400)[:, None, None, None]
    before = whole[max(0, position - 64) : position] if position else None
    video = Footage("a", whole[position:], np.arange(position, 400), 400, (), before=before)
    frames, leading = video.part(first, first + count, lead)
    numbers = frames[:, 0, 0, 0].tolist()
    assert numbers == list(range(position + first - leading, position + first + count))
    assert leading == min(lead, first + min(position, 64))


def test_split_of_a_long_video_spreads_validation():
    split = split_by_video([numbered("a", 3 * STRETCH_FRAMES)], 3)
    firsts = [video.index[0] / STRETCH_FRAMES for video in split.validation]
    assert firsts == pytest.approx([0.8, 1.8, 2.8])
    assert sum(len(video.frames) for video in (*split.train, *split.validation)) == 3 * STRETCH_FRAMES


@pytest.mark.parametrize("lengths", [[90], [160, 160, 160], [781], [20], [9000], [5, 2000]])
def test_alternate_blocks_divide_evenly(lengths):
    halves = alternate_blocks([numbered(str(number), length) for number, length in enumerate(lengths)])
    frames = [[(block.name, int(number)) for block in half for number in block.index] for half in halves]
    assert len(frames[0]) + len(frames[1]) == len({*frames[0], *frames[1]}) == sum(lengths)
    assert 0.35 < len(frames[0]) / sum(lengths) < 0.67


def test_split_rejects_too_little_footage():
    with pytest.raises(TooLittleFootage, match=r"10 frames in 1 videos .* give at least 30 frames of one video"):
        split_by_video([numbered("a", 10)], 3)


def test_last_tenth_of_one_video_is_its_end():
    (first,), (last,) = split_off_last_tenth([numbered("a", 50)])
    assert (first.index.tolist(), last.index.tolist()) == (list(range(45)), list(range(45, 50)))
    assert last.frames[:, 0, 0, 0].tolist() == list(range(45, 50))
    assert (last.name, last.total) == ("a", 50)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6))
def test_last_tenth_follows_all_other_frames(lengths):
    first, last = split_off_last_tenth([numbered(str(number), length) for number, length in enumerate(lengths)])
    order = [(int(video.name), int(index)) for video in (*first, *last) for index in video.index]
    assert order == [(number, index) for number, length in enumerate(lengths) for index in range(length)]
    assert sum(len(video.frames) for video in last) == sum(lengths) - round(sum(lengths) * 0.9)
    assert all(len(video.frames) for video in (*first, *last))


def test_clips_never_cross_videos():
    dataset = ClipDataset((numbered("a", 4), numbered("short", 2), numbered("b", 3, first=50)), 3)
    assert len(dataset) == 3
    assert dataset.take(np.arange(3))[..., 0, 0, 0].tolist() == [[0, 1, 2], [1, 2, 3], [50, 51, 52]]
    assert [len(clips) for clips in dataset.batches(2)] == [2, 1]
    assert np.concatenate(list(dataset.evenly_spaced(2, 8)))[:, 0, 0, 0, 0].tolist() == [0, 50]
