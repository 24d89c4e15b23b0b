import numpy as np
import pytest

from deploy.spec import ClipSpec
from trainer.data.clips import FrameCache
from trainer.data.footage import Source, load_footage

SPEC = ClipSpec(length=2, height_px=48, width_px=64)


@pytest.fixture
def source(tmp_path, pictures, street) -> Source:
    folder = pictures(tmp_path / "clip", street(6, 1.0))
    (folder / "2.jpg").write_bytes(b"no picture")
    return Source("clip", folder)


@pytest.fixture
def cache(tmp_path) -> FrameCache:
    return FrameCache(tmp_path / "cache")


def same(found, expected) -> bool:
    return np.array_equal(found.frames, expected.frames) and np.array_equal(found.index, expected.index)


def test_frames_come_out_as_they_are_decoded_with_their_places_and_problems(cache, source):
    expected = load_footage(source, SPEC)
    for found in (cache.load(source, SPEC), cache.load(source, SPEC)):
        assert same(found, expected)
        assert (found.name, found.total, found.problems) == ("clip", 6, expected.problems)
        assert len(found.problems) == 1


def test_what_is_there_is_not_decoded_again(cache, source, monkeypatch):
    first = cache.load(source, SPEC)
    monkeypatch.setattr("trainer.data.clips.decode_frames", None)
    assert same(cache.load(source, SPEC), first)


def test_frames_stay_on_disk_and_cannot_be_written_to(cache, source):
    frames = cache.load(source, SPEC).frames
    assert isinstance(frames, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        frames[0] = 0


def test_a_changed_file_and_another_size_are_decoded_anew(cache, source, pictures, street):
    before = cache.load(source, SPEC)
    assert cache.load(source, SPEC.model_copy(update={"width_px": 32})).frames.shape[2] == 32
    pictures(source.path, street(6, 1.0, seed=5))
    assert not same(cache.load(source, SPEC), before)


def test_a_decoding_that_was_cut_short_is_done_again(cache, source):
    cache.load(source, SPEC)
    next(cache.folder.glob("*.json")).unlink()
    next(cache.folder.glob("*.raw")).write_bytes(b"cut")
    assert same(cache.load(source, SPEC), load_footage(source, SPEC))


def test_a_clip_without_one_readable_frame_has_none(cache, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "1.jpg").write_bytes(b"no picture")
    found = cache.load(Source("bad", tmp_path / "bad"), SPEC)
    assert (found.frames.shape, found.total) == ((0, 48, 64, 1), 1)


def test_every_frame_that_is_decoded_is_told_of(tmp_path, source):
    ticks = []
    cache = FrameCache(tmp_path / "cache", lambda: ticks.append(1))
    cache.load(source, SPEC)
    cache.load(source, SPEC)
    assert len(ticks) == 6
