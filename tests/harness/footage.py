"""Small videos and images made for a test."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from deploy.image import encode_jpeg


def picture(brightness: int, width_px: int = 64, height_px: int = 48) -> bytes:
    """A JPEG of one shade of gray."""
    return encode_jpeg(np.full((height_px, width_px, 3), brightness, dtype=np.uint8), 90)


def write_folder(folder: Path, count: int, first_brightness: int = 0) -> list[bytes]:
    """``frame1.jpg`` and so on; gives their bytes in order."""
    folder.mkdir(parents=True)
    pictures = [picture((first_brightness + number) % 256) for number in range(count)]
    for number, encoded in enumerate(pictures, 1):
        (folder / f"frame{number}.jpg").write_bytes(encoded)
    return pictures


def write_video(path: Path, seconds: float, fps: int, codec: str = "mpeg4", pixel_format: str = "yuv420p") -> Path:
    """A video that gets brighter from frame to frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        for number in range(round(seconds * fps)):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number % 256, dtype=np.uint8), format="bgr24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_damaged_video(path: Path, frames_n: int = 10, damaged: int = 4) -> Path:
    """A video whose frames are independent of each other, with one packet overwritten by zeros."""
    write_video(path, seconds=frames_n / 10, fps=10, codec="mjpeg", pixel_format="yuvj420p")
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    begin, size = packets[damaged]
    content[begin : begin + size] = bytes(size)
    path.write_bytes(content)
    return path


def write_timed_video(path: Path, times_ms: list[int]) -> Path:
    """A video of images at 25 frames a second whose container states these times."""
    with av.open(str(path), "w") as container:
        stream = container.add_mux_stream("mjpeg", 25, width=64, height=48)
        for time_ms in times_ms:
            packet = av.Packet(picture(100))
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 1000), True
            packet.pts = packet.dts = time_ms
            container.mux(packet)
    return path
