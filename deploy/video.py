"""Video files and streams, read by FFmpeg through PyAV."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video says of itself before it is decoded."""

    width_px: int
    height_px: int
    fps: float
