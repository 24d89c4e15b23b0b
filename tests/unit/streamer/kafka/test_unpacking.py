"""Compressed content comes back as it was, and what claims or has too much is refused before it takes the memory."""

import gzip
import struct
import tracemalloc
from contextlib import suppress

import lz4.frame
import pytest
import snappy
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from kafka import codec as kafka_codec

from streamer.kafka.unpacking import BatchCorrupt, unpack

ZEROS = bytes(3_000_000)
PACKED = {
    "gzip": (1, gzip.compress),
    "snappy": (2, snappy.compress),
    "snappy-xerial": (2, kafka_codec.snappy_encode),
    "lz4": (3, lz4.frame.compress),
    "zstd": (4, zstandard.ZstdCompressor().compress),
}
parametrize_codec = pytest.mark.parametrize("name", PACKED)


@parametrize_codec
@given(content=st.binary(max_size=100_000))
def test_content_comes_back(name: str, content: bytes) -> None:
    codec, pack = PACKED[name]
    assert unpack(codec, pack(content), 100_000) == content


@parametrize_codec
def test_too_large_content_is_refused_unread(name: str) -> None:
    codec, pack = PACKED[name]
    packed = pack(ZEROS)
    tracemalloc.start()
    with pytest.raises(BatchCorrupt, match="larger than 100000 bytes"):
        unpack(codec, packed, 100_000)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1_000_000


@parametrize_codec
@given(position=st.integers(0, 10_000), flipped=st.integers(1, 255))
def test_damage_raises_nothing_else(name: str, position: int, flipped: int) -> None:
    codec, pack = PACKED[name]
    damaged = bytearray(pack(bytes(range(256)) * 8))
    damaged[position % len(damaged)] ^= flipped
    with suppress(BatchCorrupt):
        unpack(codec, bytes(damaged))


@parametrize_codec
def test_truncated_content_is_told_or_short(name: str) -> None:
    codec, pack = PACKED[name]
    packed = pack(bytes(range(256)) * 8)
    with suppress(BatchCorrupt):
        assert len(unpack(codec, packed[:-10])) < 2048


@pytest.mark.parametrize("block", [b"", struct.pack(">i", -1), struct.pack(">i", 2**30), b"\xff\xff\xff\xff\xff"])
def test_snappy_blocks_that_lie(block: bytes) -> None:
    for packed in (b"\x82SNAPPY\0" + bytes(8) + b"\0" + block, b"\xff" * 5 + block):
        with pytest.raises(BatchCorrupt, match="not valid snappy"):
            unpack(2, packed)


def test_unknown_codec_is_named() -> None:
    with pytest.raises(BatchCorrupt, match="codec 7, which is none of 1, 2, 3, 4"):
        unpack(7, b"")
