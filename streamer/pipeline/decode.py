"""Kafka messages to frames: validates key and headers and decodes the images. No content of a message raises an error here."""

from collections.abc import Sequence

import structlog

from deploy.errors import BadFrame
from deploy.image import AnyFrame, DecodedFrame, ImageDecoder
from streamer.types import CAMERA_ID_RULE, UNREADABLE, CameraFrame, FrameInfo, FrameMessage, Rejected, is_camera_id

_LATEST_MS = 253_402_300_799_999
"""End of the year 9999; later capture times are rejected."""

_Header = tuple[str, int]
"""camera_id and capture time in milliseconds."""

log = structlog.get_logger("oddsight.decode")


class MessageDecoder:
    """Decodes the messages of one poll together; accepts and rejects the same messages with every image decoder."""

    def __init__(self, images: ImageDecoder) -> None:
        self._images = images
        self._warned = False

    def decode(self, messages: Sequence[FrameMessage]) -> list[CameraFrame | Rejected]:
        """Decode messages; one result a message, in order.

        Reasons of rejection: ``unreadable``, ``missing_key``, ``bad_key``, ``bad_captured_at`` and those of
        :func:`deploy.image.decode_image`.

        Raises:
            DecoderFailed: the decoder itself no longer works.
        """
        pairs = [(message, _read_headers(message)) for message in messages]
        valid = [message.value or b"" for message, header in pairs if not isinstance(header, Rejected)]
        images = iter(self._images.decode(valid))
        return [
            header if isinstance(header, Rejected) else self._result(message, header, next(images)) for message, header in pairs
        ]

    def _result(self, message: FrameMessage, header: _Header, image: DecodedFrame[AnyFrame] | BadFrame) -> CameraFrame | Rejected:
        if isinstance(image, BadFrame):
            return Rejected(message, image.reason, str(image))
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


def _read_headers(message: FrameMessage) -> _Header | Rejected:
    unreadable = _header(message, UNREADABLE)
    if unreadable is not None:
        return Rejected(message, "unreadable", f"the Kafka client cannot read the record: {unreadable.decode(errors='replace')}")
    try:
        return _camera_id(message.key), _captured_at_ms(message)
    except BadFrame as error:
        return Rejected(message, error.reason, str(error))


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
        if not 0 <= message.timestamp_ms <= _LATEST_MS:
            raise BadFrame("bad_captured_at", f"no captured_at_ms header, and the record's timestamp is {message.timestamp_ms}")
        return message.timestamp_ms
    # isdigit() of bytes accepts ASCII digits only; 15 digits reach past the year 9999.
    if not value.isdigit() or len(value) > 15 or int(value) > _LATEST_MS:
        raise BadFrame("bad_captured_at", f"captured_at_ms must be milliseconds since 1970 as ASCII digits, got {value[:32]!r}")
    return int(value)


def _header(message: FrameMessage, name: str) -> bytes | None:
    return next((value for key, value in message.headers if key == name), None)
