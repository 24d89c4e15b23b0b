"""Messages to frames: reads key and headers, decodes the picture. Nothing a message holds can raise out of here."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from deploy.errors import BadFrame
from deploy.frames import decode_picture
from deploy.spec import ClipSpec
from streamer.records import CAMERA_ID_RULE, UNREADABLE, CameraFrame, FrameMessage, Rejected, is_camera_id

_LATEST_MS = 253_402_300_799_999
"""End of the year 9999: later times are noise, not capture times."""


class Decoder:
    """Decodes on a few threads: OpenCV releases the interpreter lock while it decodes."""

    def __init__(self, spec: ClipSpec, threads: int) -> None:
        self._spec = spec
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="decode")

    def decode(self, messages: Iterable[FrameMessage]) -> list[CameraFrame | Rejected]:
        """Decode messages; one result a message, in their order."""
        return list(self._pool.map(self._decode_one, messages))

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()

    def _decode_one(self, message: FrameMessage) -> CameraFrame | Rejected:
        try:
            return decode_message(message, self._spec)
        except BadFrame as error:
            return Rejected(message, error.reason, str(error))


def decode_message(message: FrameMessage, spec: ClipSpec) -> CameraFrame:
    """One message as a frame.

    Raises:
        BadFrame: ``unreadable``, ``missing_key``, ``bad_key``, ``bad_captured_at`` or a reason of
            :func:`deploy.frames.decode_picture`.
    """
    _check_readable(message)
    camera_id = _camera_id(message.key)
    captured_at_ms = _captured_at_ms(message)
    decoded = decode_picture(message.value or b"", spec)
    return CameraFrame(
        message.partition, message.offset, camera_id, captured_at_ms, decoded.frame, decoded.width_px, decoded.height_px
    )


def _check_readable(message: FrameMessage) -> None:
    detail = next((value for name, value in message.headers if name == UNREADABLE), None)
    if detail is not None:
        raise BadFrame("unreadable", f"the Kafka client cannot read the record: {detail.decode(errors='replace')}")


def _camera_id(key: bytes | None) -> str:
    if not key:
        raise BadFrame("missing_key", "the message has no key; the key is the camera_id")
    try:
        camera_id = key.decode()
    except UnicodeDecodeError as error:
        raise BadFrame("bad_key", f"the key is not UTF-8: {key[:32]!r}") from error
    if not is_camera_id(camera_id):
        raise BadFrame("bad_key", f"a camera_id is {CAMERA_ID_RULE}, got {camera_id[:40]!r}")
    return camera_id


def _captured_at_ms(message: FrameMessage) -> int:
    """The ``captured_at_ms`` header, or the record's own time where there is none."""
    value = next((value for name, value in message.headers if name == "captured_at_ms"), None)
    if value is None:
        return _record_time_ms(message)
    # isdigit() of bytes accepts ASCII digits only; 15 digits reach past the year 9999.
    if not value.isdigit() or len(value) > 15 or int(value) > _LATEST_MS:
        raise BadFrame("bad_captured_at", f"captured_at_ms must be milliseconds since 1970 as ASCII digits, got {value[:32]!r}")
    return int(value)


def _record_time_ms(message: FrameMessage) -> int:
    # A producer may write anything there; Kafka's own word for "none" is -1.
    if not 0 <= message.timestamp_ms <= _LATEST_MS:
        raise BadFrame("bad_captured_at", f"no captured_at_ms header, and the record's own time is {message.timestamp_ms}")
    return message.timestamp_ms
