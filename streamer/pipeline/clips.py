"""Frames to clips: a sliding window over the frames of each camera."""

from collections import deque
from dataclasses import dataclass, field

from deploy.image import AnyFrame
from deploy.spec import ClipSpec
from streamer.types import CameraFrame, CameraMemory, Clip, Partition


@dataclass(slots=True)
class _Window:
    frames: deque[AnyFrame]
    offsets: deque[int]
    """Of the frames needed to rebuild clip and state after a restart."""
    captured_at_ms: int
    memory: CameraMemory = field(default_factory=CameraMemory)


class ClipBuffer:
    """Keeps the last ``spec.length`` frames of every camera of every partition."""

    def __init__(self, spec: ClipSpec, max_gap_ms: int) -> None:
        self._spec, self._max_gap_ms = spec, max_gap_ms
        self._windows: dict[tuple[Partition, str], _Window] = {}

    def push(self, frame: CameraFrame) -> Clip:
        """Add a frame and return the clip that ends with it, which may be shorter than ``spec.length`` (see :meth:`is_full`).

        A frame captured more than ``max_gap_ms`` before or after the previous one starts a new window: frames across a gap
        are not consecutive, so their difference is no motion.
        """
        info = frame.info
        window = self._windows.get((info.partition, info.camera_id))
        if window is None or abs(info.captured_at_ms - window.captured_at_ms) > self._max_gap_ms:
            window = _Window(deque(maxlen=self._spec.length), deque(maxlen=self._spec.warmup_frames), info.captured_at_ms)
            self._windows[info.partition, info.camera_id] = window
        window.frames.append(frame.frame)
        window.offsets.append(info.offset)
        window.captured_at_ms = info.captured_at_ms
        return Clip(tuple(window.frames), info, next(iter(window.offsets), None), window.memory)

    def is_full(self, clip: Clip) -> bool:
        """Whether the clip is long enough to be scored."""
        return len(clip.frames) == self._spec.length

    def forget(self, partition: Partition) -> None:
        """Drop all frames and memories of a partition's cameras."""
        self._windows = {key: window for key, window in self._windows.items() if key[0] != partition}
