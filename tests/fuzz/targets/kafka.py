"""What comes from Kafka: images, keys, headers, and the batches that hold them."""

import zlib
from collections.abc import Sequence

import cv2
import numpy as np
from kafka.consumer.fetcher import Fetcher
from kafka.record.memory_records import MemoryRecordsBuilder
from kafka.record.util import calc_crc32c
from kafka.structs import TopicPartition
from numpy.typing import NDArray

from deploy.errors import BadFrame
from deploy.health import measure
from deploy.image import CpuDecoder, checked_size, decode_image
from deploy.spec import ClipSpec
from streamer.kafka.records import TolerantRecords
from streamer.kafka.unpacking import BatchCorrupt, unpack
from streamer.pipeline.clips import ClipBuffer, MessageDecoder
from streamer.types import FrameMessage, Partition, Rejected
from tests.fuzz.target import Target

_SPECS = [
    ClipSpec(length=2, height_px=24, width_px=32, colour="gray"),
    ClipSpec(length=1, height_px=16, width_px=16, colour="bgr"),
]
_IMAGE_TOKENS = [
    *(bytes([0xFF, marker]) for marker in (0xC0, 0xC2, 0xC4, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD, 0xE1, 0xFE, 0xFF)),
    *(b"IHDR", b"IDAT", b"IEND", b"tRNS", b"PLTE", b"acTL", b"fdAT", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"BM"),
    *(size.to_bytes(width, "big") for size in (0, 1, 4096, 30_000, 65_535) for width in (2, 4)),
    b"\xff\xda" * 80,
]


def image_samples() -> list[bytes]:
    """Small images of the kinds that cameras send."""
    x, y = np.meshgrid(np.linspace(0, 250, 64), np.linspace(0, 250, 48))
    colour = np.stack([x, y, np.full_like(x, 90)], axis=-1).astype(np.uint8)
    variants: Sequence[tuple[str, NDArray[np.generic], list[int]]] = [
        (".jpg", colour, []),
        (".jpg", colour, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
        (".jpg", colour, [cv2.IMWRITE_JPEG_RST_INTERVAL, 1]),
        (".jpg", colour[:, :, 0], []),
        (".png", colour, []),
        (".png", colour[:, :, 0], []),
        (".png", colour.astype(np.uint16) * 257, []),
        (".png", np.dstack([colour, colour[:, :, 0]]), []),
    ]
    return [_encoded(suffix, image, options) for suffix, image, options in variants]


def _encoded(suffix: str, image: NDArray[np.generic], options: list[int]) -> bytes:
    done, encoded = cv2.imencode(suffix, image, options)
    assert done
    return encoded.tobytes()


def images() -> Target:
    """One image, decoded in grey or in colour, and looked at for the camera's health."""

    def parse(content: bytes) -> None:
        spec = _SPECS[len(content) % 2]
        decoded = decode_image(content, spec)
        assert decoded.frame.shape == spec.frame_shape
        assert checked_size(content) == (decoded.width_px, decoded.height_px)
        measure(decoded.frame)

    return Target("images", parse, (BadFrame,), image_samples(), _IMAGE_TOKENS, share=4)


class _Refused(Exception):
    """A message was rejected, with a reason."""

    def __init__(self, rejected: Rejected) -> None:
        super().__init__(rejected.detail)
        self.reason = rejected.reason


_PARTITION = Partition("frames", 0)
_END = b"\x1e"
"""Between the parts of a message in an input."""


def messages() -> Target:
    """Key, headers, timestamp and value of a message, decoded and added to its camera's clip."""
    decoder = MessageDecoder(CpuDecoder(_SPECS[0], threads=1))

    def parse(content: bytes) -> None:
        key, header, time_ms, stamp, value = [*content.split(_END, 4), *[b""] * 4][:5]
        stamp_ms = int.from_bytes(stamp[:8], "big", signed=True)
        name = header.decode("latin-1")
        (result,) = decoder.decode([FrameMessage(_PARTITION, 7, key or None, value, ((name, time_ms),), stamp_ms)])
        if isinstance(result, Rejected):
            assert str(result.detail)
            raise _Refused(result)
        ClipBuffer(_SPECS[0], 5_000).push(result)

    (image, *_) = image_samples()
    now = (1_700_000_000_000).to_bytes(8, "big")
    keys = [b"gate", "Süd-Tor 3".encode(), b"x" * 128]
    headers = [(b"captured_at_ms", b"1700000000000"), (b"sequence", b"3"), (b"oddsight-unreadable", b"why")]
    valid = [_END.join([key, *header, now, image]) for key in keys for header in headers]
    tokens = [b"captured_at_ms", b"oddsight-unreadable", _END, b"9" * 15, b"9" * 400, b"\xff\xfe", b" ", "٣".encode(), b"\0"]
    return Target("messages", parse, (_Refused,), valid, tokens, share=6)


def _batch(codec: int, count: int, magic: int = 2) -> bytes:
    builder = MemoryRecordsBuilder(magic, codec, 1 << 20, offset=0)
    for number in range(count):
        headers = {"headers": [(f"name{number}", b"x")]} if magic == 2 else {}
        builder.append(1000 + number, b"north", b"a frame " * 20, **headers)
    builder.close()
    return bytes(builder.buffer())


def _with_checksum(content: bytes) -> bytes:
    """The batch with the checksum and the length of its content, as a hostile producer sends it."""
    if len(content) < 22:
        return content
    length = (len(content) - 12).to_bytes(4, "big")
    if content[16] <= 1:  # Kafka before 0.11
        return content[:8] + length + zlib.crc32(content[16:]).to_bytes(4, "big") + content[16:]
    return content[:8] + length + content[12:17] + calc_crc32c(content[21:]).to_bytes(4, "big") + content[21:]


def record_batches() -> Target:
    """Whatever a batch holds, the records behind it come, and each once."""
    following = (1_000_000).to_bytes(8, "big") + _batch(0, 2)[8:]

    def parse(content: bytes) -> None:
        # The broker itself finds batches by offset and length: these are right.
        size = (max(len(content), 17) - 12).to_bytes(4, "big")
        whole = (5).to_bytes(8, "big") + size + content.ljust(17, b"\0")[12:]
        records = Fetcher.PartitionRecords(0, TopicPartition("frames", 0), TolerantRecords(whole + following)).take()
        offsets = [record.offset for record in records]
        assert offsets == sorted(set(offsets))
        assert offsets[-2:] == [1_000_000, 1_000_001]

    valid = [*(_batch(codec, 3) for codec in range(5)), _batch(0, 1), _batch(0, 2, magic=1), _batch(1, 2, magic=0)]
    return Target("record-batches", parse, (), valid, repair=_with_checksum, share=3)


def compressed_batches() -> Target:
    """The content of a batch in each of Kafka's codecs; the first byte says which."""

    def parse(content: bytes) -> None:
        unpack(content[0] % 6 if content else 0, content[1:])

    valid = [bytes([codec]) + _batch(codec, 40)[61:] for codec in range(1, 5)]
    return Target("compressed-batches", parse, (BatchCorrupt,), valid, share=3)
