"""Encoded frames from a folder of images, a video file or a live stream, each at most once and with its own time."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from deploy.errors import VideoUnreadable
from deploy.image import encode_jpeg, natural_key
from deploy.video import AvFrame, Video, is_live, open_video, redact_password, to_bgr
from streamer.errors import SourceUnavailable
from streamer.ingest.nvdec import nvdec_frames

VideoDecoder = Literal["cpu", "nvdec"]
"""What decodes video files; live streams are always decoded on the CPU."""

FOLDER_FPS = 10.0
"""Assumed for folders of images, which state no rate."""

_CONTENT_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png"}
_JPEG_QUALITY = 90
_DEFAULT_VIDEO_FPS = 25.0

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
        decoder: For video files.

    Raises:
        DecoderUnavailable: while iterating: nvdec is asked for, and its library or driver is missing.
        SourceUnavailable: while iterating: nothing there, no video, or a live stream that ended or broke.
    """
    path = Path(location)
    try:
        if is_live(location):
            yield from _live_frames(location, fps, clock)
        elif path.is_dir():
            yield from _folder_frames(path, fps or FOLDER_FPS)
        else:
            yield from _file_frames(path, fps, decoder)
    except VideoUnreadable as error:
        raise SourceUnavailable(str(error)) from error


def _folder_frames(folder: Path, fps: float) -> Iterator[EncodedFrame]:
    files = sorted((path for path in folder.iterdir() if path.suffix.lower() in _CONTENT_TYPES), key=natural_key)
    if not files:
        raise SourceUnavailable(f"{folder}: no .jpg, .jpeg or .png file in this folder")
    for sequence, path in enumerate(files):
        try:
            encoded = path.read_bytes()
        except OSError as error:
            raise SourceUnavailable(f"{path}: {error.strerror}") from error
        yield EncodedFrame(encoded, _CONTENT_TYPES[path.suffix.lower()], sequence, round(sequence * 1000 / fps))


def _file_frames(path: Path, fps: float | None, decoder: VideoDecoder) -> Iterator[EncodedFrame]:
    if not path.exists():
        raise SourceUnavailable(f"{path}: no such file or folder; give a folder of images, a video file or a URL")
    with open_video(path) as video:
        frames = nvdec_frames(path, video) if decoder == "nvdec" else _cpu_frames(video, str(path))
        yield from _encoded(_recorded_times(frames, video.info(_DEFAULT_VIDEO_FPS).fps), fps)


def _live_frames(location: str, fps: float | None, clock: Callable[[], float]) -> Iterator[EncodedFrame]:
    name = redact_password(location)
    with open_video(location) as video:
        yield from _encoded(_arrival_times(_cpu_frames(video, name), clock), fps)
    raise SourceUnavailable(f"{name}: the stream ended")


def _cpu_frames(video: Video, name: str) -> Iterator[AvFrame]:
    for frame in video.frames():
        if not isinstance(frame, str):
            yield frame
        elif video.damaged_packets == 1:
            log.warning("damaged video, skipping what cannot be decoded", source=name, reason=frame)
    if video.damaged_packets:
        log.warning("damaged packets were skipped", source=name, damaged_packets=video.damaged_packets)


def _recorded_times(frames: Iterator[AvFrame], fps: float) -> Iterator[tuple[AvFrame, float]]:
    """Frames with seconds since the first. A time that is missing or does not advance is made up from the frame rate."""
    first_s: float | None = None
    offset_s = -1 / fps
    for frame in frames:
        if first_s is None:
            first_s = frame.time or 0.0
        recorded_s = None if frame.time is None else frame.time - first_s
        offset_s = recorded_s if recorded_s is not None and recorded_s > offset_s else offset_s + 1 / fps
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
