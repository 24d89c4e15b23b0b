"""Reads fetched record batches so that one that cannot be read stops nothing.

kafka-python raises an error for such a batch at every poll, and the consumer never gets past it. Here one record without content
stands for all messages that could not be read; its headers are a :class:`ReadingFault`, and its offset is that of the last one.
"""

import struct
from typing import Any

from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from kafka.record.legacy_records import LegacyRecordBatch
from kafka.record.memory_records import MemoryRecords
from kafka.record.util import decode_varint

from streamer.kafka.unpacking import BatchCorrupt, unpack
from streamer.types import UNREADABLE

_HEADER_BYTES = DefaultRecordBatch.HEADER_STRUCT.size
_MAGIC_AT = 16
_NEWEST_LEGACY_MAGIC = 1  # Kafka before 0.11
_MOST_MESSAGES = 100_000
"""In a batch; a damaged header that claims more is not believed."""


class ReadingFault(list[tuple[str, bytes]]):
    """The headers of a record that stands for unreadable messages. No producer can send a list of this class."""

    def __init__(self, reason: str, first_offset: int) -> None:
        super().__init__([(UNREADABLE, reason.encode())])
        self.first_offset = first_offset


class TolerantRecords(MemoryRecords):  # type: ignore[misc]  # kafka-python has no type hints
    """The batches of one fetch."""

    def next_batch(self, *_: object) -> Any:
        part = self._next_slice
        if part is None:
            return None
        self._cache_next()
        following = None if self._next_slice is None else int.from_bytes(self._next_slice[:8], "big", signed=True)
        return _read_batch(part, following)


def _read_batch(part: memoryview, following: int | None) -> Any:
    """A batch; ``following`` is the first offset of the batch behind it, None if that has not been fetched."""
    if len(part) > _MAGIC_AT and part[_MAGIC_AT] <= _NEWEST_LEGACY_MAGIC:
        legacy = _read_legacy(part)
        if legacy is not None:
            return legacy
        # Only its offset can be read as that of a newer batch.
        part = part[:8]
    return TolerantRecordBatch(part if len(part) >= _HEADER_BYTES else part.tobytes().ljust(_HEADER_BYTES, b"\0"), following)


def _read_legacy(part: memoryview) -> LegacyRecordBatch | None:
    """A message in a format of before Kafka 0.11; None if it is damaged or compressed."""
    try:
        batch = LegacyRecordBatch(part, part[_MAGIC_AT])
        is_whole = batch.validate_crc() and not batch.compression_type and len(list(batch)) == 1
    except (struct.error, AssertionError):  # kafka-python's errors for sizes that do not fit
        return None
    return batch if is_whole else None


class TolerantRecordBatch(DefaultRecordBatch):  # type: ignore[misc]  # kafka-python has no type hints
    """A batch that may be damaged, as a whole or in single records."""

    magic = 2  # not covered by the checksum, and known by where this class is used

    _pos: int
    _buffer: bytearray
    _decompressed: bool

    def __init__(self, buffer: bytes | memoryview, following: int | None = None) -> None:
        super().__init__(buffer)
        self._following = following
        self._intact = super().validate_crc()
        self._newest_offset = self.base_offset - 1
        self._ended = False

    def validate_crc(self) -> bool:
        """A failed checksum is told by the record that stands for the batch."""
        return True

    @property
    def is_control_batch(self) -> bool:
        return self._intact and bool(super().is_control_batch)

    def has_producer_id(self) -> bool:
        return self._intact and bool(super().has_producer_id())

    @property
    def last_offset(self) -> int:
        """As in the header; if that is damaged or cannot be true, the likeliest of what it and the following batch say."""
        following = -1 if self._following is None else self._following - self.base_offset - 1
        is_possible = self.last_offset_delta >= 0 and (following < 0 or self.last_offset_delta <= following)
        if self._intact and is_possible:
            return int(super().last_offset)
        likely = (following, self.last_offset_delta, self.records_count - 1, 0)
        return int(self.base_offset + next(delta for delta in likely if 0 <= delta <= _MOST_MESSAGES))

    def __iter__(self) -> "TolerantRecordBatch":
        return self

    def __next__(self) -> DefaultRecord:
        if self._ended:
            raise StopIteration
        try:
            self._unpack()
            return self._next_in_order()
        except (BatchCorrupt, CorruptRecordError) as error:
            return self._stand_in(str(error))

    def _next_in_order(self) -> DefaultRecord:
        record = super().__next__()
        if not self._newest_offset < record.offset <= self.last_offset:
            raise BatchCorrupt(f"offset {record.offset} follows {self._newest_offset}, and the last is {self.last_offset}")
        self._newest_offset = record.offset
        return record

    def _unpack(self) -> None:
        if not self._intact:
            raise BatchCorrupt("its checksum does not match")
        if not self._decompressed and self.compression_type:
            self._buffer, self._pos = bytearray(unpack(self.compression_type, bytes(self._buffer[self._pos :]))), 0
        self._decompressed = True

    def _stand_in(self, reason: str) -> DefaultRecord:
        """The record that stands for the rest of the batch."""
        first, last = self._newest_offset + 1, self.last_offset
        self._ended = True
        self._buffer = bytearray()
        if first > last:  # all messages have been read, what follows them is none
            raise StopIteration
        reason = f"the record batch with the offsets {self.base_offset} to {last}: {reason}"
        return DefaultRecord(0, last, self.first_timestamp, self.timestamp_type, None, None, ReadingFault(reason, first))

    def _read_msg(self, decode_varint: Any = decode_varint) -> DefaultRecord:
        begin = self._pos
        try:
            return super()._read_msg(decode_varint)
        except (ValueError, IndexError, CorruptRecordError) as error:
            reason = repr(error)
        # Only the framing of the record: its length gives the start of the next, its deltas give timestamp and offset.
        length, content = decode_varint(self._buffer, begin)
        _attributes, position = decode_varint(self._buffer, content)
        timestamp_delta, position = decode_varint(self._buffer, position)
        offset_delta, _ = decode_varint(self._buffer, position)
        if not 0 < length <= len(self._buffer) - content:
            raise CorruptRecordError(f"a record claims {length} bytes")
        self._pos = content + length
        offset, timestamp_ms = self.base_offset + offset_delta, self.first_timestamp + timestamp_delta
        return DefaultRecord(length, offset, timestamp_ms, self.timestamp_type, None, None, ReadingFault(reason, offset))
