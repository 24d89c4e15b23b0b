"""Messages to frames: reads key and headers, has the pictures decoded. Nothing a message holds can raise out of here."""

from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from deploy.errors import BadFrame
from deploy.image import AnyFrame, DecodedFrame, PictureDecoder
from streamer.types import CAMERA_ID_RULE, UNREADABLE, CameraFrame, FrameMessage, Rejected, is_camera_id

_LATEST_MS = 253_402_300_799_999
"""End of the year 9999: later times are noise, not capture times."""

log = structlog.get_logger("oddsight.decode")


@dataclass(frozen=True, slots=True)
class _Opened:
    """A message whose key and headers are good."""

    message: FrameMessage
    camera_id: str
    captured_at_ms: int


class Decoder:
    """:class:`~streamer.interfaces.FrameDecoder` over any decoder of pictures. What it refuses is the same with each of them.

    Reasons: ``unreadable``, ``missing_key``, ``bad_key``, ``bad_captured_at`` or one of :func:`deploy.image.decode_picture`.
    """

    def __init__(self, pictures: PictureDecoder[AnyFrame]) -> None:
        self._pictures = pictures
        self._told = False

    def decode(self, messages: Iterable[FrameMessage]) -> list[CameraFrame | Rejected]:
        """See :meth:`streamer.interfaces.FrameDecoder.decode`."""
        opened = [_opened(message) for message in messages]
        good = [each for each in opened if isinstance(each, _Opened)]
        decoded = iter(self._pictures.decode([each.message.value or b"" for each in good]))
        results = [each if isinstance(each, Rejected) else _result(each, next(decoded)) for each in opened]
        self._tell(results)
        return results

    def describe(self) -> dict[str, str]:
        """See :meth:`streamer.interfaces.FrameDecoder.describe`."""
        return self._pictures.describe()

    def close(self) -> None:
        """See :meth:`streamer.interfaces.FrameDecoder.close`."""
        self._pictures.close()

    def _tell(self, results: list[CameraFrame | Rejected]) -> None:
        """Say once that the decoder leaves pictures to another one; the metric counts them all."""
        if self._told:
            return
        strangers = (each for each in results if isinstance(each, CameraFrame) and each.decoder != self._pictures.name)
        first = next(strangers, None)
        if first is not None:
            self._told = True
            where = f"{first.partition}@{first.offset}"
            names = {"decoder": self._pictures.name, "decoded_by": first.decoder}
            log.warning("not every picture is decoded by the decoder", **names, message=where, camera_id=first.camera_id)


def _opened(message: FrameMessage) -> _Opened | Rejected:
    try:
        _check_readable(message)
        return _Opened(message, _camera_id(message.key), _captured_at_ms(message))
    except BadFrame as error:
        return Rejected(message, error.reason, str(error))


def _result(opened: _Opened, decoded: DecodedFrame[AnyFrame] | BadFrame) -> CameraFrame | Rejected:
    message = opened.message
    if isinstance(decoded, BadFrame):
        return Rejected(message, decoded.reason, str(decoded))
    return CameraFrame(
        partition=message.partition,
        offset=message.offset,
        camera_id=opened.camera_id,
        captured_at_ms=opened.captured_at_ms,
        frame=decoded.frame,
        width_px=decoded.width_px,
        height_px=decoded.height_px,
        decoder=decoded.decoder,
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
