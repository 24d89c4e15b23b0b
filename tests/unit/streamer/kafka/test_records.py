"""Whatever a fetched batch does: what can be read is read, and one record stands for the rest."""

import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.consumer.fetcher import Fetcher
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.memory_records import MemoryRecordsBuilder
from kafka.record.util import calc_crc32c
from kafka.structs import TopicPartition

from streamer.kafka.records import ReadingFault, TolerantRecords
from streamer.kafka.unpacking import MAX_UNPACKED_BYTES
from streamer.types import UNREADABLE

P0 = TopicPartition("frames", 0)
CODEC_AT, CONTENT_AT = 22, DefaultRecordBatch.HEADER_STRUCT.size
GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4


def batch(first: int, count: int = 3, codec: int = 0, value: bytes = b"a frame " * 20) -> bytes:
    builder = MemoryRecordsBuilder(2, codec, 2**31, offset=0)
    for number in range(count):
        builder.append(1000 + number, b"north", value, headers=[(f"name{number}", b"x")])
    builder.close()
    return first.to_bytes(8, "big") + bytes(builder.buffer())[8:]


def with_checksum(encoded: bytes) -> bytes:
    """The batch with the checksum of its content, as a producer sends it."""
    return encoded[:17] + calc_crc32c(encoded[21:]).to_bytes(4, "big") + encoded[21:]


def changed(encoded: bytes, position: int, *, flip: int = 0xFF) -> bytes:
    return encoded[:position] + bytes([encoded[position] ^ flip]) + encoded[position + 1 :]


def read(encoded: bytes, from_offset: int = 0, records: Callable[[bytes], Any] = TolerantRecords) -> tuple[list[Any], int]:
    """All records that kafka-python takes out of a fetch, and the offset that it fetches next."""
    fetched = Fetcher.PartitionRecords(from_offset, P0, records(encoded))
    return fetched.take(), fetched.next_fetch_offset


def stretches(records: list[Any]) -> list[tuple[int, int]]:
    """First and last offset of each record."""
    return [
        (each.headers.first_offset if isinstance(each.headers, ReadingFault) else each.offset, each.offset) for each in records
    ]


@pytest.mark.parametrize("codec", [0, GZIP, SNAPPY, LZ4, ZSTD])
def test_every_codec_is_read(codec: int) -> None:
    records, following = read(batch(5, codec=codec))
    assert [(each.offset, each.value) for each in records] == [(offset, b"a frame " * 20) for offset in (5, 6, 7)]
    assert following == 8


UNREADABLE_BATCHES = {
    "checksum": (changed(batch(5), 100), "checksum"),
    "unknown codec": (with_checksum(changed(batch(5), CODEC_AT, flip=7)), "codec 7"),
    "not of its codec": (with_checksum(changed(batch(5), CODEC_AT, flip=ZSTD)), "not valid zstd"),
    "bomb": (batch(5, codec=GZIP, value=bytes(MAX_UNPACKED_BYTES // 2)), "larger than"),
    "damaged last offset": (changed(batch(5), 23), "checksum"),
    "old format": (changed(batch(5), 16, flip=2 ^ 1), "checksum"),
}


@pytest.mark.parametrize("name", UNREADABLE_BATCHES)
def test_unreadable_batch_is_one_record_and_hides_no_other(name: str) -> None:
    encoded, reason = UNREADABLE_BATCHES[name]
    records, following = read(batch(2) + encoded + batch(8))
    assert stretches(records) == [(2, 2), (3, 3), (4, 4), (5, 7), (8, 8), (9, 9), (10, 10)]
    ((header, told),) = records[3].headers
    assert header == UNREADABLE
    assert reason in told.decode()
    assert "offsets 5 to 7" in told.decode()
    assert (records[3].key, records[3].value, following) == (None, None, 11)


def test_last_batch_of_a_fetch_ends_where_its_header_says() -> None:
    assert read(changed(batch(5), 100))[1] == 8
    assert read(changed(batch(5), 23))[1] == 8  # the header's last offset is damaged, its number of records is not


def test_records_before_a_damaged_one_are_kept() -> None:
    encoded = batch(5, count=4)
    second = encoded.index(b"north", encoded.index(b"north") + 1) - 5
    broken = with_checksum(encoded[:second] + b"\xff" * 12 + encoded[second + 12 :])
    records, following = read(broken)
    assert stretches(records)[:1] == [(5, 5)]
    assert stretches(records)[-1] == (6, 8)
    assert following == 9


def test_fetch_in_the_middle_of_an_unreadable_batch() -> None:
    records, following = read(changed(batch(5), 100), from_offset=6)
    assert stretches(records) == [(5, 7)]
    assert following == 8


@pytest.mark.parametrize("delta", [-1, 3, 2**31 - 1])
def test_claimed_last_offset_stays_before_the_following_batch(delta: int) -> None:
    """Else an unreadable record in it would stand for messages of the batches behind, or for none."""
    claimed = batch(5)[:23] + delta.to_bytes(4, "big", signed=True) + batch(5)[27:]
    cut = claimed[:CONTENT_AT] + bytes(len(claimed) - CONTENT_AT)
    records, following = read(with_checksum(cut) + batch(8))
    assert stretches(records)[-4:] == [(5, 7), (8, 8), (9, 9), (10, 10)]
    assert following == 11


@given(position=st.integers(12, 400), flip=st.integers(1, 255), checked=st.booleans())
def test_any_flipped_byte_is_passed(position: int, flip: int, checked: bool) -> None:
    """But for offset and length, which the broker itself needs to find a batch."""
    encoded = changed(batch(5), min(position, len(batch(5)) - 1), flip=flip)
    records, following = read((with_checksum(encoded) if checked else encoded) + batch(8))
    offsets = [each.offset for each in records]
    assert offsets[-3:] == [8, 9, 10]
    assert offsets == sorted(set(offsets))
    assert following == 11


def legacy(magic: int, codec: int) -> bytes:
    builder = MemoryRecordsBuilder(magic, codec, 1_000_000, offset=0)
    builder.append(1000, b"north", b"value " * 30)
    builder.close()
    return bytes(builder.buffer())


@pytest.mark.parametrize("magic", [0, 1])
def test_old_formats_are_read_unless_compressed(magic: int) -> None:
    assert [each.value for each in read(legacy(magic, 0))[0]] == [b"value " * 30]
    assert stretches(read(legacy(magic, GZIP))[0]) == [(0, 0)]
    assert stretches(read(changed(legacy(magic, 0), 30))[0]) == [(0, 0)]


@pytest.mark.parametrize("magic", [0, 1])
def test_old_formats_with_sizes_that_do_not_fit_are_unreadable(magic: int) -> None:
    whole = legacy(magic, 0)
    key_at = whole.index(b"north") - 4
    wrong = whole[:key_at] + (2**31 - 1).to_bytes(4, "big") + whole[key_at + 4 :]
    checked = wrong[:12] + zlib.crc32(wrong[16:]).to_bytes(4, "big") + wrong[16:]
    short = whole[:8] + (5).to_bytes(4, "big") + whole[12:17]
    assert stretches(read(checked + batch(8))[0]) == [(0, 7), (8, 8), (9, 9), (10, 10)]
    assert stretches(read(short + batch(8))[0]) == [(0, 7), (8, 8), (9, 9), (10, 10)]


def test_no_producer_can_claim_a_stretch() -> None:
    builder = MemoryRecordsBuilder(2, 0, 1_000_000, offset=0)
    builder.append(1000, b"north", b"", headers=[(UNREADABLE, b"0")])
    builder.close()
    ((record,), _) = read(bytes(builder.buffer()))
    assert not isinstance(record.headers, ReadingFault)


def test_kafka_python_itself_stops_at_such_a_batch() -> None:
    """When this fails with a new version, its reason to be patched may be gone."""
    with pytest.raises(Exception, match="crc"):
        read(changed(batch(5), 100), records=MemoryRecords)
    with pytest.raises(Exception, match="compression type"):
        read(with_checksum(changed(batch(5), CODEC_AT, flip=7)), records=MemoryRecords)
    with pytest.raises(OSError, match="gzipped"):
        read(with_checksum(changed(batch(5, codec=GZIP), CONTENT_AT)), records=MemoryRecords)
