"""Which cameras this consumer takes on: those on a list, or all that come until there are too many.

Every camera costs about 2 MB of memory, and space in Redis and in the metrics. So a producer that invents names must not be able
to fill either. A message of a camera that is not taken on is refused before its image is decoded.
"""

from collections.abc import Callable, Iterable
from typing import Final, Literal, NamedTuple

import structlog

from streamer.config import Settings
from streamer.types import Partition

log = structlog.get_logger("oddsight.registry")

_TELL_AGAIN_S: Final = 3600.0
_MOST_TOLD: Final = 100  # cameras in that time


class Refusal(NamedTuple):
    """Why a camera is not taken on."""

    reason: Literal["unknown_camera", "too_many_cameras"]
    detail: str


Admit = Callable[[Partition, str], Refusal | None]
"""Takes on a camera of a partition; None if it was taken on, now or before."""

REFUSALS: Final = frozenset({"unknown_camera", "too_many_cameras"})


class CameraRegistry:
    """The cameras of the partitions that this consumer works on."""

    def __init__(self, settings: Settings) -> None:
        self._allowed, self._max_cameras = frozenset(settings.registry.allowed), settings.registry.max_cameras
        self.idle_after_s = max(settings.registry.idle_after_s, settings.decision.max_gap_s)
        self._cameras: dict[Partition, set[str]] = {}
        self._left: set[str] = set()
        """Cameras of partitions that were dropped since this was asked last."""
        self._waiting: set[str] = set()
        """Cameras that were refused for want of room since it was made last; at most as many as there may be."""

    @property
    def count(self) -> int:
        """How many cameras are taken on."""
        return sum(map(len, self._cameras.values()))

    def cameras(self, partition: Partition) -> frozenset[str]:
        """The cameras of a partition that are taken on."""
        return frozenset(self._cameras.get(partition, ()))

    def load(self, partition: Partition, camera_ids: Iterable[str]) -> None:
        """Begin with a partition: cameras with stored progress are taken on before any other, and however many they are."""
        self._cameras[partition] = set(camera_ids)

    def drop(self, partition: Partition) -> None:
        """End with a partition."""
        self._left |= self._cameras.pop(partition, set())

    def take_left(self) -> set[str]:
        """The cameras of partitions that were dropped since this was asked last."""
        left, self._left = self._left, set()
        return left

    def admit(self, partition: Partition, camera_id: str) -> Refusal | None:
        """Take on a camera, if it may be and there is room; None if it was taken on, now or before."""
        if not self.is_allowed(camera_id):
            return Refusal("unknown_camera", f"camera {camera_id!r} is not in registry.allowed; add it if it is to be watched")
        cameras = self._cameras.setdefault(partition, set())
        if camera_id in cameras:
            return None
        if not self._allowed and self.count >= self._max_cameras:
            if len(self._waiting) < self._max_cameras:
                self._waiting.add(camera_id)
            limit = f"{self.count} are watched, and registry.max_cameras is {self._max_cameras}"
            return Refusal("too_many_cameras", f"camera {camera_id!r} is one too many: {limit}")
        cameras.add(camera_id)
        return None

    def is_allowed(self, camera_id: str) -> bool:
        """Whether the settings let the camera be watched at all."""
        return not self._allowed or camera_id in self._allowed

    def take_shortage(self) -> int:
        """How many cameras are too many, with those that were refused for want of room since this was asked last."""
        waiting = len(self._waiting)
        self._waiting.clear()
        return 0 if self._allowed else max(0, self.count + waiting - self._max_cameras)

    def forget(self, partition: Partition, camera_ids: Iterable[str]) -> None:
        """Make room; a forgotten camera that comes back is taken on like a new one."""
        self._cameras.get(partition, set()).difference_update(camera_ids)


class RefusalNotices:
    """Which refused messages are told, in the log and as dead letters: not each, since there is no end to them."""

    def __init__(self) -> None:
        self._told: set[bytes | None] = set()
        self._since_s = 0.0

    def is_due(self, key: bytes | None, now_s: float) -> bool:
        """Whether to tell of a refused message with this key: the first in an hour, and of at most 100 keys."""
        if now_s - self._since_s >= _TELL_AGAIN_S:
            self._told.clear()
            self._since_s = now_s
        if key in self._told or len(self._told) > _MOST_TOLD:
            return False
        self._told.add(key)
        if len(self._told) > _MOST_TOLD:
            log.warning("more cameras are refused; those are only counted for the rest of the hour", told=_MOST_TOLD)
            return False
        return True
