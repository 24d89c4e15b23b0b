import os
from pathlib import Path

import pytest

from deploy.image import picture_size
from deploy.video import is_live
from streamer.errors import SourceUnavailable
from streamer.ingest.sources import open_source
from tests.harness.footage import write_folder, write_video

DATA = Path(os.environ.get("ODDSIGHT_DATA", Path(__file__).parents[4] / "shared" / "data"))
HOSTILE_VIDEO = DATA / "robustness" / "opencv_crash_demo.avi"


class TestFolder:
    def test_pictures_pass_byte_for_byte_in_natural_order(self, tmp_path: Path) -> None:
        pictures = write_folder(tmp_path / "frames", 12)
        given = list(open_source(str(tmp_path / "frames")))
        assert [each.encoded for each in given] == pictures
        assert [each.sequence for each in given] == list(range(12))

    def test_they_are_a_tenth_of_a_second_apart_unless_told_otherwise(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "frames", 4)
        assert [each.offset_ms for each in open_source(str(tmp_path / "frames"))] == [0, 100, 200, 300]
        assert [each.offset_ms for each in open_source(str(tmp_path / "frames"), fps=25)] == [0, 40, 80, 120]

    def test_what_is_no_picture_is_left_out_and_the_type_follows_the_name(self, tmp_path: Path) -> None:
        for name in ("b.PNG", "a.jpeg", "notes.txt"):
            (tmp_path / name).write_bytes(b"content of " + name.encode())
        given = [(each.encoded, each.content_type) for each in open_source(str(tmp_path))]
        assert given == [(b"content of a.jpeg", "image/jpeg"), (b"content of b.PNG", "image/png")]

    def test_a_folder_without_pictures_is_no_source(self, tmp_path: Path) -> None:
        with pytest.raises(SourceUnavailable, match=r"no \.jpg, \.jpeg or \.png file"):
            list(open_source(str(tmp_path)))


class TestVideo:
    def test_every_frame_becomes_a_jpeg_with_its_own_time(self, tmp_path: Path) -> None:
        given = list(open_source(str(write_video(tmp_path / "v.mp4", seconds=2, fps=25))))
        assert [each.offset_ms for each in given] == [number * 40 for number in range(50)]
        assert [each.sequence for each in given] == list(range(50))
        assert {picture_size(each.encoded) for each in given} == {(64, 48)}

    def test_ten_a_second_of_twenty_five_is_every_two_and_a_halfth(self, tmp_path: Path) -> None:
        given = list(open_source(str(write_video(tmp_path / "v.mp4", seconds=2, fps=25)), fps=10))
        assert [each.offset_ms for each in given][:6] == [0, 120, 200, 320, 400, 520]
        assert [each.sequence for each in given] == list(range(20))

    def test_no_frame_is_invented_where_the_video_is_slower_than_asked(self, tmp_path: Path) -> None:
        assert len(list(open_source(str(write_video(tmp_path / "v.mp4", seconds=2, fps=5)), fps=30))) == 10

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(SourceUnavailable, match=r"nothing\.mp4: no such file or folder"):
            list(open_source(str(tmp_path / "nothing.mp4")))

    @pytest.mark.parametrize("content", [b"", b"no video at all" * 100], ids=["empty", "text"])
    def test_a_file_that_is_no_video_is_named(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "v.mp4").write_bytes(content)
        with pytest.raises(SourceUnavailable, match=r"v\.mp4: cannot be opened as video"):
            list(open_source(str(tmp_path / "v.mp4")))

    def test_damage_in_the_middle_costs_only_what_is_damaged(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "v.avi", seconds=4, fps=25)
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 200] = bytes(200)
        path.write_bytes(content)
        assert 80 <= len(list(open_source(str(path)))) <= 100

    def test_a_video_cut_off_gives_what_is_there(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "v.avi", seconds=4, fps=25)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert 5 <= len(list(open_source(str(path)))) < 50

    @pytest.mark.data
    def test_a_file_that_kills_opencv_is_read_to_its_end(self) -> None:
        if not HOSTILE_VIDEO.exists():
            pytest.skip(f"needs {HOSTILE_VIDEO}")
        assert len(list(open_source(str(HOSTILE_VIDEO)))) == 51


class TestLive:
    def test_an_address_is_a_live_stream_and_a_path_is_not(self) -> None:
        assert is_live("rtsp://camera/1")
        assert is_live("http://camera/stream")
        assert not is_live("/videos/gate.mp4")
        assert not is_live("C:\\videos\\gate.mp4")

    def test_the_password_in_an_address_is_not_repeated(self) -> None:
        with pytest.raises(SourceUnavailable) as raised:
            list(open_source("nonsense://user:secret@127.0.0.1/stream"))
        assert "secret" not in str(raised.value)
        assert "user" in str(raised.value)

    def test_pictures_have_the_time_at_which_they_arrived(self, tmp_path: Path) -> None:
        times_s = iter([100.0, 100.0, *(100.0 + number for number in range(1, 10))])
        path = write_video(tmp_path / "v.avi", seconds=1, fps=10)
        stream = open_source(f"file://{path}", fps=0.5, clock=lambda: next(times_s))
        given = [next(stream).offset_ms for _ in range(5)]
        with pytest.raises(SourceUnavailable, match="the stream ended"):
            next(stream)
        assert given == [0, 2000, 4000, 6000, 8000]
