"""Frames to clips: the last frames of each camera. One camera's frames never mix with another's."""

from collections import deque
from dataclasses import dataclass, field

from deploy.frames import Frame
from streamer.records import CameraFrame, Clip, Partition


@dataclass(slots=True)
class _Run:
    """Frames of one camera that follow one another."""

    frames: deque[Frame]
    captured_at_ms: int = field(default=0)


class ClipBuffer:
    """Keeps the last ``length`` frames of every camera of every partition."""

    def __init__(self, length: int, max_gap_ms: int) -> None:
        self._length = length
        self._max_gap_ms = max_gap_ms
        self._runs: dict[tuple[Partition, str], _Run] = {}

    def push(self, frame: CameraFrame) -> Clip:
        """Add a frame; the clip that ends with it may still be short (see :meth:`is_full`).

        A frame more than ``max_gap_ms`` before or after the one before it begins a new run: what was watched then and
        what is seen now are no motion.
        """
        run = self._runs.get((frame.partition, frame.camera_id))
        starts_camera = run is None or abs(frame.captured_at_ms - run.captured_at_ms) > self._max_gap_ms
        if run is None or starts_camera:
            run = self._runs[frame.partition, frame.camera_id] = _Run(deque(maxlen=self._length))
        run.frames.append(frame.frame)
        run.captured_at_ms = frame.captured_at_ms
        return Clip(tuple(run.frames), frame, starts_camera)

    def is_full(self, clip: Clip) -> bool:
        """Whether the clip can be scored."""
        return len(clip.frames) == self._length

    def forget(self, partition: Partition) -> None:
        """Drop the frames of a partition's cameras: it was revoked, or will be read again."""
        for key in [key for key in self._runs if key[0] == partition]:
            del self._runs[key]
