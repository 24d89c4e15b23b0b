"""What each camera shows now, for the dashboard: a small picture in Redis, renewed every few seconds."""

import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

from deploy.clock import in_ms
from deploy.errors import BadFrame
from streamer.config import Settings
from streamer.evidence.pictures import UsualPictures, decode_picture, encode_picture
from streamer.kafka.history import MessageHistory
from streamer.pipeline.areas import KnownAreas
from streamer.pipeline.clips import frame_header
from streamer.redis.evidence import RedisEvidence
from streamer.types import Partition

LIVE_PX: Final = 480
_LEAST_BACK, _BACK_PER_CAMERA = 64, 4
"""How many of a partition's newest messages are looked at: all cameras should be among them, and the rest is not read."""


class LivePictures:
    """The newest picture of each camera."""

    def __init__(
        self,
        settings: Settings,
        areas: KnownAreas,
        history: MessageHistory,
        evidence: RedisEvidence,
        usual: UsualPictures,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._areas = areas
        self._settings, self._history, self._evidence, self._usual, self._clock_s = settings, history, evidence, usual, clock_s
        self._next: dict[Partition, int] = {}
        """The first message of each partition that has not been looked at."""
        self._cameras: dict[Partition, set[str]] = {}
        self._due_s = 0.0

    def poll(self, alarmed: Iterable[str]) -> None:
        """Renew the pictures if it is time to. ``alarmed``: cameras with an open event, whose pictures are not usual.

        Raises:
            BrokerUnavailable, RedisUnavailable: try again later.
        """
        if self._clock_s() < self._due_s:
            return
        self._due_s = self._clock_s() + self._settings.evidence.picture_every_s
        unusual = self._evidence.unwell_cameras().union(alarmed)
        for partition in self._history.partitions():
            for camera_id, (captured_at_ms, encoded) in self._newest(partition).items():
                self._renew(camera_id, captured_at_ms, encoded, is_usual=camera_id not in unusual)

    def _newest(self, partition: Partition) -> dict[str, tuple[int, bytes]]:
        """camera_id -> capture time and image of its newest frame among the newest messages of a partition."""
        known = self._cameras.setdefault(partition, set())
        _, end = self._history.bounds(partition)
        most = max(_LEAST_BACK, _BACK_PER_CAMERA * len(known))
        begin = max(self._next.get(partition, 0), end - most)
        newest: dict[str, tuple[int, bytes]] = {}
        messages = self._history.read(partition, begin) if begin < end else ()
        for message in islice(messages, 2 * most):  # more may come than can be read
            self._next[partition] = message.offset + 1
            header = frame_header(message)
            if header is not None and message.value is not None and self._admits(known, header[0]):
                newest[header[0]] = in_ms(header[1]), message.value
        return newest

    def _admits(self, known: set[str], camera_id: str) -> bool:
        """As in the service's registry, so that strangers fill no Redis."""
        registry = self._settings.registry
        if camera_id not in known:
            if registry.allowed and camera_id not in registry.allowed:
                return False
            if sum(map(len, self._cameras.values())) >= registry.max_cameras:
                return False
            known.add(camera_id)
        return True

    def _renew(self, camera_id: str, captured_at_ms: int, encoded: bytes, *, is_usual: bool) -> None:
        try:
            picture = decode_picture(encoded, LIVE_PX, self._areas.masks(camera_id))
        except BadFrame:
            return  # the service rejects it, and says why
        if is_usual:
            self._usual.add(camera_id, picture)
        height_px, width_px = picture.shape[:2]
        self._evidence.put_picture(camera_id, captured_at_ms, encode_picture(picture), width_px, height_px)
