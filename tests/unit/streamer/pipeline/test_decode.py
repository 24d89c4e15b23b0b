"""Messages are untrusted: each becomes a frame or a rejection with a reason."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from deploy.errors import BadFrame
from deploy.image import MAX_IMAGE_BYTES, CpuDecoder, DecodedFrame, encode_jpeg
from deploy.registry import load_decoder
from streamer.pipeline.clips import MessageDecoder
from streamer.types import MAX_CAMERA_ID_CHARS, CameraFrame, FrameInfo, FrameMessage, Partition, Rejected
from tests.harness import fake_nvimgcodec
from tests.harness.pipeline import SPEC, picture

JPEG_MAGIC, PNG_MAGIC = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
PNG = picture(0.5)
JPEG = encode_jpeg(np.random.default_rng(0).integers(0, 255, (48, 64), np.uint8), 90)
GOOD = FrameMessage(Partition("frames", 0), 7, b"gate", PNG, (("captured_at_ms", b"500"),), 123)
END_OF_TIME_MS = 253_402_300_799_999
REASONS = {
    "missing_key",
    "bad_key",
    "bad_captured_at",
    "empty",
    "too_large",
    "unsupported_type",
    "bad_header",
    "undecodable",
    "damaged",
}


def png_header(width_px: int, height_px: int) -> bytes:
    """A truncated PNG whose header claims this size."""
    return PNG_MAGIC + b"\0\0\0\rIHDR" + width_px.to_bytes(4, "big") + height_px.to_bytes(4, "big") + b"\x08\0\0\0\0" + bytes(4)


def header_of(captured_at_ms: bytes) -> tuple[tuple[str, bytes], ...]:
    return (("captured_at_ms", captured_at_ms),)


@pytest.fixture(scope="module", params=["cpu", "nvjpeg"])
def decoder(request: pytest.FixtureRequest) -> Iterator[MessageDecoder]:
    with pytest.MonkeyPatch.context() as patch:
        fake_nvimgcodec.install(patch)
        pictures = load_decoder(request.param, SPEC, threads=4)
    yield MessageDecoder(pictures)
    pictures.close()


def decoded(decoder: MessageDecoder, message: FrameMessage) -> CameraFrame:
    [frame] = decoder.decode([message])
    assert isinstance(frame, CameraFrame)
    return frame


def test_decodes_message(decoder: MessageDecoder) -> None:
    frame = decoded(decoder, GOOD)

    assert frame.info == FrameInfo(GOOD.partition, 7, "gate", 500, 16, 16)
    assert frame.frame.shape == SPEC.frame_shape
    assert (frame.frame == 128).all()


def test_keeps_original_size_and_decoder(decoder: MessageDecoder) -> None:
    done, encoded = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))
    assert done

    frame = decoded(decoder, replace(GOOD, value=encoded.tobytes()))

    assert (frame.info.width_px, frame.info.height_px) == (64, 48)
    assert frame.decoder in {"cpu", "nvjpeg"}
    assert frame.frame.shape == SPEC.frame_shape


def test_capture_time_from_record(decoder: MessageDecoder) -> None:
    others = (("sequence", b"9"), ("content_type", b"image/png"))

    assert decoded(decoder, replace(GOOD, headers=others)).info.captured_at_ms == 123


@pytest.mark.parametrize("key", ["gate", "Tor 3", "камера-1", "a", "x" * MAX_CAMERA_ID_CHARS, "[/]"])
def test_accepts_printable_key(decoder: MessageDecoder, key: str) -> None:
    assert decoded(decoder, replace(GOOD, key=key.encode())).info.camera_id == key


BAD = {
    "no key": ("missing_key", replace(GOOD, key=None)),
    "an empty key": ("missing_key", replace(GOOD, key=b"")),
    "a key that is not UTF-8": ("bad_key", replace(GOOD, key=b"gate\xff")),
    "a key of blanks": ("bad_key", replace(GOOD, key=b"  ")),
    "a key with blanks around it": ("bad_key", replace(GOOD, key=b"gate ")),
    "a key of two lines": ("bad_key", replace(GOOD, key=b"gate\nyard")),
    "a key with a terminal's escape code": ("bad_key", replace(GOOD, key=b"\x1b[2J")),
    "a key that is too long": ("bad_key", replace(GOOD, key=b"x" * (MAX_CAMERA_ID_CHARS + 1))),
    "an empty time": ("bad_captured_at", replace(GOOD, headers=header_of(b""))),
    "a negative time": ("bad_captured_at", replace(GOOD, headers=header_of(b"-1"))),
    "a time with a fraction": ("bad_captured_at", replace(GOOD, headers=header_of(b"1.5"))),
    "a time in other digits": ("bad_captured_at", replace(GOOD, headers=header_of("٣".encode()))),
    "a time after the year 9999": ("bad_captured_at", replace(GOOD, headers=header_of(b"%d" % (END_OF_TIME_MS + 1)))),
    "a time of a million digits": ("bad_captured_at", replace(GOOD, headers=header_of(b"9" * 1_000_000))),
    "a record with no time": ("bad_captured_at", replace(GOOD, headers=(), timestamp_ms=-1)),
    "a record after the year 9999": ("bad_captured_at", replace(GOOD, headers=(), timestamp_ms=END_OF_TIME_MS + 1)),
    "no value": ("empty", replace(GOOD, value=None)),
    "an empty value": ("empty", replace(GOOD, value=b"")),
    "too many bytes": ("too_large", replace(GOOD, value=JPEG_MAGIC + bytes(MAX_IMAGE_BYTES))),
    "too many pixels": ("too_large", replace(GOOD, value=png_header(30_000, 30_000))),
    "another format": ("unsupported_type", replace(GOOD, value=b"GIF89a" + bytes(20))),
    "a PNG of no pixels": ("bad_header", replace(GOOD, value=png_header(0, 16))),
    "a PNG cut in its header": ("bad_header", replace(GOOD, value=PNG[:20])),
    "a JPEG without a frame header": ("bad_header", replace(GOOD, value=JPEG_MAGIC + b"\xe0\0\x04ab" + bytes(20))),
    "a truncated PNG": ("undecodable", replace(GOOD, value=PNG[:45])),
    "a JPEG with a hole": ("damaged", replace(GOOD, value=JPEG[:-300] + bytes(200) + JPEG[-100:])),
    "a header with nothing behind it": ("undecodable", replace(GOOD, value=png_header(16, 16))),
}


@pytest.mark.parametrize(("reason", "message"), BAD.values(), ids=BAD)
def test_rejects_bad_message(decoder: MessageDecoder, reason: str, message: FrameMessage) -> None:
    [rejected] = decoder.decode([message])

    assert isinstance(rejected, Rejected)
    assert (rejected.reason, rejected.message) == (reason, message)
    assert 0 < len(rejected.detail) < 300


def test_bad_covers_all_reasons() -> None:
    assert {reason for reason, _ in BAD.values()} == REASONS


def test_accepts_latest_capture_time(decoder: MessageDecoder) -> None:
    frame = decoded(decoder, replace(GOOD, headers=header_of(b"%d" % END_OF_TIME_MS)))

    assert frame.info.captured_at_ms == END_OF_TIME_MS


class PngsElsewhere(CpuDecoder):
    """Named nvjpeg, but leaves PNGs to another decoder."""

    name = "nvjpeg"

    def decode(self, pictures: Sequence[bytes]) -> list[DecodedFrame | BadFrame]:
        return [
            result if isinstance(result, BadFrame) or encoded.startswith(PNG_MAGIC) else result._replace(decoder=self.name)
            for encoded, result in zip(pictures, super().decode(pictures), strict=True)
        ]


def test_warns_once_of_other_decoder() -> None:
    done, jpeg = cv2.imencode(".jpg", np.zeros((16, 16), np.uint8))
    assert done
    messages = [replace(GOOD, offset=1, value=jpeg.tobytes()), replace(GOOD, offset=2), replace(GOOD, offset=3)]
    decoder = MessageDecoder(pictures := PngsElsewhere(SPEC, threads=1))
    with capture_logs() as logs:
        decoder.decode(messages[:1])
        assert logs == []
        results = decoder.decode(messages) + decoder.decode(messages)
    pictures.close()

    assert [result.decoder for result in results if isinstance(result, CameraFrame)] == ["nvjpeg", "cpu", "cpu"] * 2
    assert [(line["message"], line["decoder"], line["decoded_by"]) for line in logs] == [("frames[0]@2", "nvjpeg", "cpu")]


def test_keeps_message_order(decoder: MessageDecoder) -> None:
    done, large = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (700, 700), np.uint8))
    assert done
    values = [large.tobytes() if offset % 4 == 0 else PNG if offset % 4 == 1 else b"rubbish" for offset in range(24)]

    results = decoder.decode([replace(GOOD, offset=offset, value=value) for offset, value in enumerate(values)])

    assert [offset_of(result) for result in results] == list(range(24))
    assert [isinstance(result, CameraFrame) for result in results] == [offset % 4 < 2 for offset in range(24)]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid image with bytes overwritten, possibly truncated."""
    content = bytearray(PNG)
    for at, byte in draw(st.lists(st.tuples(st.integers(0, len(PNG) - 1), st.integers(0, 255)), max_size=4)):
        content[at] = byte
    return bytes(content[: draw(st.integers(0, len(PNG)))])


JUNK = st.binary(max_size=60)
MESSAGES = st.builds(
    FrameMessage,
    partition=st.just(Partition("frames", 0)),
    offset=st.integers(0, 2**63 - 1),
    key=st.none() | st.just(b"gate") | JUNK | st.text(max_size=8).map(str.encode),
    value=st.none() | st.just(PNG) | damaged() | JUNK.map(JPEG_MAGIC.__add__) | JUNK.map(PNG_MAGIC.__add__) | JUNK,
    headers=st.lists(
        st.tuples(st.just("captured_at_ms") | st.text(max_size=4), st.integers(0, 2**50).map(lambda ms: b"%d" % ms) | JUNK),
        max_size=3,
    ).map(tuple),
    timestamp_ms=st.integers(-(2**63), 2**63 - 1),
)


@settings(deadline=None)
@given(messages=st.lists(MESSAGES, max_size=6))
def test_never_raises(decoder: MessageDecoder, messages: list[FrameMessage]) -> None:
    results = decoder.decode(messages)

    assert [offset_of(result) for result in results] == [message.offset for message in messages]
    for result in results:
        if isinstance(result, Rejected):
            assert result.reason in REASONS
        else:
            assert result.frame.shape == SPEC.frame_shape
            assert result.info.camera_id.isprintable()
            assert 0 <= result.info.captured_at_ms <= END_OF_TIME_MS


def offset_of(result: CameraFrame | Rejected) -> int:
    return result.message.offset if isinstance(result, Rejected) else result.info.offset
