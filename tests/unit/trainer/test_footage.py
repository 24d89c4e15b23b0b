from pathlib import Path

import numpy as np
import pytest

from deploy.image import decode_picture
from deploy.spec import ClipSpec
from trainer.data.datasets.registry import training_sources
from trainer.data.footage import (
    Source,
    VideoInfo,
    count_frames,
    estimate_frame_count,
    find_sources,
    footage_info,
    load_all_footage,
    load_footage,
)
from trainer.errors import NoFootage

SPEC = ClipSpec(length=3, height_px=64, width_px=96)


def test_a_data_set_its_split_and_its_frames_folder_are_the_same_footage(tmp_path, street, pictures):
    for clip in ("2", "10"):
        pictures(tmp_path / "training" / "frames" / clip, street(2, 1.0))
    split = tmp_path / "training"
    found = [training_sources(tmp_path), training_sources(split), training_sources(split / "frames")]
    assert found[0] == found[1] == found[2]
    assert [source.name for source in found[0]] == ["2", "10"]


def test_a_plain_folder_of_frames_is_one_clip(tmp_path, street, pictures):
    folder = pictures(tmp_path / "gate", street(3, 1.0))
    assert training_sources(folder) == [Source("gate", folder)]


def test_a_folder_of_videos_and_a_single_video_are_footage(tmp_path, street, video):
    first, second = (video(tmp_path / f"cam{number}.mkv", street(4, 1.0)) for number in (9, 10))
    assert training_sources(tmp_path) == [Source("cam9", first), Source("cam10", second)]
    assert training_sources(second) == [Source("cam10", second)]
    assert footage_info([Source("cam9", first)]) == VideoInfo(96, 64, 12.0)


def test_frames_and_videos_of_a_split_are_both_found(tmp_path, street, pictures, video):
    pictures(tmp_path / "frames" / "a", street(2, 1.0))
    video(tmp_path / "videos" / "b.mkv", street(2, 1.0))
    assert [source.name for source in find_sources(tmp_path)] == ["a", "b"]


def test_frames_come_in_natural_order_with_the_pixels_of_the_streamer(tmp_path, street, pictures):
    folder = pictures(tmp_path / "gate", street(12, 1.0))
    footage = load_footage(Source("gate", folder), SPEC)
    expected = [decode_picture((folder / f"{number}.jpg").read_bytes(), SPEC).frame for number in range(12)]
    assert np.array_equal(footage.frames, np.stack(expected))


def test_video_frames_are_decoded_whole(tmp_path, street, video):
    frames = street(5, 1.0)
    footage = load_footage(Source("v", video(tmp_path / "v.mkv", frames)), SPEC)
    assert footage.total == 5
    assert np.abs(footage.frames[..., 0].astype(int) - frames).max() <= 1


def test_unreadable_frames_are_named_skipped_and_counted(tmp_path, street, pictures):
    folder = pictures(tmp_path / "gate", street(4, 1.0))
    (folder / "1.jpg").write_bytes(b"no picture")
    footage = load_footage(Source("gate", folder), SPEC)
    assert footage.total == 4
    assert footage.index.tolist() == [0, 2, 3]
    assert len(footage.problems) == 1
    assert str(folder / "1.jpg") in footage.problems[0]


def test_a_damaged_video_is_named(tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video at all")
    footage = load_footage(Source("broken", broken), SPEC)
    assert len(footage.frames) == 0
    assert str(broken) in footage.problems[0]


def test_a_missing_path_says_what_to_give(tmp_path):
    with pytest.raises(NoFootage, match=r"nowhere: no such file or folder; give a folder"):
        training_sources(tmp_path / "nowhere")


def test_a_folder_without_footage_says_what_was_expected(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(NoFootage, match=r"no footage; expected training/ or frames/CLIP"):
        training_sources(tmp_path)


def test_a_file_that_is_no_video_is_no_footage(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(NoFootage, match=r"notes\.txt: no footage"):
        training_sources(tmp_path / "notes.txt")


def test_footage_without_one_readable_frame_is_refused(tmp_path: Path):
    folder = tmp_path / "gate"
    folder.mkdir()
    (folder / "0.jpg").write_bytes(b"no picture")
    for step in (footage_info, lambda sources: load_all_footage(sources, SPEC)):
        with pytest.raises(NoFootage, match=r"none of 1 clips has a readable frame, the first is .*gate"):
            step(find_sources(folder))


def test_the_number_of_frames_is_known_without_decoding_them(tmp_path, pictures, video, street):
    folder, file = pictures(tmp_path / "a", street(7, 1.0)), video(tmp_path / "b.mkv", street(24, 1.0), fps=12)
    (tmp_path / "c.mp4").write_bytes(b"no video")
    counts = [estimate_frame_count(Source(path.stem, path)) for path in (folder, file, tmp_path / "c.mp4")]
    assert counts == [7, pytest.approx(24, abs=1), 0]


def test_what_other_systems_leave_behind_beside_a_video_is_no_clip(tmp_path, street, video):
    video(tmp_path / "gate.mkv", street(4, 1.0))
    (tmp_path / "._gate.mkv").write_bytes(b"left behind")
    assert [source.name for source in find_sources(tmp_path)] == ["gate"]


def test_the_exact_number_of_frames_is_that_of_the_decoded_footage(tmp_path, pictures, video, street):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for path in (pictures(tmp_path / "a", street(7, 1.0)), video(tmp_path / "b.mkv", street(24, 1.0)), tmp_path / "broken.mp4"):
        assert count_frames(Source("clip", path)) == load_footage(Source("clip", path), SPEC).total
