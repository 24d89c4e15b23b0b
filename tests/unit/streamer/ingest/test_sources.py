import os
from pathlib import Path

import numpy as np
import pytest
import structlog

from deploy.image import image_size
from streamer.ingest.sources import open_source
from streamer.interfaces import SourceUnavailable
from tests.harness.footage import write_damaged_video, write_folder, write_timed_video, write_video

DATA = Path(os.environ.get("ODDSIGHT_DATA", Path(__file__).parents[5] / "shared" / "data"))
HOSTILE_VIDEO = DATA / "robustness" / "opencv_crash_demo.avi"


class TestFolder:
    def test_files_pass_unchanged_in_natural_order(self, tmp_path: Path) -> None:
        images = write_folder(tmp_path / "frames", 12)
        frames = list(open_source(str(tmp_path / "frames")))
        assert [each.encoded for each in frames] == images
        assert [each.sequence for each in frames] == list(range(12))

    def test_default_rate_is_10_fps(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "frames", 4)
        assert [each.offset_ms for each in open_source(str(tmp_path / "frames"))] == [0, 100, 200, 300]
        assert [each.offset_ms for each in open_source(str(tmp_path / "frames"), fps=25)] == [0, 40, 80, 120]

    def test_ignores_other_files(self, tmp_path: Path) -> None:
        for name in ("b.PNG", "a.jpeg", "notes.txt"):
            (tmp_path / name).write_bytes(b"content of " + name.encode())
        frames = [(each.encoded, each.content_type) for each in open_source(str(tmp_path))]
        assert frames == [(b"content of a.jpeg", "image/jpeg"), (b"content of b.PNG", "image/png")]

    def test_rejects_folders_without_images(self, tmp_path: Path) -> None:
        with pytest.raises(SourceUnavailable, match=r"no \.jpg, \.jpeg or \.png file"):
            list(open_source(str(tmp_path)))

    def test_sends_nothing_but_regular_files_of_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(b"secret")
        (tmp_path / "frames").mkdir()
        (tmp_path / "frames" / "a.jpg").symlink_to(tmp_path / "secret")
        with pytest.raises(SourceUnavailable, match=r"a\.jpg: is a symbolic link"):
            list(open_source(str(tmp_path / "frames")))
        (tmp_path / "frames" / "a.jpg").unlink()
        os.mkfifo(tmp_path / "frames" / "a.jpg")
        with pytest.raises(SourceUnavailable, match=r"a\.jpg: is no regular file"):
            list(open_source(str(tmp_path / "frames")))


class TestVideo:
    def test_frames_become_jpegs_with_times(self, tmp_path: Path) -> None:
        frames = list(open_source(str(write_video(tmp_path / "v.mp4", seconds=2, fps=25))))
        assert [each.offset_ms for each in frames] == [number * 40 for number in range(50)]
        assert [each.sequence for each in frames] == list(range(50))
        assert {image_size(each.encoded) for each in frames} == {(64, 48)}

    def test_rate_limit_keeps_even_spacing(self, tmp_path: Path) -> None:
        frames = list(open_source(str(write_video(tmp_path / "v.mp4", seconds=2, fps=25)), fps=10))
        assert [each.offset_ms for each in frames][:6] == [0, 120, 200, 320, 400, 520]
        assert [each.sequence for each in frames] == list(range(20))

    def test_slow_videos_are_not_sped_up(self, tmp_path: Path) -> None:
        assert len(list(open_source(str(write_video(tmp_path / "v.mp4", seconds=2, fps=5)), fps=30))) == 10

    def test_names_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(SourceUnavailable, match=r"nothing\.mp4: no such file or folder"):
            list(open_source(str(tmp_path / "nothing.mp4")))

    def test_names_a_file_that_is_no_video(self, tmp_path: Path) -> None:
        (tmp_path / "v.mp4").write_bytes(b"no video at all" * 100)
        with pytest.raises(SourceUnavailable, match=r"v\.mp4: cannot be opened as video"):
            list(open_source(str(tmp_path / "v.mp4")))

    def test_skips_damaged_packets(self, tmp_path: Path) -> None:
        path = write_damaged_video(tmp_path / "v.avi", frames_n=10, damaged=4)
        with structlog.testing.capture_logs() as logs:
            frames = list(open_source(str(path)))
        assert [each.offset_ms for each in frames] == [0, 100, 200, 300, 500, 600, 700, 800, 900]
        assert [entry.get("damaged_packets") for entry in logs] == [None, 1]

    def test_reads_truncated_videos(self, tmp_path: Path) -> None:
        path = write_video(tmp_path / "v.avi", seconds=4, fps=25)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert 5 <= len(list(open_source(str(path)))) < 50

    @pytest.mark.data
    def test_reads_a_file_that_crashes_opencv(self) -> None:
        if not HOSTILE_VIDEO.exists():
            pytest.skip(f"needs {HOSTILE_VIDEO}")
        assert len(list(open_source(str(HOSTILE_VIDEO)))) == 51

    @pytest.mark.parametrize("times", [[0, 40, 10**15, 10**15 + 40], [-(10**15), 40, 80, 120]], ids=["forward", "first"])
    def test_a_gap_of_years_becomes_a_minute(self, tmp_path: Path, times: list[int]) -> None:
        path = write_timed_video(tmp_path / "v.mkv", times)
        with structlog.testing.capture_logs() as logs:
            offsets = [each.offset_ms for each in open_source(str(path))]
        assert max(np.diff(offsets)) == 60_000
        assert sorted(np.diff(offsets))[:2] == [40, 40]
        assert [entry["event"] for entry in logs] == ["gaps in the times are shortened"]

    def test_a_fifo_is_refused_at_once(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "v.mp4")
        with pytest.raises(SourceUnavailable, match="no regular file"):
            list(open_source(str(tmp_path / "v.mp4")))
