"""Frames to clips: the last frames of each camera, and what the model remembers. One camera never mixes with another."""

from collections import deque
from dataclasses import dataclass, field

from deploy.image import AnyFrame
from deploy.spec import ClipSpec
from streamer.types import CameraFrame, Clip, Memory, Partition


@dataclass(slots=True)
class _Run:
    """Frames of one camera that follow one another."""

    frames: deque[AnyFrame]
    offsets: deque[int]
    """Of the frames that rebuild clip and state after a restart."""
    memory: Memory = field(default_factory=Memory)
    captured_at_ms: int = field(default=0)


class ClipBuffer:
    """Keeps the last frames of every camera of every partition, as many as ``spec`` says."""

    def __init__(self, spec: ClipSpec, max_gap_ms: int) -> None:
        self._spec = spec
        self._max_gap_ms = max_gap_ms
        self._runs: dict[tuple[Partition, str], _Run] = {}

    def push(self, frame: CameraFrame) -> Clip:
        """Add a frame; the clip that ends with it may still be short (see :meth:`is_full`).

        A frame more than ``max_gap_ms`` before or after the one before it begins a new run: what was watched then and
        what is seen now are no motion.
        """
        run = self._runs.get((frame.partition, frame.camera_id))
        if run is None or abs(frame.captured_at_ms - run.captured_at_ms) > self._max_gap_ms:
            run = _Run(deque(maxlen=self._spec.length), deque(maxlen=self._spec.warmup_frames))
            self._runs[frame.partition, frame.camera_id] = run
        run.frames.append(frame.frame)
        run.offsets.append(frame.offset)
        run.captured_at_ms = frame.captured_at_ms
        return Clip(tuple(run.frames), frame, next(iter(run.offsets), None), run.memory)

    def is_full(self, clip: Clip) -> bool:
        """Whether the clip can be scored."""
        return len(clip.frames) == self._spec.length

    def forget(self, partition: Partition) -> None:
        """Drop frames and memory of a partition's cameras: it was revoked, or will be read again."""
        for key in [key for key in self._runs if key[0] == partition]:
            del self._runs[key]
