"""Encoded frames from a folder of images, a video file or a live stream, each at most once and with its own time."""

import ctypes
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import structlog
from av.video.stream import VideoStream

from deploy.errors import DecoderUnavailable, VideoUnreadable, first_line
from deploy.files import open_regular_file
from deploy.image import encode_jpeg, natural_key
from deploy.video import AvFrame, Video, open_video, to_bgr
from streamer.ingest.streams import is_stream, open_stream
from streamer.interfaces import SourceUnavailable

VideoDecoder = Literal["cpu", "nvdec"]

FOLDER_FPS = 10.0
"""Assumed for folders of images, which state no rate."""

_CONTENT_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png"}
_JPEG_QUALITY = 90
_DEFAULT_VIDEO_FPS = 25.0
_MIN_VIDEO_FPS, _MAX_VIDEO_FPS = 0.1, 1000.0
MAX_RECORDED_GAP_S = 60.0
"""Longer than :attr:`streamer.config.DecisionSettings.max_gap_s` by default, so that the camera still starts anew after it."""

_NVDEC_CODECS = ("h264", "hevc")
_MAX_MEAN_DIFFERENCE = 1.0
"""Grey levels, mean over a frame. Rounding of colours is below it; a wrong colour range or matrix is several times above."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """One JPEG or PNG of a source."""

    encoded: bytes
    content_type: str
    sequence: int
    """Its number among the frames of the source, from 0."""
    offset_ms: int
    """Time since the source's first frame: as recorded for files, as received for live streams."""


def open_source(
    location: str, fps: float | None = None, clock: Callable[[], float] = time.monotonic, decoder: VideoDecoder = "cpu"
) -> Iterator[EncodedFrame]:
    """The frames of a source, in order.

    JPEG and PNG files of a folder pass unchanged; frames of a video are encoded as JPEG.

    Args:
        location: A folder of JPEG and PNG files, a video file, or the URL of a live stream.
        fps: For folders the rate they were recorded at, by default 10. For video the largest rate to pass on: at 10 a video
            of 25 frames a second gives every 2.5th; by default every frame.
        clock: Seconds; gives the times at which frames of a live stream arrive.
        decoder: What decodes video files; ``nvdec`` needs an NVIDIA GPU.

    Raises:
        DecoderUnavailable: while iterating: nvdec is asked for, and its library or driver is missing.
        SourceUnavailable: while iterating: nothing there, no video, or a live stream that ended or broke.
    """
    path = Path(location)
    try:
        if is_stream(location):
            with open_stream(location) as video:
                yield from _encoded(_arrival_times(_cpu_frames(video), clock), fps)
            raise SourceUnavailable(f"{video.name}: the stream ended")
        elif path.is_dir():
            yield from _folder_frames(path, fps or FOLDER_FPS)
        elif path.exists():
            with open_video(path) as video:
                frames = _nvdec_frames(path, video) if decoder == "nvdec" else _cpu_frames(video)
                yield from _encoded(_recorded_times(frames, video), fps)
        else:
            raise SourceUnavailable(f"{path}: no such file or folder; give a folder of images, a video file or a URL")
    except VideoUnreadable as error:
        raise SourceUnavailable(str(error)) from error


def _folder_frames(folder: Path, fps: float) -> Iterator[EncodedFrame]:
    files = sorted((path for path in folder.iterdir() if path.suffix.lower() in _CONTENT_TYPES), key=natural_key)
    if not files:
        raise SourceUnavailable(f"{folder}: no .jpg, .jpeg or .png file in this folder")
    for sequence, path in enumerate(files):
        try:
            with open_regular_file(path, follow_links=False) as file:  # a link would send what the folder does not hold
                encoded = file.read()
        except OSError as error:
            raise SourceUnavailable(f"{path}: {error.strerror}") from error
        yield EncodedFrame(encoded, _CONTENT_TYPES[path.suffix.lower()], sequence, round(sequence * 1000 / fps))


def _cpu_frames(video: Video) -> Iterator[AvFrame]:
    for frame in video.frames():
        if not isinstance(frame, str):
            yield frame
        elif video.damaged_packets == 1:
            log.warning("damaged video, skipping what cannot be decoded", source=video.name, reason=frame)
    if video.damaged_packets:
        log.warning("damaged packets were skipped", source=video.name, damaged_packets=video.damaged_packets)


def _recorded_times(frames: Iterator[AvFrame], video: Video) -> Iterator[tuple[AvFrame, float]]:
    """Frames with seconds since the first. A time that is missing or does not advance is made up from the frame rate.

    A gap of more than a minute is shortened to one: after a single damaged time, nothing would be sent for years.
    """
    step_s = 1 / min(max(video.info(_DEFAULT_VIDEO_FPS).fps, _MIN_VIDEO_FPS), _MAX_VIDEO_FPS)
    offset_s, shortened = -step_s, False
    shift_s: float | None = None
    for frame in frames:
        if frame.time is not None:
            if shift_s is None:
                shift_s = offset_s + step_s - frame.time
            elif frame.time + shift_s - offset_s > MAX_RECORDED_GAP_S:
                shift_s = offset_s + MAX_RECORDED_GAP_S - frame.time
                if not shortened:
                    log.warning("gaps in the times are shortened", source=video.name, to_s=MAX_RECORDED_GAP_S)
                shortened = True
        recorded_s = offset_s if frame.time is None or shift_s is None else frame.time + shift_s
        offset_s = recorded_s if recorded_s > offset_s else offset_s + step_s
        yield frame, offset_s


def _arrival_times(frames: Iterator[AvFrame], clock: Callable[[], float]) -> Iterator[tuple[AvFrame, float]]:
    started_s: float | None = None
    for frame in frames:
        started_s = clock() if started_s is None else started_s
        yield frame, clock() - started_s


def _encoded(frames: Iterator[tuple[AvFrame, float]], fps: float | None) -> Iterator[EncodedFrame]:
    """Frames as JPEG, at most ``fps`` a second, evenly spaced by their times; all of them if ``fps`` is None."""
    sequence, slot = 0, -1
    for frame, offset_s in frames:
        # A fixed grid: a late frame neither shifts those after it nor makes two of them come at once.
        next_slot = slot + 1 if fps is None else math.floor(offset_s * fps + 1e-6)
        if next_slot > slot:
            yield EncodedFrame(encode_jpeg(to_bgr(frame), _JPEG_QUALITY), "image/jpeg", sequence, round(offset_s * 1000))
            sequence, slot = sequence + 1, next_slot


# H.264 and H.265 define every pixel, so NVDEC's frames are those of any other decoder. They leave the GPU as NV12, and FFmpeg
# converts their colours as it does for frames it decoded itself. The first frame is compared with the CPU's all the same.
def _nvdec_frames(path: Path, video: Video) -> Iterator[AvFrame]:
    try:
        import PyNvVideoCodec
    except Exception as error:  # without a driver its import raises a RuntimeError, whose later lines are advice for Docker
        raise DecoderUnavailable(
            f"nvdec cannot be used: {first_line(error)}; install it: pip install 'oddsight[nvdec]', and NVIDIA's driver, "
            "or leave --decoder out"
        ) from error
    codec = video.stream.codec_context.name
    if codec not in _NVDEC_CODECS:
        raise SourceUnavailable(f"{path}: nvdec decodes {' and '.join(_NVDEC_CODECS)}, this is {codec}; leave --decoder out")
    try:
        expected = next((frame for frame in video.frames() if isinstance(frame, AvFrame)), None)
        for frame in _decoded(PyNvVideoCodec, path, video.stream):
            if expected is not None:
                _check_same(path, frame, expected)
                expected = None
            yield frame
    except (SourceUnavailable, VideoUnreadable):
        raise
    except Exception as error:
        raise SourceUnavailable(f"{path}: nvdec failed: {first_line(error)}; leave --decoder out") from error


def _decoded(library: Any, path: Path, stream: VideoStream) -> Iterator[AvFrame]:
    demuxer = library.CreateDemuxer(str(path))
    decoder = library.CreateDecoder(gpuid=0, codec=demuxer.GetNvCodecId(), usedevicememory=False)
    time_base = Fraction(demuxer.GetTimebaseNum(), demuxer.GetTimebaseDen())
    for packet in demuxer:  # the last packet is empty and flushes the decoder
        for decoded in decoder.Decode(packet):
            width_px, height_px = decoder.GetWidth(), decoder.GetHeight()
            even = width_px % 2 == height_px % 2 == 0
            if decoded.format != library.Pixel_Format.NV12 or not even or decoded.framesize() != width_px * height_px * 3 // 2:
                raise SourceUnavailable(
                    f"{path}: nvdec gives {decoded.framesize()} bytes of {decoded.format} for {width_px} x {height_px} pixels; "
                    "only NV12 (8 bits, 4:2:0, even sides) is supported; leave --decoder out"
                )
            frame = _frame(decoded, width_px, height_px * 3 // 2, stream)
            frame.pts, frame.time_base = decoded.getPTS(), time_base
            yield frame


def _check_same(path: Path, frame: AvFrame, expected: AvFrame) -> None:
    actual, reference = (to_bgr(each).astype(np.int16) for each in (frame, expected))
    difference = float(np.abs(actual - reference).mean()) if actual.shape == reference.shape else np.inf
    if not difference <= _MAX_MEAN_DIFFERENCE:
        raise SourceUnavailable(
            f"{path}: nvdec's first frame differs from the CPU's by {difference:.1f} grey levels on average; at most "
            f"{_MAX_MEAN_DIFFERENCE:g} is accepted; leave --decoder out"
        )


def _frame(decoded: Any, columns: int, rows: int, stream: VideoStream) -> AvFrame:
    # The decoder reuses this memory for the next packet; from_ndarray copies it.
    memory = (ctypes.c_uint8 * decoded.framesize()).from_address(decoded.GetPtrToPlane(0))
    frame = AvFrame.from_ndarray(np.ctypeslib.as_array(memory).reshape(rows, columns), format="nv12")
    frame.colorspace = stream.codec_context.colorspace
    frame.color_range = stream.codec_context.color_range
    return frame
