"""H.264 and H.265 files decoded by NVDEC, the video engine of an NVIDIA GPU, through PyNvVideoCodec.

Both standards define every pixel, so the frames are those of any other decoder. They leave the GPU as NV12, and FFmpeg converts
their colours as it does for frames it decoded itself.
"""

import ctypes
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from deploy.errors import DecoderUnavailable, VideoUnreadable, first_line
from deploy.video import Video, to_bgr
from streamer.errors import SourceUnavailable

NVDEC_CODECS = ("h264", "hevc")

MAX_MEAN_DIFFERENCE = 1.0
"""Grey levels, mean over a frame. Rounding of colours is below it; a wrong colour range or matrix is several times above."""


def nvdec_frames(path: Path, video: Video) -> Iterator[VideoFrame]:
    """All frames of a video file in display order.

    Args:
        path: The file.
        video: The same file, not read yet. Its first frame is decoded on the CPU and compared with NVDEC's.

    Raises:
        DecoderUnavailable: PyNvVideoCodec or the driver is missing.
        SourceUnavailable: the codec or pixel layout is not supported, decoding fails, or the first frame differs from the CPU's.
    """
    library = _import_pynvvideocodec()
    codec = video.stream.codec_context.name
    if codec not in NVDEC_CODECS:
        raise SourceUnavailable(f"{path}: nvdec decodes {' and '.join(NVDEC_CODECS)}, this is {codec}; leave --decoder out")
    try:
        expected = next((frame for frame in video.frames() if isinstance(frame, VideoFrame)), None)
        for frame in _decoded(library, path, video.stream):
            if expected is not None:
                _check_same(path, frame, expected)
                expected = None
            yield frame
    except (SourceUnavailable, VideoUnreadable):
        raise
    except Exception as error:
        raise SourceUnavailable(f"{path}: nvdec failed: {first_line(error)}; leave --decoder out") from error


def _decoded(library: Any, path: Path, stream: VideoStream) -> Iterator[VideoFrame]:
    demuxer = library.CreateDemuxer(str(path))
    decoder = library.CreateDecoder(gpuid=0, codec=demuxer.GetNvCodecId(), usedevicememory=False)
    time_base = Fraction(demuxer.GetTimebaseNum(), demuxer.GetTimebaseDen())
    for packet in demuxer:  # the last packet is empty and flushes the decoder
        for decoded in decoder.Decode(packet):
            size = (decoder.GetWidth(), decoder.GetHeight())
            _check_layout(path, decoded, library.Pixel_Format.NV12, size)
            yield _frame(decoded, size, time_base, stream)


def _import_pynvvideocodec() -> Any:
    try:
        import PyNvVideoCodec
    except Exception as error:  # without a driver its import raises a RuntimeError, whose later lines are advice for Docker
        raise DecoderUnavailable(
            f"nvdec cannot be used: {first_line(error)}; install it: pip install 'oddsight[nvdec]', and NVIDIA's driver, "
            "or leave --decoder out"
        ) from error
    return PyNvVideoCodec


def _check_same(path: Path, frame: VideoFrame, expected: VideoFrame) -> None:
    actual, reference = (to_bgr(each).astype(np.int16) for each in (frame, expected))
    difference = float(np.abs(actual - reference).mean()) if actual.shape == reference.shape else np.inf
    if not difference <= MAX_MEAN_DIFFERENCE:
        raise SourceUnavailable(
            f"{path}: nvdec's first frame differs from the CPU's by {difference:.1f} grey levels on average; at most "
            f"{MAX_MEAN_DIFFERENCE:g} is accepted; leave --decoder out"
        )


def _check_layout(path: Path, decoded: Any, nv12: Any, size: tuple[int, int]) -> None:
    width_px, height_px = size
    if decoded.format != nv12 or width_px % 2 or height_px % 2 or decoded.framesize() != width_px * height_px * 3 // 2:
        raise SourceUnavailable(
            f"{path}: nvdec gives {decoded.framesize()} bytes of {decoded.format} for {width_px} x {height_px} pixels; only NV12 "
            "(8 bits, 4:2:0, even sides) is supported; leave --decoder out"
        )


def _frame(decoded: Any, size: tuple[int, int], time_base: Fraction, stream: VideoStream) -> VideoFrame:
    width_px, height_px = size
    # The decoder reuses this memory for the next packet; from_ndarray copies it.
    memory = (ctypes.c_uint8 * decoded.framesize()).from_address(decoded.GetPtrToPlane(0))
    frame = VideoFrame.from_ndarray(np.ctypeslib.as_array(memory).reshape(height_px * 3 // 2, width_px), format="nv12")
    frame.pts = decoded.getPTS()
    frame.time_base = time_base
    frame.colorspace = stream.codec_context.colorspace
    frame.color_range = stream.codec_context.color_range
    return frame
