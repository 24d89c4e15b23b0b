"""The believed capture times of the frames: given to each in the order of its partition, before any rule looks at them.

The clocks are stored with the frames' effects. A restart goes on from them, and replays from those of the first frames to replay,
so that a frame gets the same time whenever it is read, and clips are cut at the same places.
"""

from dataclasses import dataclass, field, replace

from deploy.clock import ClockRule, ClockState, Tick, tick
from streamer.config import Settings
from streamer.monitoring import Metrics
from streamer.pipeline.start_plan import StartPlan
from streamer.types import CameraFrame, FrameInfo, FrameMessage, Rejected


@dataclass(slots=True)
class CameraClocks:
    """The clocks of a partition's cameras after the newest frame of each."""

    read: dict[str, ClockState] = field(default_factory=dict)
    """Of the frames that count."""
    replayed: dict[str, ClockState] = field(default_factory=dict)
    """Of those that are replayed."""

    @classmethod
    def of(cls, plan: StartPlan) -> "CameraClocks":
        """The clocks with which a partition starts."""
        return cls(
            {name: state.clock for name, state in plan.cameras.items() if state.clock is not None},
            {name: clock for name, clock in plan.replay_clocks.items() if clock is not None},
        )


class CaptureTimes:
    """Puts every frame on the timeline of its camera."""

    def __init__(self, settings: Settings, fps: float, metrics: Metrics) -> None:
        """``fps``: of the training footage."""
        longest_s = min(settings.decision.max_gap_s, settings.decision.merge_gap_s)
        self._rule, self._metrics = ClockRule(round(longest_s * 1000), max(1, round(1000 / fps))), metrics

    def believe(
        self, clocks: CameraClocks, message: FrameMessage, frame: CameraFrame | Rejected, *, is_replay: bool
    ) -> CameraFrame | Rejected:
        """The next frame of a partition with its believed capture time; an image that was rejected moves no clock."""
        if frame.info is None:
            return frame
        ticked = self._tick(clocks, message, frame.info, is_replay=is_replay)
        info = replace(frame.info, captured_at_ms=ticked.after.believed_ms)
        if isinstance(frame, Rejected):
            return replace(frame, info=info)
        newest = clocks.replayed if is_replay else clocks.read
        newest[info.camera_id] = ticked.after
        if ticked.fault is not None and not is_replay:
            self._metrics.clock_faults.labels(ticked.fault).inc()
        return replace(frame, info=replace(info, tick=ticked))

    def _tick(self, clocks: CameraClocks, message: FrameMessage, info: FrameInfo, *, is_replay: bool) -> Tick:
        before = None if is_replay else clocks.read.get(info.camera_id)
        claimed_ms, received_ms = info.captured_at_ms, message.received_ms
        if received_ms == claimed_ms:  # no second opinion
            received_ms = None
        return tick(self._rule, before or clocks.replayed.get(info.camera_id), claimed_ms, received_ms)
