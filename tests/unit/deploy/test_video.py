import os
from pathlib import Path

import pytest

from deploy import video as video_module
from deploy.errors import VideoUnreadable
from deploy.video import VideoInfo, open_video, to_bgr
from tests.harness.footage import write_damaged_video, write_video


def test_reads_properties_and_frames(tmp_path: Path) -> None:
    with open_video(write_video(tmp_path / "v.mp4", seconds=2, fps=25)) as video:
        assert video.info(default_fps=10) == VideoInfo(64, 48, 25.0)
        assert video.estimate_frame_count() == 50
        frames = list(video.frames())
        assert len(frames) == 50
        assert video.damaged_packets == 0
        assert not isinstance(frames[0], str)
        assert to_bgr(frames[0]).shape == (48, 64, 3)


def test_skips_and_counts_damaged_packets(tmp_path: Path) -> None:
    path = write_damaged_video(tmp_path / "v.avi", frames_n=10, damaged=4)
    with open_video(path) as video:
        outcomes = list(video.frames())
        assert video.damaged_packets == 1
    damaged = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, str)]
    assert (len(outcomes), damaged) == (10, [4])
    assert outcomes[4] == f"{path}: a damaged packet was skipped: Invalid data found when processing input"


def test_reads_a_video_whose_title_is_not_utf_8(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", seconds=1, fps=10)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"Lavf", b"S\xfcd-"))  # the program that wrote it
    assert path.read_bytes() != content
    with open_video(path) as video:
        assert len(list(video.frames())) == 10


def test_rejects_a_video_without_decodable_frame(tmp_path: Path) -> None:
    with (
        open_video(write_damaged_video(tmp_path / "v.avi", frames_n=1, damaged=0)) as video,
        pytest.raises(VideoUnreadable, match=r"v\.avi: no frame can be decoded"),
    ):
        list(video.frames())


def test_rejects_too_large_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_module, "MAX_IMAGE_PX", 1000)
    with (
        open_video(write_video(tmp_path / "v.mp4", seconds=1, fps=10)) as video,
        pytest.raises(VideoUnreadable, match=r"frames of 64 x 48 pixels; at most 1000"),
    ):
        next(video.frames())


@pytest.mark.parametrize("content", [None, b"", b"no video at all" * 100], ids=["missing", "empty", "text"])
def test_rejects_files_that_are_no_video(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "v.mp4").write_bytes(content)
    with pytest.raises(VideoUnreadable, match=r"v\.mp4: cannot be opened as video: \w"), open_video(tmp_path / "v.mp4"):
        pass


@pytest.mark.parametrize("listing", ["ffconcat version 1.0\nfile secret.avi\n", "#EXTM3U\n#EXTINF:1,\nsecret.avi\n"])
def test_no_other_file_is_read_than_the_one_named(tmp_path: Path, listing: str) -> None:
    write_video(tmp_path / "secret.avi", seconds=1, fps=10)
    (tmp_path / "list.mp4").write_text(listing)
    with pytest.raises(VideoUnreadable, match=r"list\.mp4: cannot be opened as video"), open_video(tmp_path / "list.mp4"):
        pass


def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "v.mp4")
    with pytest.raises(VideoUnreadable, match=r"v\.mp4: .* is no regular file"), open_video(tmp_path / "v.mp4"):
        pass
