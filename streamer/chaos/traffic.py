"""The synthetic cameras: every few seconds each shows something bright. Hostile messages can be sent among their frames."""

import random
import struct
import threading
import time
import zlib
from collections.abc import Mapping
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from kafka.errors import KafkaError

from deploy.image import encode_jpeg
from streamer.config import KafkaSettings
from streamer.interfaces import StreamError
from streamer.kafka.client import make_producer
from streamer.kafka.patches import close_producer

PARTITIONS = 4


def make_cameras(count: int) -> dict[str, int]:
    """camera_id -> partition that its frames are sent to."""
    return {f"camera-{number}": number % PARTITIONS for number in range(count)}


CAMERAS = make_cameras(6)
FPS = 5.0
PICTURE_HEADER = "picture"
"""Which of the pictures a frame shows; hostile messages have none."""

_PICTURES, _BRIGHT = 30, range(20, 25)
_WIDTH_PX, _HEIGHT_PX = 96, 64
_METADATA_MAX_AGE_MS = 1_000  # how soon the producer sees a partition that was added
_NEW_PARTITION_TIMEOUT_S = 30.0
_CLOSE_S = 5.0

Headers = list[tuple[str, bytes]]


def make_pictures() -> list[bytes]:
    """JPEGs that every camera shows again and again: a spot that wanders, and in some a large bright patch."""
    return [encode_jpeg(_picture(number), 90) for number in range(_PICTURES)]


def _picture(number: int) -> np.ndarray:
    picture = np.full((_HEIGHT_PX, _WIDTH_PX), 40, np.uint8)
    left = number * (_WIDTH_PX - 16) // _PICTURES
    picture[40:56, left : left + 16] = 80
    if number in _BRIGHT:
        picture[8:40, 16:64] = 230
    return picture


class Stored(NamedTuple):
    """The frames of a camera that Kafka has."""

    first_ms: int
    """Capture time of the first."""
    newest_ms: int
    acknowledged_ms: float
    """When Kafka took the newest, in milliseconds since the Unix epoch."""


class Traffic:
    """Sends the frames of all cameras at a steady rate from a thread of its own, and knows what Kafka has acknowledged.

    Frames are sent late rather than not at all while Kafka is away, so that their capture times have no gap.
    """

    def __init__(self, settings: KafkaSettings, cameras: Mapping[str, int], fps: float) -> None:
        """``cameras``: see :func:`make_cameras`; ``fps``: of each."""
        self._settings, self.pictures = settings, make_pictures()
        self._usual_cameras, self._fps = dict(cameras), fps
        self._producer = make_producer(settings, metadata_max_age_ms=_METADATA_MAX_AGE_MS)
        self._lock = threading.Lock()
        self._cameras = dict(cameras)
        self._acknowledged: set[tuple[int, int]] = set()
        self._stored: dict[str, Stored] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cameras", daemon=True)

    def start(self) -> None:
        """Start to send."""
        self._thread.start()

    def close(self) -> None:
        """Stop; what Kafka has not taken by then is dropped."""
        self._stop.set()
        self._thread.join()
        close_producer(self._producer, _CLOSE_S)

    def cameras(self) -> dict[str, int]:
        """The cameras that send now, with their partitions."""
        with self._lock:
            return dict(self._cameras)

    def add_camera(self, camera_id: str, partition: int) -> None:
        """Send frames of one more camera, to a partition that the topic has just got."""
        deadline_s = time.monotonic() + _NEW_PARTITION_TIMEOUT_S
        while partition not in (self._producer.partitions_for(self._settings.topic) or ()):
            if time.monotonic() > deadline_s:
                raise StreamError(f"the producer did not see partition {partition} within {_NEW_PARTITION_TIMEOUT_S:g} s")
            time.sleep(0.1)
        with self._lock:
            self._cameras[camera_id] = partition

    def retire_added(self) -> None:
        """Cameras that were added send no more."""
        with self._lock:
            self._cameras = dict(self._usual_cameras)

    def stored(self) -> dict[str, Stored]:
        """What Kafka has of each camera."""
        with self._lock:
            return dict(self._stored)

    def acknowledged(self) -> set[tuple[int, int]]:
        """(partition, offset) of all messages that Kafka has acknowledged."""
        with self._lock:
            return set(self._acknowledged)

    def send_hostile(self, rng: random.Random) -> None:
        """Send each kind of hostile message to each partition, under the names of its cameras."""
        picture, partitions = self.pictures[0], range(PARTITIONS)
        messages = [(partition, *each) for partition in partitions for each in hostile_messages(picture, partition)]
        for partition, key, value, headers in rng.sample(messages, len(messages)):
            self._send(partition, key, value, headers)

    def _run(self) -> None:
        first_s, first_ms = time.monotonic(), round(time.time() * 1000)
        for number in count():
            cameras = self.cameras()
            for index, (camera_id, partition) in enumerate(cameras.items()):
                # One after the other, so that the service has nearly always something in hand when a fault begins.
                due_s = (number + index / len(cameras)) / self._fps
                if self._stop.wait(max(0.0, first_s + due_s - time.monotonic())):
                    return
                self._send_frame(camera_id, partition, first_ms + round(due_s * 1000), (number + index * 5) % _PICTURES)

    def _send_frame(self, camera_id: str, partition: int, captured_at_ms: int, picture: int) -> None:
        headers = [("captured_at_ms", str(captured_at_ms).encode()), (PICTURE_HEADER, str(picture).encode())]
        self._send(partition, camera_id.encode(), self.pictures[picture], headers, (camera_id, captured_at_ms))

    def _send(
        self, partition: int, key: bytes | None, value: bytes, headers: Headers, frame: tuple[str, int] | None = None
    ) -> None:
        try:
            future = self._producer.send(self._settings.topic, value, key=key, headers=headers, partition=partition)
        except KafkaError:  # Kafka has never had it
            return
        future.add_callback(lambda metadata: self._remember(metadata, frame))

    def _remember(self, metadata: Any, frame: tuple[str, int] | None) -> None:
        with self._lock:
            self._acknowledged.add((metadata.partition, metadata.offset))
            if frame is not None:
                first = self._stored[frame[0]].first_ms if frame[0] in self._stored else frame[1]
                self._stored[frame[0]] = Stored(first, frame[1], time.time() * 1000)


class _NotUtf8(str):
    """A header name that is sent as bytes that are not UTF-8, as a producer in another language may do it."""

    __slots__ = ()

    def encode(self, *_: str) -> bytes:
        return b"\xff\xfe"


def hostile_messages(picture: bytes, partition: int) -> list[tuple[bytes | None, bytes, Headers]]:
    """Key, value and headers of messages none of which is a usable frame."""
    key = next(camera_id.encode() for camera_id, number in CAMERAS.items() if number == partition)
    huge = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    huge_png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + huge + struct.pack(">I", zlib.crc32(huge))
    return [
        (key, b"", []),
        (key, b"GIF89a" + bytes(50), []),
        (key, random.Random(partition).randbytes(500), []),  # noqa: S311  rubbish, not a secret
        (key, bytes(1_000_000), []),
        (key, huge_png, []),
        (key, picture[: len(picture) // 2], []),
        (key, picture, [("captured_at_ms", b"yesterday")]),
        (key, picture, [(_NotUtf8("x"), b"")]),
        (None, picture, []),
        (b"\xff\xfe", picture, []),
    ]
