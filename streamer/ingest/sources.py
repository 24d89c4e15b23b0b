"""Pictures from a folder of frames, a video file or a live stream. Nothing is invented: each comes at most once, at its own time.

Video is decoded by FFmpeg through PyAV. OpenCV's video reader is not used: there are real files on which it ends the process.
"""

import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
import structlog
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from deploy import MAX_PICTURE_PX
from deploy.image import encode_jpeg
from streamer.errors import SourceUnavailable
from streamer.ingest.nvdec import nvdec_frames

VideoDecoder = Literal["cpu", "nvdec"]
"""What decodes video files; live streams are always decoded on the CPU."""

FOLDER_FPS = 10.0
"""Assumed for folders of frames, which do not say."""

_CONTENT_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png"}
_JPEG_QUALITY = 90
_ASSUMED_VIDEO_FPS = 25.0
_LIVE_TIMEOUT_S = 10.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """One encoded picture of a source."""

    encoded: bytes
    content_type: str
    sequence: int
    """Its place among the pictures given out, from 0."""
    offset_ms: int
    """Time since the source's first picture: as recorded for files, as arrived for live streams."""


def is_live(location: str) -> bool:
    """Whether a location is a stream with an address, which has no end, rather than a file or folder."""
    return "://" in location


def open_source(
    location: str, fps: float | None = None, clock: Callable[[], float] = time.monotonic, decoder: VideoDecoder = "cpu"
) -> Iterator[EncodedFrame]:
    """The pictures of a source, in order.

    JPEG and PNG files of a folder pass unchanged; the frames of a video become JPEG.

    Args:
        location: A folder of JPEG and PNG files, a video file, or the URL of a live stream.
        fps: For folders the rate they were taken at, 10 if not given. For video the most pictures a second: a video of
            25 gives every 2.5th frame at 10; by default every frame.
        clock: Seconds; tells when the pictures of a live stream arrived.
        decoder: For video files.

    Raises:
        DecoderUnavailable: while iterating: nvdec is asked for, and its library or driver is missing.
        SourceUnavailable: while iterating: nothing there, no video, or a live stream that ended or broke.
    """
    if is_live(location):
        return _live_pictures(location, fps, clock)
    path = Path(location)
    if path.is_dir():
        return _folder_pictures(path, fps or FOLDER_FPS)
    return _video_pictures(path, fps, decoder)


def _folder_pictures(folder: Path, fps: float) -> Iterator[EncodedFrame]:
    files = sorted((path for path in folder.iterdir() if path.suffix.lower() in _CONTENT_TYPES), key=_natural)
    if not files:
        raise SourceUnavailable(f"{folder}: no .jpg, .jpeg or .png file in this folder")
    for sequence, path in enumerate(files):
        yield EncodedFrame(_read(path), _CONTENT_TYPES[path.suffix.lower()], sequence, round(sequence * 1000 / fps))


def _video_pictures(path: Path, fps: float | None, decoder: VideoDecoder) -> Iterator[EncodedFrame]:
    if not path.exists():
        raise SourceUnavailable(f"{path}: no such file or folder; give a folder of pictures, a video file or a URL")
    rate = _Rate(fps)
    with _opened(str(path)) as (container, stream):
        frames = nvdec_frames(path, container, stream) if decoder == "nvdec" else _frames(container, stream)
        for frame, offset_s in _timed(frames, stream):
            if rate.takes(offset_s):
                yield _encoded(frame, rate.taken - 1, offset_s)
    if rate.taken == 0:
        raise SourceUnavailable(f"{path}: a video of which no frame can be decoded: damaged, or no video at all")


def _live_pictures(location: str, fps: float | None, clock: Callable[[], float]) -> Iterator[EncodedFrame]:
    rate = _Rate(fps)
    with _opened(location) as (container, stream):
        started_s: float | None = None
        for frame in _frames(container, stream):
            started_s = clock() if started_s is None else started_s
            offset_s = clock() - started_s
            if rate.takes(offset_s):
                yield _encoded(frame, rate.taken - 1, offset_s)
    raise SourceUnavailable(f"{without_password(location)}: the stream ended")


class _Rate:
    """Lets at most ``fps`` pictures a second through, evenly, judged by their times."""

    def __init__(self, fps: float | None) -> None:
        self._fps = fps
        self._slot = -1
        self.taken = 0

    def takes(self, offset_s: float) -> bool:
        if self._fps is not None:
            # A fixed grid: a late picture neither shifts those after it nor makes two of them come at once.
            slot = math.floor(offset_s * self._fps + 1e-6)
            if slot <= self._slot:
                return False
            self._slot = slot
        self.taken += 1
        return True


@contextmanager
def _opened(location: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    options = {"rtsp_transport": "tcp"} if location.startswith("rtsp") else {}
    try:
        container = av.open(location, timeout=_LIVE_TIMEOUT_S if is_live(location) else None, options=options)
    except (av.FFmpegError, OSError) as error:
        raise SourceUnavailable(f"{without_password(location)}: cannot be opened as video: {_reason(error)}") from error
    with container:
        if not container.streams.video:
            raise SourceUnavailable(f"{without_password(location)}: no video in it")
        yield container, container.streams.video[0]


def _frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """All frames that can be decoded; a damaged packet costs only its own."""
    name = without_password(container.name)
    packets, damaged = container.demux(stream), 0
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except (av.FFmpegError, OSError) as error:
            raise SourceUnavailable(f"{name}: reading failed: {_reason(error)}") from error
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            if damaged == 0:
                log.warning("damaged video, skipping what cannot be decoded", source=name, reason=_reason(error))
            damaged += 1
            continue
        for frame in frames:
            if isinstance(frame, VideoFrame):
                yield frame


def _timed(frames: Iterator[VideoFrame], stream: VideoStream) -> Iterator[tuple[VideoFrame, float]]:
    """Frames with seconds since the first. A time that is missing or does not advance is made up from the frame rate."""
    interval_s = 1 / float(stream.average_rate or _ASSUMED_VIDEO_FPS)
    first_s: float | None = None
    offset_s = -interval_s
    for frame in frames:
        recorded_s = frame.time
        if first_s is None:
            first_s = recorded_s or 0.0
        expected_s = offset_s + interval_s
        offset_s = recorded_s - first_s if recorded_s is not None and recorded_s - first_s > offset_s else expected_s
        yield frame, offset_s


def _encoded(frame: VideoFrame, sequence: int, offset_s: float) -> EncodedFrame:
    if frame.width * frame.height > MAX_PICTURE_PX:
        raise SourceUnavailable(f"frames of {frame.width} x {frame.height} pixels; at most {MAX_PICTURE_PX} pixels are accepted")
    jpeg = encode_jpeg(np.asarray(frame.to_ndarray(format="bgr24"), dtype=np.uint8), _JPEG_QUALITY)
    return EncodedFrame(jpeg, "image/jpeg", sequence, round(offset_s * 1000))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceUnavailable(f"{path}: {error.strerror}") from error


def _natural(path: Path) -> list[tuple[int, str]]:
    """``frame10`` after ``frame9``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def without_password(location: str) -> str:
    """A location as it may be shown."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", location)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
