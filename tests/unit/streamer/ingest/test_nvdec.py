import inspect
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from deploy.errors import ConfigError, DecoderUnavailable
from streamer.ingest.run import CameraFeed, IngestPlan
from streamer.ingest.sources import EncodedFrame, open_source
from streamer.interfaces import SourceUnavailable
from tests.harness import fake_pynvvideocodec
from tests.harness.footage import write_video

CLASSES = ("PyNvDemuxer", "PyNvDecoder", "DecodedFrame", "PacketData", "Pixel_Format")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return fake_pynvvideocodec.install(monkeypatch)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "v.mp4", seconds=2, fps=25, codec="libx264")


def by_nvdec(path: Path, fps: float | None = None) -> list[EncodedFrame]:
    return list(open_source(str(path), fps, decoder="nvdec"))


def pixels(frame: EncodedFrame) -> NDArray[np.int16]:
    return np.asarray(cv2.imdecode(np.frombuffer(frame.encoded, np.uint8), cv2.IMREAD_COLOR)).astype(np.int16)


def assert_same(actual: list[EncodedFrame], expected: list[EncodedFrame]) -> None:
    assert [(each.sequence, each.offset_ms) for each in actual] == [(each.sequence, each.offset_ms) for each in expected]
    assert max(np.abs(pixels(a) - pixels(b)).max() for a, b in zip(actual, expected, strict=True)) <= 2


@pytest.mark.parametrize("fps", [None, 10])
def test_frames_equal_the_cpus(library: ModuleType, video: Path, fps: float | None) -> None:
    expected = list(open_source(str(video), fps))
    assert len(expected) == (20 if fps else 50)
    assert_same(by_nvdec(video, fps), expected)


@pytest.mark.gpu
def test_frames_equal_the_cpus_on_a_gpu(video: Path) -> None:
    try:
        actual = by_nvdec(video)
    except DecoderUnavailable as error:
        pytest.skip(str(error))
    assert_same(actual, list(open_source(str(video))))


def test_rejects_other_codecs(library: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="nvdec decodes h264 and hevc, this is mpeg4; leave --decoder out"):
        by_nvdec(write_video(tmp_path / "v.avi", seconds=1, fps=10))


def test_rejects_other_pixel_formats(library: ModuleType, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "layout", fake_pynvvideocodec.Pixel_Format.P016)
    with pytest.raises(SourceUnavailable, match=r"4608 bytes of Pixel_Format\.P016 for 64 x 48 pixels; only NV12"):
        by_nvdec(video)


def test_rejects_padded_rows(library: ModuleType, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "distort", lambda memory: np.pad(memory, ((0, 0), (0, 64))))
    with pytest.raises(SourceUnavailable, match="9216 bytes"):
        by_nvdec(video)


def test_rejects_a_different_first_frame(library: ModuleType, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "distort", lambda memory: memory + 3)
    with pytest.raises(
        SourceUnavailable, match=r"first frame differs from the CPU's by \d\.\d grey levels on average; at most 1 is accepted"
    ):
        by_nvdec(video)


def test_decoder_failure_is_one_line(library: ModuleType, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "broken", True)
    with pytest.raises(SourceUnavailable, match=r"v\.mp4: nvdec failed: cuvidDecodePicture failed; leave --decoder out$"):
        by_nvdec(video)


def test_missing_library_names_the_extra(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PyNvVideoCodec", None)
    with pytest.raises(DecoderUnavailable, match=r"install it: pip install 'oddsight\[nvdec\]', and NVIDIA's driver"):
        by_nvdec(video)


def test_rejects_folders_and_streams(tmp_path: Path) -> None:
    for location in (str(tmp_path), "rtsp://user:secret@camera/1"):
        with pytest.raises(ConfigError, match="nvdec decodes video files, got") as caught:
            IngestPlan([CameraFeed("gate", location)], decoder="nvdec")
        assert "secret" not in str(caught.value)


def test_fake_matches_the_real_library() -> None:
    try:
        import PyNvVideoCodec as Real
    except Exception as error:  # noqa: BLE001  without a driver the import raises a RuntimeError
        pytest.skip(f"no PyNvVideoCodec, or no driver: {str(error).splitlines()[0]}")
    for name in CLASSES:
        ours = [member for member in vars(getattr(fake_pynvvideocodec, name)) if not member.startswith("_")]
        assert [member for member in [*ours, "__class__"] if not hasattr(getattr(Real, name), member)] == [], name
    assert hasattr(Real.PyNvDemuxer, "__iter__")
    assert {"format", "getPTS"} <= set(dir(Real.DecodedFrame))
    for function in ("CreateDemuxer", "CreateDecoder"):
        words = inspect.signature(getattr(fake_pynvvideocodec, function)).parameters
        assert [word for word in words if word not in getattr(Real, function).__doc__] == []
