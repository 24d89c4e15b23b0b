"""One record that kafka-python cannot read must not end the service, nor hide the records behind it.

A record's framing and its content are different things: a header name that is not UTF-8, which no broker checks, makes
kafka-python refuse the whole batch, for ever. Here such a record is read as far as its offset, handed on with nothing but the
header :data:`streamer.records.UNREADABLE`, and dead-lettered like any other message that is no frame.
"""

from typing import Any

from kafka.errors import CorruptRecordError
from kafka.record import memory_records
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from kafka.record.util import decode_varint

from streamer.records import UNREADABLE


class TolerantRecordBatch(DefaultRecordBatch):  # type: ignore[misc]  # kafka-python has no type hints
    """A batch that gives an empty record in place of one it cannot read."""

    def _read_msg(self, decode_varint: Any = decode_varint) -> DefaultRecord:
        begin = self._pos
        try:
            return super()._read_msg(decode_varint)
        except (ValueError, IndexError, CorruptRecordError) as error:
            return self._unreadable(begin, repr(error))

    def _unreadable(self, begin: int, detail: str) -> DefaultRecord:
        """What is left of a record: its length says where the next begins, its deltas say when and where it is."""
        length, content = decode_varint(self._buffer, begin)
        _attributes, position = decode_varint(self._buffer, content)
        timestamp_delta, position = decode_varint(self._buffer, position)
        offset_delta, _ = decode_varint(self._buffer, position)
        if not 0 < length <= len(self._buffer) - content:
            raise CorruptRecordError(f"a record claims {length} bytes")
        self._pos = content + length
        headers = [(UNREADABLE, detail.encode())]
        offset, timestamp_ms = self.base_offset + offset_delta, self.first_timestamp + timestamp_delta
        return DefaultRecord(length, offset, timestamp_ms, self.timestamp_type, None, None, headers)


def read_records_tolerantly() -> None:
    """Make kafka-python read batches so. It has no setting for it; the class is looked up where it is replaced here."""
    memory_records.DefaultRecordBatch = TolerantRecordBatch
