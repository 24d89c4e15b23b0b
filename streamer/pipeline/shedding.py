"""Which frames are not looked at, so that no camera starves another and events stay timely.

``over_rate``: a camera that sends more than ``limits.max_fps`` is thinned before its frames are decoded, see
:mod:`streamer.pipeline.pacing`.

``late``: a frame that has waited in Kafka for longer than ``limits.max_frame_age_s`` is left out, oldest first, and so are those
of its camera behind it until one is half as old. One long gap, after which the camera begins anew, instead of many short ones:
across a gap everything seems to jump. By the records' own times, because the clock of a camera may be wrong. Which frames are
late depends on when they are read; it is committed with the step, and frames that led up to them are never replayed.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple

import structlog

from deploy.clock import in_ms
from streamer.config import Settings
from streamer.interfaces import CameraState, Snapshot
from streamer.monitoring import Metrics
from streamer.pipeline.clips import ClipBuffer, frame_header
from streamer.pipeline.learning import CameraLearning
from streamer.pipeline.pacing import CameraPace
from streamer.pipeline.partitions import ActivePartition
from streamer.pipeline.registry import Admit
from streamer.types import FrameInfo, FrameMessage, QuotaUsed, Shed

log = structlog.get_logger("oddsight.shedding")

_AGE_TO_GO_ON: Final = 0.5  # as a share of the greatest age


class Taken(NamedTuple):
    """Snapshots of learners and memories for the next step; None where what is stored is to be dropped."""

    learners: Mapping[str, Snapshot | None]
    memories: Mapping[str, Snapshot | None]


class Marked(NamedTuple):
    """What a step stores, so that a replay sheds the same frames, and which were shed."""

    cameras: Mapping[str, CameraState]
    snapshots: Taken
    sheds: Sequence[Shed]


class Shedding:
    """Sheds frames of all partitions; what is held of a camera for it is held with its partition."""

    def __init__(
        self,
        settings: Settings,
        clips: ClipBuffer,
        learning: CameraLearning,
        metrics: Metrics,
        clock_s: Callable[[], float] = time.monotonic,
        wall_clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._enabled = settings.sheds_frames
        self._clips, self._learning, self._metrics = clips, learning, metrics
        self._clock_s, self._wall_clock_s = clock_s, wall_clock_s
        self._max_age_ms = settings.limits.max_frame_age_s * 1000
        self._max_fps = settings.limits.max_fps
        self._own_max_fps = {camera_id: camera.max_fps for camera_id, camera in settings.cameras.items()}
        self._told: set[str] = set()
        """Cameras of which the log says that they send too much."""

    def sheds(self, active: ActivePartition, message: FrameMessage, admit: Admit) -> bool:
        """Whether a message of a partition is not looked at; then it is done. One that is to be rejected is looked at.

        ``admit``: takes on its camera, as nothing may be kept of one that is not watched.
        """
        header = frame_header(message, admit) if self._enabled else None
        if header is None:
            return False
        camera_id, captured_at_ms = header
        pace, is_replay = active.paces.setdefault(camera_id, CameraPace()), active.is_replay(message.offset)
        shed = Shed(FrameInfo(message.partition, message.offset, camera_id, captured_at_ms, 0, 0), "late")
        if not is_replay and self._is_late(pace, message, camera_id):
            pace.begins_anew = True
        elif pace.keeps(message.offset, in_ms(captured_at_ms), _received_ms(message), self._interval_us(camera_id)):
            if pace.begins_anew:
                active.first_behind.add(message.offset)
                pace.begins_anew = False
            return False
        else:
            shed = shed._replace(reason="over_rate")
        if not is_replay:
            active.seen_s[camera_id] = self._clock_s()
            active.offsets.finish(message.offset, shed)
        return True

    def _interval_us(self, camera_id: str) -> int:
        return round(1_000_000 / (self._own_max_fps.get(camera_id) or self._max_fps))

    def begin_anew(self, active: ActivePartition, message: FrameMessage) -> None:
        """Forget the clip of a camera if this is its first frame behind late ones; those before must be in their clips."""
        if message.offset in active.first_behind and (header := frame_header(message)) is not None:
            active.first_behind.remove(message.offset)
            self._clips.forget_cameras(message.partition, [header[0]])

    def _is_late(self, pace: CameraPace, message: FrameMessage, camera_id: str) -> bool:
        received_ms = _received_ms(message)
        age_ms = 0.0 if received_ms is None else self._wall_clock_s() * 1000 - received_ms
        was_late, pace.is_late = pace.is_late, age_ms > self._max_age_ms * (_AGE_TO_GO_ON if pace.is_late else 1)
        if pace.is_late and not was_late:
            log.warning(
                "frames of a camera waited too long and are left out: the service is too slow, was down, or the clock of the "
                "camera's producer is behind",
                camera_id=camera_id,
                message=str(message),
                age_s=round(age_ms / 1000, 1),
            )
        elif was_late and not pace.is_late:
            log.info("frames of a camera are looked at again", camera_id=camera_id, message=str(message))
        return pace.is_late

    def apply(self, active: ActivePartition, shed: Shed) -> None:
        """Take up that a frame was shed, in the order of frames: a camera with a late one begins anew."""
        camera_id = shed.info.camera_id
        active.sheds.append(shed)
        if shed.reason == "late":
            state = active.cameras.get(camera_id, CameraState())
            active.cameras[camera_id] = state.model_copy(update={"clip_from": None, "clip_clock": None})
            active.forget_memories([camera_id])
            self._learning.begin_anew(active.learners, camera_id)
        elif camera_id not in self._told:
            self._told.add(camera_id)
            log.warning(
                "a camera sends more frames than its quota: an even choice is looked at, the others are only counted; "
                "lower its rate, or raise limits.max_fps or its own max_fps",
                camera_id=camera_id,
                message=str(shed.info.partition),
            )

    def mark(self, active: ActivePartition, decided: Sequence[FrameInfo], snapshots: Taken) -> Marked:
        """What the next step stores of the cameras of these frames, all that were decided on, and of those that were shed."""
        sheds, active.sheds = tuple(active.sheds), []
        newest: dict[str, int] = {}
        for info in (*decided, *(shed.info for shed in sheds)):
            newest[info.camera_id] = max(info.offset, newest.get(info.camera_id, -1))
        for camera_id, offset in newest.items():
            state, pace = active.cameras.get(camera_id, CameraState()), active.paces.get(camera_id, CameraPace())
            quota_used = pace.mark(state.clip_from, offset)
            active.cameras[camera_id] = state if quota_used is None else state.model_copy(update={"quota_used": quota_used})
        cameras = {camera_id: active.cameras[camera_id] for camera_id in newest}
        marked = Marked(cameras, with_quotas(active, snapshots), sheds)
        _forget_marks(active, cameras)
        return marked

    def count(self, sheds: Sequence[Shed]) -> None:
        """Count frames whose step was written."""
        for shed in sheds:
            self._metrics.shed.labels(shed.info.camera_id, shed.reason).inc()

    def forget(self, camera_ids: Collection[str]) -> None:
        """Drop what is held of cameras apart from their partitions."""
        self._told.difference_update(camera_ids)


def with_quotas(active: ActivePartition, taken: Taken) -> Taken:
    """Snapshots with how far the cameras' quotas were used up before the frames from which they go on."""
    marked = [{name: each and _with_quota(active, name, each) for name, each in snapshots.items()} for snapshots in taken]
    return Taken(*marked)


def _with_quota(active: ActivePartition, camera_id: str, snapshot: Snapshot) -> Snapshot:
    pace, state, clip_from = active.paces.get(camera_id), active.cameras.get(camera_id), snapshot.clip_from
    if pace is None or clip_from is None:
        return snapshot
    quota_used = pace.mark(clip_from, clip_from)
    if quota_used is None and state is not None and state.clip_from == clip_from:  # from before the start
        quota_used = state.quota_used
    return snapshot.model_copy(update={"quota_used": quota_used or QuotaUsed()})


def _forget_marks(active: ActivePartition, cameras: Mapping[str, CameraState]) -> None:
    """Drop what no later step needs."""
    last_offset = active.offsets.next_offset - 1
    for camera_id, state in cameras.items():
        if camera_id in active.paces:
            active.paces[camera_id].forget(state.clip_from, last_offset)
    for camera_id in active.paces.keys() - active.cameras.keys():  # none of their frames was of use
        if active.paces[camera_id].newest <= last_offset:
            del active.paces[camera_id]


def _received_ms(message: FrameMessage) -> int | None:
    """The record's own time, which a producer may have set in seconds."""
    return None if message.received_ms is None else in_ms(message.received_ms)
