"""In-memory Kafka, Redis, engines and clock that keep the contracts of the real ones."""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deploy.engine import CheckedEngine, Clips, Inputs, Scores
from deploy.errors import ProfileCorrupt
from deploy.health import Reference
from deploy.profile import Profile
from deploy.spec import ClipSpec
from streamer.areas import CameraAreas
from streamer.interfaces import (
    CameraState,
    Fenced,
    Fields,
    OwedLetter,
    PartitionChange,
    PollResult,
    Progress,
    ProgressUnusable,
    RedisUnavailable,
    Snapshot,
    Step,
    TopicVersion,
)
from streamer.types import FrameMessage, Partition, Rejected


class FakeClock:
    """A clock that advances by ``tick_s`` with each reading, and by assignment to ``now_s``."""

    def __init__(self, now_s: float = 1_000_000.0, tick_s: float = 0.0) -> None:
        self.now_s = now_s
        self._tick_s = tick_s

    def __call__(self) -> float:
        self.now_s += self._tick_s
        return self.now_s


class AtOnce(ThreadPoolExecutor):
    """Waits until what is submitted is done, so that a test sees every turn of the loop the same."""

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(*args, **kwargs)
        wait([future])
        return future


class MemoryTopic:
    """The messages and committed offsets of a topic; survives its consumers."""

    def __init__(self, messages: Sequence[FrameMessage]) -> None:
        self.partitions: dict[Partition, list[FrameMessage]] = {}
        self.committed: dict[Partition, int] = {}
        self.topic_id: str | None = None
        self.ends: dict[Partition, int] = {}
        """Where a partition ends with offsets that hold no message, such as marks of a transaction's end."""
        for message in messages:
            self.partitions.setdefault(message.partition, []).append(message)


class MemoryFrameSource:
    """:class:`~streamer.interfaces.FrameSource` over a :class:`MemoryTopic`; its first poll assigns all partitions."""

    def __init__(self, topic: MemoryTopic, poll_messages: int = 5) -> None:
        self.joined = False
        self.changes = [PartitionChange("assigned", partition) for partition in sorted(topic.partitions)]
        self._topic = topic
        self._poll_messages = poll_messages
        self._positions: dict[Partition, int] = {}
        self._paused: dict[Partition, int] = {}

    def poll(self, timeout_s: float) -> PollResult:
        changes, self.changes = self.changes, []
        self.joined = True
        messages: list[FrameMessage] = []
        for partition, position in self._positions.items():
            due = [message for message in self._topic.partitions[partition] if message.offset >= position]
            messages += due[: self._poll_messages]
        for message in messages:
            self._positions[message.partition] = message.offset + 1
        return PollResult(changes, messages)

    def start(self, partition: Partition, offset: int) -> None:
        self._positions[partition] = offset
        self._paused.pop(partition, None)

    def pause(self, partition: Partition) -> None:
        if partition in self._positions:
            self._paused[partition] = self._positions.pop(partition)

    def resume(self, partition: Partition) -> None:
        if partition in self._paused:
            self._positions[partition] = self._paused.pop(partition)

    def bounds(self, partition: Partition) -> tuple[int, int]:
        messages = self._topic.partitions[partition]
        return messages[0].offset, self._topic.ends.get(partition, messages[-1].offset + 1)

    def topic(self, partition: Partition) -> TopicVersion:
        return TopicVersion(topic_id=self._topic.topic_id, partitions=len(self._topic.partitions))

    def committed(self, partition: Partition) -> int | None:
        return self._topic.committed.get(partition)

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        self._topic.committed |= offsets

    def position(self, partition: Partition) -> int | None:
        position = self._positions.get(partition, self._paused.get(partition))
        due = [each.offset for each in self._topic.partitions[partition] if position is not None and each.offset >= position]
        return position if due else self._topic.ends.get(partition, position)

    def lag(self, partition: Partition, next_offset: int) -> int | None:
        return self.bounds(partition)[1] - next_offset

    def close(self) -> None:
        self._positions.clear()


@dataclass(slots=True)
class MemoryProgressStore:
    """:class:`~streamer.interfaces.ProgressStore` in memory, with the same fence."""

    progress: dict[Partition, Progress] = field(default_factory=dict)
    scores: list[tuple[str, Fields]] = field(default_factory=list)
    events: list[Fields] = field(default_factory=list)
    health: list[Fields] = field(default_factory=list)
    minutes: list[tuple[str, Fields]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """One entry a step, the last one first: ``"lost"`` fails before the step is written, ``"unanswered"`` after it."""

    unusable: set[Partition] = field(default_factory=set)
    _newest: dict[Partition, str] = field(default_factory=dict)

    def read(self, partition: Partition) -> Progress:
        if partition in self.unusable:
            raise ProgressUnusable(f"{partition}: not a number")
        return self.progress.get(partition, Progress())

    def apply(self, step: Step) -> None:
        failure = self.failures.pop() if self.failures else ""
        if failure == "lost":
            raise RedisUnavailable("the step was lost on the way")
        if self._newest.get(step.partition) == step.step_id:
            return
        stored = self.read(step.partition)
        if stored.next_offset != step.expected:
            raise Fenced(f"{step.partition}: stored progress is {stored.next_offset}, expected {step.expected}")
        # Through JSON and back, as in Redis.
        both = (stored.learners, step.learners), (stored.memories, step.memories)
        learners, memories = (_kept({**before, **after}, step.forgotten) for before, after in both)
        states = {name: CameraState.model_validate_json(state.model_dump_json()) for name, state in step.cameras.items()}
        cameras = {name: state for name, state in {**stored.cameras, **states}.items() if name not in step.forgotten}
        topic, letters = step.topic or stored.topic, step.letters or stored.letters
        self.progress[step.partition] = Progress(step.next_offset, cameras, learners, memories, topic=topic, letters=letters)
        self._newest[step.partition] = step.step_id
        self.scores += step.scores
        self.health += step.health
        self.minutes += step.minutes
        self.events += step.events
        if failure == "unanswered":
            raise RedisUnavailable("the answer was lost on the way")


class MemoryAreaStore:
    """:class:`~streamer.interfaces.AreaStore` in memory."""

    def __init__(self) -> None:
        self._areas: dict[str, CameraAreas] = {}
        self._changes = 0
        self.available = True

    def version(self) -> str:
        if not self.available:
            raise RedisUnavailable("no answer")
        return str(self._changes)

    def read(self) -> Mapping[str, CameraAreas]:
        return self._areas

    def change(self, camera_id: str, change: Callable[[CameraAreas], CameraAreas]) -> CameraAreas:
        self._areas[camera_id] = change(self._areas.get(camera_id, CameraAreas()))
        self._changes += 1
        return self._areas[camera_id]


def _kept(snapshots: Mapping[str, Snapshot | None], forgotten: Collection[str]) -> dict[str, Snapshot]:
    return {name: snapshot for name, snapshot in snapshots.items() if snapshot is not None and name not in forgotten}


class MemoryProfileStore:
    """:class:`~streamer.interfaces.ProfileStore` in memory; profiles whose content is None are damaged."""

    def __init__(self) -> None:
        self.profiles: dict[str, tuple[str, Profile | None]] = {}
        self.reads: list[str] = []
        """profile_ids in the order they were read."""
        self.available = True
        self.frozen_cameras: set[str] = set()
        self.references: dict[str, Reference] = {}
        self._changes = 0

    def put(self, *profiles: Profile) -> None:
        """Make profiles their cameras' current ones."""
        for profile in profiles:
            self.put_as(profile.info.camera_id, profile.profile_id, profile)

    def put_as(self, camera_id: str, profile_id: str, content: Profile | None) -> None:
        """Make something current that need not be the camera's."""
        self.profiles[camera_id] = (profile_id, content)
        self._changes += 1

    def put_first(self, profile: Profile) -> None:
        """As the protocol says."""
        if not self.available:
            raise RedisUnavailable("nothing listens there")
        if profile.info.camera_id not in self.profiles:
            self.put(profile)

    def read_references(self) -> dict[str, Reference]:
        return self.references

    def put_reference(self, camera_id: str, reference: Reference) -> None:
        self.references[camera_id] = reference

    def delete_references(self, camera_ids: Collection[str]) -> None:
        for camera_id in camera_ids:
            del self.references[camera_id]

    def frozen(self) -> set[str]:
        return self.frozen_cameras

    def put_after(self, profile: Profile, before: str) -> bool:
        """As the protocol says."""
        if not self.available:
            raise RedisUnavailable("nothing listens there")
        if self.profiles.get(profile.info.camera_id, ("", None))[0] != before:
            return False
        self.put(profile)
        return True

    def remove(self, camera_id: str) -> None:
        """Put a camera back to the default profile."""
        del self.profiles[camera_id]
        self._changes += 1

    def version(self) -> str:
        if not self.available:
            raise RedisUnavailable("nothing listens there")
        return str(self._changes)

    def current(self) -> Mapping[str, str]:
        return {camera_id: profile_id for camera_id, (profile_id, _) in self.profiles.items()}

    def read(self, camera_id: str, profile_id: str) -> Profile:
        self.reads.append(profile_id)
        content = self.profiles[camera_id][1]
        if content is None:
            raise ProfileCorrupt(f"{profile_id}: not base64")
        return content


class MemoryDeadLetters:
    """:class:`~streamer.interfaces.DeadLetterSink` in memory."""

    def __init__(self) -> None:
        self.stored: list[Rejected] = []
        self._pending: list[Rejected] = []
        self.available = True

    def owed(self, partition: Partition) -> tuple[OwedLetter, ...]:
        return tuple(OwedLetter.of(each) for each in self._pending if each.message.partition == partition)

    def send(self, rejected: Rejected) -> None:
        self._pending.append(rejected)

    def crash(self) -> None:
        """What was not stored is gone."""
        self._pending.clear()

    def flush(self) -> None:
        if self.available:
            self.stored += self._pending
            self._pending.clear()


DEFAULT_VALUES = np.array([1.0, 0.0], np.float32)
"""Values of a profile that change no score of a :class:`BrightnessEngine`."""


class BrightnessEngine(CheckedEngine):
    """The score is the newest frame's mean brightness, 0 to 1. A profile is a factor and an offset of the score."""

    name = "brightness"

    def __init__(self, spec: ClipSpec, max_clips: int = 32) -> None:
        super().__init__(spec, max_clips, DEFAULT_VALUES if spec.profile_size else None)

    def describe(self) -> dict[str, str]:
        return {"backend": self.name}

    def _run(self, inputs: Inputs) -> Scores:
        factor, offset = inputs["profile"].T if "profile" in inputs else DEFAULT_VALUES
        return Scores(factor * _brightness(inputs["clips"]) + offset, _coarse(inputs["clips"]))

    def _release(self) -> None:
        pass


class MeanBrightnessEngine(BrightnessEngine):
    """Recurrent: the score is the weighted mean of a camera's brightness, each frame weighing twice the one before it.

    The state, float32 (2, 1, 1), holds the weighted sum of brightness and the sum of weights.
    """

    name = "mean-brightness"
    state_shape = (2, 1, 1)

    def _run(self, inputs: Inputs) -> Scores:
        clips, state = inputs["clips"], inputs["state"]
        newest = np.stack([_brightness(clips), np.ones(len(clips), np.float32)], axis=1)
        following = state / 2 + newest[:, :, np.newaxis, np.newaxis]
        return Scores(following[:, 0, 0, 0] / following[:, 1, 0, 0], _coarse(clips), following)


def _brightness(clips: Clips) -> np.ndarray:
    """Of the newest frame, float32 (N,)."""
    return np.asarray(clips[:, -1].mean(axis=(1, 2, 3)) / 255, np.float32)


def _coarse(clips: Clips) -> np.ndarray:
    """Every eighth pixel of the newest frame, float32 (N, h, w)."""
    return np.asarray(clips[:, -1, ::8, ::8, 0] / 255, np.float32)
