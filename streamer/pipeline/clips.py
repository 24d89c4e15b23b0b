"""Kafka messages to clips: validates key and headers, decodes the images, and keeps a sliding window of frames of each camera.

No content of a message raises an error here.
"""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from deploy.clock import ClockState, gap_limit_ms
from deploy.errors import BadFrame
from deploy.image import AnyFrame, DecodedFrame, ImageDecoder
from deploy.spec import ClipSpec
from streamer.pipeline.registry import Admit
from streamer.types import (
    CAMERA_ID_RULE,
    LATEST_MS,
    UNREADABLE,
    CameraFrame,
    CameraMemory,
    Clip,
    FrameInfo,
    FrameMessage,
    Partition,
    Rejected,
    is_camera_id,
)

log = structlog.get_logger("oddsight.decode")

_Header = tuple[str, int]
"""camera_id and capture time in milliseconds."""


class MessageDecoder:
    """Decodes the messages of one poll together; accepts and rejects the same messages with every image decoder."""

    def __init__(self, images: ImageDecoder) -> None:
        self._images = images
        self._warned = False

    def decode(self, messages: Sequence[FrameMessage], admit: Admit = lambda *_: None) -> list[CameraFrame | Rejected]:
        """Decode messages; one result a message, in order. ``admit``: takes on their cameras; by default every one.

        Reasons of rejection: ``unreadable``, ``missing_key``, ``bad_key``, ``bad_captured_at``, those of ``admit``, and those of
        :func:`deploy.image.decode_image`.

        Raises:
            DecoderFailed: the decoder itself no longer works.
        """
        pairs = [(message, _admitted(message, _read_headers(message), admit)) for message in messages]
        valid = [message.value or b"" for message, header in pairs if not isinstance(header, Rejected)]
        images = iter(self._images.decode(valid))
        return [
            header if isinstance(header, Rejected) else self._result(message, header, next(images)) for message, header in pairs
        ]

    def _result(self, message: FrameMessage, header: _Header, image: DecodedFrame[AnyFrame] | BadFrame) -> CameraFrame | Rejected:
        if isinstance(image, BadFrame):
            info = FrameInfo(message.partition, message.offset, *header, 0, 0)
            return Rejected(message, image.reason, str(image), info)
        if image.decoder != self._images.name and not self._warned:
            self._warned = True
            log.warning(
                "an image was decoded by another decoder than the chosen one; further ones are only counted",
                decoder=self._images.name,
                decoded_by=image.decoder,
                message=str(message),
                camera_id=header[0],
            )
        info = FrameInfo(message.partition, message.offset, *header, image.width_px, image.height_px)
        return CameraFrame(info, image.frame, image.decoder)


def frame_header(message: FrameMessage, admit: Admit = lambda *_: None) -> tuple[str, int] | None:
    """camera_id and claimed capture time in milliseconds of a message; None if that, or its camera, is to be rejected."""
    header = _admitted(message, _read_headers(message), admit)
    return None if isinstance(header, Rejected) else header


def _read_headers(message: FrameMessage) -> _Header | Rejected:
    unreadable = _header(message, UNREADABLE)
    if unreadable is not None:
        return Rejected(message, "unreadable", f"the Kafka client cannot read the record: {unreadable.decode(errors='replace')}")
    try:
        return _camera_id(message.key), _captured_at_ms(message)
    except BadFrame as error:
        return Rejected(message, error.reason, str(error))


def _admitted(message: FrameMessage, header: _Header | Rejected, admit: Admit) -> _Header | Rejected:
    if isinstance(header, Rejected) or (refusal := admit(message.partition, header[0])) is None:
        return header
    return Rejected(message, *refusal)


def _camera_id(key: bytes | None) -> str:
    if not key:
        raise BadFrame("missing_key", "the message has no key; the key must be the camera_id")
    try:
        camera_id = key.decode()
    except UnicodeDecodeError as error:
        raise BadFrame("bad_key", f"the key must be UTF-8, got {key[:32]!r}") from error
    if not is_camera_id(camera_id):
        raise BadFrame("bad_key", f"a camera_id must be {CAMERA_ID_RULE}, got {camera_id[:40]!r}")
    return camera_id


def _captured_at_ms(message: FrameMessage) -> int:
    """The ``captured_at_ms`` header, or the record's timestamp without one."""
    value = _header(message, "captured_at_ms")
    if value is None:
        # Producers may set any timestamp; Kafka's value for "none" is -1.
        if not 0 <= message.timestamp_ms <= LATEST_MS:
            raise BadFrame("bad_captured_at", f"no captured_at_ms header, and the record's timestamp is {message.timestamp_ms}")
        return message.timestamp_ms
    # isdigit() of bytes accepts ASCII digits only; 15 digits reach past the year 9999.
    if not value.isdigit() or len(value) > 15 or int(value) > LATEST_MS:
        raise BadFrame("bad_captured_at", f"captured_at_ms must be milliseconds since 1970 as ASCII digits, got {value[:32]!r}")
    return int(value)


def _header(message: FrameMessage, name: str) -> bytes | None:
    return next((value for key, value in message.headers if key == name), None)


class ReplayStart(NamedTuple):
    """A frame with which a replay may begin."""

    offset: int
    clock: ClockState | None
    """The camera's before it."""


@dataclass(slots=True)
class _Window:
    frames: deque[AnyFrame]
    needed: deque[ReplayStart]
    """The frames that rebuild clip and state after a restart."""
    captured_at_ms: int
    memory: CameraMemory = field(default_factory=CameraMemory)


class ClipBuffer:
    """Keeps the last ``spec.length`` frames of every camera of every partition."""

    def __init__(self, spec: ClipSpec, max_gap_ms: int) -> None:
        self._spec, self._max_gap_ms = spec, max_gap_ms
        self._windows: dict[tuple[Partition, str], _Window] = {}
        self._expected: dict[tuple[Partition, str], ReplayStart] = {}

    def expect(self, partition: Partition, starts: Mapping[str, ReplayStart]) -> None:
        """The next frames of cameras are not the first of their windows: a replay that has nothing else begins with these."""
        self._expected |= {(partition, camera_id): start for camera_id, start in starts.items()}

    def push(self, frame: CameraFrame) -> Clip:
        """Add a frame and return the clip that ends with it, which may be shorter than ``spec.length`` (see :meth:`is_full`).

        A frame captured more than ``max_gap_ms`` before or after the previous one starts a new window, unless its camera always
        sends so few: frames across a gap are not consecutive, so their difference is no motion.
        """
        info = frame.info
        key = (info.partition, info.camera_id)
        window, expected = self._windows.get(key), self._expected.pop(key, None)
        limit_ms = gap_limit_ms(self._max_gap_ms, info.interval_ms)
        if window is None or abs(info.captured_at_ms - window.captured_at_ms) > limit_ms:
            needed = deque([] if expected is None else [expected], maxlen=self._spec.warmup_frames)
            window = self._windows[key] = _Window(deque(maxlen=self._spec.length), needed, info.captured_at_ms)
        window.frames.append(frame.frame)
        window.needed.append(ReplayStart(info.offset, info.clock_before))
        window.captured_at_ms = info.captured_at_ms
        clip_from, clip_clock = next(iter(window.needed), (None, None))
        return Clip(tuple(window.frames), info, clip_from, window.memory, clip_clock)

    def is_full(self, clip: Clip) -> bool:
        """Whether the clip is long enough to be scored."""
        return len(clip.frames) == self._spec.length

    def forget(self, partition: Partition) -> None:
        """Drop all frames and memories of a partition's cameras."""
        self._windows = {key: window for key, window in self._windows.items() if key[0] != partition}
        self._expected = {key: start for key, start in self._expected.items() if key[0] != partition}

    def forget_cameras(self, partition: Partition, camera_ids: Collection[str]) -> None:
        """Drop the frames and memories of some of a partition's cameras."""
        for camera_id in camera_ids:
            self._windows.pop((partition, camera_id), None)
            self._expected.pop((partition, camera_id), None)
