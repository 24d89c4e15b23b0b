"""Video, decoded by FFmpeg through PyAV: the one reader that training and ingest share.

OpenCV's video reader is not used: some real files crash the process in it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from deploy import MAX_IMAGE_PX
from deploy.errors import VideoUnreadable
from deploy.files import open_regular_file

_MOST_FPS = 30  # only a hint to the encoder: frames have their own times

AvFrame = VideoFrame  # in the video's own pixel format; to_bgr converts it


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video states about itself before it is decoded."""

    width_px: int
    height_px: int
    fps: float


class Video:
    """An open video; made by :func:`open_video`."""

    def __init__(self, container: InputContainer, name: str) -> None:
        self._container = container
        self.name = name
        self.stream = container.streams.video[0]
        self.damaged_packets = 0  # skipped so far because they could not be decoded

    def info(self, default_fps: float) -> VideoInfo:
        """Size and frame rate; ``default_fps`` where the video does not state its rate."""
        return VideoInfo(self.stream.width, self.stream.height, float(self.stream.average_rate or default_fps))

    def estimate_frame_count(self) -> int:
        """The number of frames by the container's header, 0 where it states none."""
        seconds = float(self._container.duration or 0) / av.time_base
        return self.stream.frames or round(seconds * float(self.stream.average_rate or 0))

    def frames(self) -> Iterator[AvFrame | str]:
        """All frames in display order. A packet that cannot be decoded is skipped: a line saying why takes its place.

        Raises VideoUnreadable if reading fails, a frame is too large, or no frame at all can be decoded.
        """
        decoded = 0
        for packet in self._packets():
            try:
                frames = self.stream.decode(packet)
            except av.FFmpegError as error:
                self.damaged_packets += 1
                yield f"{self.name}: a damaged packet was skipped: {reason_of(error)}"
                continue
            for frame in frames:
                if frame.width * frame.height > MAX_IMAGE_PX:
                    size = f"{frame.width} x {frame.height}"
                    raise VideoUnreadable(f"{self.name}: frames of {size} pixels; at most {MAX_IMAGE_PX} pixels are accepted")
                decoded += 1
                yield frame
        if decoded == 0:
            raise VideoUnreadable(f"{self.name}: no frame can be decoded; the file is damaged or is no video")

    def _packets(self) -> Iterator["Packet[VideoStream]"]:
        try:
            yield from self._container.demux(self.stream)
        except (av.FFmpegError, OSError) as error:
            raise VideoUnreadable(f"{self.name}: reading failed: {reason_of(error)}") from error


class JpegRecording:
    """Writes JPEG images as they are to a Matroska video; what a crash leaves of it can be read up to its last second.

    Every method raises OSError, for instance when the disk is full.
    """

    def __init__(self, path: Path, width_px: int, height_px: int, fps: float) -> None:
        rate = Fraction(fps).limit_denominator(1000)
        try:
            self._container: OutputContainer = av.open(str(path), "w", format="matroska", options={"flush_packets": "1"})
            self._stream: Stream = self._container.add_mux_stream("mjpeg", rate, width=width_px, height=height_px)
        except av.FFmpegError as error:
            raise OSError(f"{path}: {reason_of(error)}") from error

    def add(self, image: bytes, time_ms: int) -> None:
        """Add the next image; ``time_ms``: since the beginning, more than that of the one before."""
        packet: Packet[Stream] = av.Packet(image)
        packet.stream, packet.time_base, packet.is_keyframe = self._stream, Fraction(1, 1000), True
        packet.pts = packet.dts = time_ms
        try:
            self._container.mux(packet)
        except av.FFmpegError as error:
            raise OSError(reason_of(error)) from error

    def close(self) -> None:
        try:
            self._container.close()
        except av.FFmpegError as error:
            raise OSError(reason_of(error)) from error


class Mp4Writer:
    """Writes BGR frames of one size as H.264, which browsers play while they load it. Every method raises OSError."""

    def __init__(self, path: Path, width_px: int, height_px: int) -> None:
        """Both sides must be even."""
        try:
            self._container: OutputContainer = av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
            # Constant quality; one thread, because others need the processor more.
            options = {"crf": "27", "preset": "veryfast", "threads": "1"}
            stream: VideoStream = self._container.add_stream("libx264", rate=_MOST_FPS, options=options)
            stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
            self._stream = stream
        except av.FFmpegError as error:
            raise OSError(f"{path}: {reason_of(error)}") from error

    def add(self, image: NDArray[np.uint8], time_ms: int) -> None:
        """Add the next frame, uint8 (H, W, 3) BGR; ``time_ms``: since the beginning, more than that of the one before."""
        frame = VideoFrame.from_ndarray(image, format="bgr24")
        frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
        self._mux(frame)

    def close(self) -> None:
        self._mux(None)
        try:
            self._container.close()
        except av.FFmpegError as error:
            raise OSError(reason_of(error)) from error

    def _mux(self, frame: VideoFrame | None) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except av.FFmpegError as error:
            raise OSError(reason_of(error)) from error


@contextmanager
def open_video(path: Path) -> Iterator[Video]:
    """Open a video file. Raises VideoUnreadable if it is none; a list of other files, such as a playlist, is none either."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open_regular_file(path, follow_links=True))
            # No protocol is allowed, so that FFmpeg reads this file alone, whatever other files or hosts it names.
            # A title need not be UTF-8.
            container = av.open(file, "r", options={"protocol_whitelist": "none"}, metadata_errors="replace")
        except (av.FFmpegError, OSError) as error:
            raise VideoUnreadable(f"{path}: cannot be opened as video: {reason_of(error)}") from error
        stack.enter_context(container)
        if not container.streams.video:
            raise VideoUnreadable(f"{path}: contains no video stream")
        yield Video(container, str(path))


def to_bgr(frame: AvFrame) -> NDArray[np.uint8]:
    """The frame as uint8 (H, W, 3), BGR."""
    return np.asarray(frame.to_ndarray(format="bgr24"), dtype=np.uint8)


def reason_of(error: Exception) -> str:
    """Why FFmpeg or the system refused, without the name of the file or the URL."""
    return getattr(error, "strerror", None) or type(error).__name__
