import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.errors import BadFrame
from deploy.image import decode_image, encode_jpeg
from deploy.spec import ClipSpec
from deploy.video import VideoInfo
from tests.harness.footage import write_damaged_video
from trainer.data.datasets import training_sources
from trainer.data.footage import (
    Source,
    count_frames,
    dataset_image_size,
    decode_dataset_image,
    estimate_frame_count,
    find_sources,
    footage_info,
    load_all_footage,
    load_footage,
    read_mask,
)
from trainer.errors import NoFootage

SPEC = ClipSpec(length=3, height_px=64, width_px=96)


class TestFindSources:
    def test_accepts_data_set_split_and_folder(self, tmp_path, street, pictures):
        for clip in ("2", "10"):
            pictures(tmp_path / "training" / "frames" / clip, street(2, 1.0))
        split = tmp_path / "training"
        first, *others = [training_sources(tmp_path), training_sources(split), training_sources(split / "frames")]
        assert [source.name for source in first] == ["2", "10"]
        assert others == [first, first]

    def test_accepts_a_folder_of_images(self, tmp_path, street, pictures):
        folder = pictures(tmp_path / "gate", street(3, 1.0))
        assert find_sources(folder) == [Source("gate", folder)]

    def test_accepts_videos(self, tmp_path, street, video):
        first, second = (video(tmp_path / f"cam{number}.mkv", street(4, 1.0)) for number in (9, 10))
        assert find_sources(tmp_path) == [Source("cam9", first), Source("cam10", second)]
        assert find_sources(second) == [Source("cam10", second)]
        assert footage_info([Source("cam9", first)]) == VideoInfo(96, 64, 12.0)

    def test_finds_frames_and_videos_of_a_split(self, tmp_path, street, pictures, video):
        pictures(tmp_path / "frames" / "a", street(2, 1.0))
        video(tmp_path / "videos" / "b.mkv", street(2, 1.0))
        assert [source.name for source in find_sources(tmp_path)] == ["a", "b"]

    def test_ignores_hidden_files(self, tmp_path, street, video):
        video(tmp_path / "gate.mkv", street(4, 1.0))
        (tmp_path / "._gate.mkv").write_bytes(b"left behind")
        assert [source.name for source in find_sources(tmp_path)] == ["gate"]

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("nowhere", "nowhere: no such file or folder; give a folder"),
            (".", "no footage; expected training/ or frames/CLIP"),
            ("notes.txt", r"notes\.txt: no footage"),
        ],
    )
    def test_says_what_was_expected(self, tmp_path, name, message):
        (tmp_path / "notes.txt").write_text("hello")
        with pytest.raises(NoFootage, match=message):
            find_sources(tmp_path / name)


class TestLoadFootage:
    def test_images_have_the_streamers_pixels(self, tmp_path, street, pictures):
        folder = pictures(tmp_path / "gate", street(12, 1.0))
        footage = load_footage(Source("gate", folder), SPEC)
        expected = [decode_image((folder / f"{number}.jpg").read_bytes(), SPEC).frame for number in range(12)]
        assert np.array_equal(footage.frames, np.stack(expected))

    def test_videos_are_decoded_whole(self, tmp_path, street, video):
        frames = street(5, 1.0)
        footage = load_footage(Source("v", video(tmp_path / "v.mkv", frames)), SPEC)
        assert footage.total == 5
        assert np.abs(footage.frames[..., 0].astype(int) - frames).max() <= 1

    def test_skips_and_names_unreadable_images(self, tmp_path, street, pictures):
        folder = pictures(tmp_path / "gate", street(4, 1.0))
        (folder / "1.jpg").write_bytes(b"no picture")
        footage = load_footage(Source("gate", folder), SPEC)
        assert (footage.total, footage.index.tolist()) == (4, [0, 2, 3])
        assert [str(folder / "1.jpg") in problem for problem in footage.problems] == [True]

    def test_skips_and_names_damaged_packets(self, tmp_path, damaged_video):
        footage = load_footage(Source("v", damaged_video), SPEC)
        assert (footage.total, footage.index.tolist()) == (10, [0, 1, 2, 3, 5, 6, 7, 8, 9])
        assert [problem.startswith(f"{damaged_video}: a damaged packet") for problem in footage.problems] == [True]

    def test_names_a_video_that_cannot_be_opened(self, tmp_path):
        (tmp_path / "broken.mp4").write_bytes(b"not a video at all")
        footage = load_footage(Source("broken", tmp_path / "broken.mp4"), SPEC)
        assert len(footage.frames) == 0
        assert str(tmp_path / "broken.mp4") in footage.problems[0]

    def test_rejects_footage_without_readable_frame(self, tmp_path):
        (tmp_path / "gate").mkdir()
        (tmp_path / "gate" / "0.jpg").write_bytes(b"no picture")
        sources = find_sources(tmp_path / "gate")
        for load in (footage_info, lambda sources: load_all_footage(sources, SPEC)):
            with pytest.raises(NoFootage, match=r"none of 1 clips has a readable frame, the first is .*gate"):
                load(sources)


@pytest.fixture
def damaged_video(tmp_path):
    """Ten frames, the fifth damaged."""
    return write_damaged_video(tmp_path / "damaged.avi")


def test_frame_count_is_estimated_without_decoding(tmp_path, pictures, video, street):
    folder, file = pictures(tmp_path / "a", street(7, 1.0)), video(tmp_path / "b.mkv", street(24, 1.0), fps=12)
    (tmp_path / "c.mp4").write_bytes(b"no video")
    counts = [estimate_frame_count(Source(path.stem, path)) for path in (folder, file, tmp_path / "c.mp4")]
    assert counts == [7, pytest.approx(24, abs=1), 0]


def test_exact_frame_count_equals_loaded_footage(tmp_path, pictures, video, street, damaged_video):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    folder, file = pictures(tmp_path / "a", street(7, 1.0)), video(tmp_path / "b.mkv", street(24, 1.0))
    for path in (folder, file, tmp_path / "broken.mp4", damaged_video):
        assert count_frames(Source("clip", path)) == load_footage(Source("clip", path), SPEC).total


GRAY = ClipSpec(length=1, height_px=16, width_px=24)
BGR = ClipSpec(length=1, height_px=16, width_px=24, colour="bgr")
IMAGE = np.random.default_rng(0).integers(0, 255, (16, 24), np.uint8)


def encoded(suffix, image=IMAGE):
    return cv2.imencode(suffix, image)[1].tobytes()


class TestImages:
    @pytest.mark.parametrize("suffix", [".tif", ".bmp", ".png"])
    def test_lossless_formats_are_exact(self, suffix, tmp_path):
        content = encoded(suffix)
        assert np.array_equal(decode_dataset_image(content, GRAY)[..., 0], IMAGE)
        assert np.array_equal(decode_dataset_image(content, BGR), np.repeat(IMAGE[..., None], 3, axis=2))
        assert dataset_image_size(content) == (24, 16)
        (tmp_path / "mask").write_bytes(content)
        assert np.array_equal(read_mask(tmp_path / "mask"), IMAGE > 0)

    def test_jpegs_are_decoded_as_by_the_service(self):
        content = encode_jpeg(np.kron(IMAGE, np.ones((4, 4), np.uint8)), 90)
        assert np.array_equal(decode_dataset_image(content, GRAY), decode_image(content, GRAY).frame)

    def test_converts_16_bit_tiffs_to_8(self):
        assert np.array_equal(decode_dataset_image(encoded(".tif", IMAGE.astype(np.uint16) * 257), GRAY)[..., 0], IMAGE)

    @pytest.mark.parametrize("content", [b"", b"BM", b"II*\0" + b"\xff" * 40, b"GIF89a" + b"\0" * 40])
    def test_rejects_other_bytes(self, content):
        for read in (lambda: decode_dataset_image(content, GRAY), lambda: dataset_image_size(content)):
            with pytest.raises(BadFrame):
                read()

    def test_rejects_headers_that_claim_too_many_pixels(self):
        content = bytearray(encoded(".bmp"))
        content[18:26] = (30_000).to_bytes(4, "little") * 2
        with pytest.raises(BadFrame):
            decode_dataset_image(bytes(content), GRAY)

    @settings(deadline=None)  # a busy disk is no failure
    @given(st.sampled_from([".tif", ".bmp"]), st.data())
    def test_damaged_images_decode_or_are_rejected(self, suffix, data):
        content = bytearray(encoded(suffix))
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        try:
            frame = decode_dataset_image(bytes(content[: data.draw(st.integers(1, len(content)))]), GRAY)
        except BadFrame:
            return
        assert frame.shape == (16, 24, 1)
