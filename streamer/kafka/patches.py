"""One record that kafka-python cannot read must not end the service, nor hide the records behind it.

A record's framing and its content are different things: a header name that is not UTF-8, which no broker checks, makes
kafka-python refuse the whole batch, for ever. Here such a record is read as far as its offset, handed on with nothing but the
header :data:`streamer.types.UNREADABLE`, and dead-lettered like any other message that is no frame.

A member of a consumer group must finish what it began: kafka-python may lose the answer to a JoinGroup.

A join that takes longer than one poll goes on in the background. kafka-python 3.0 then loses its answer in two ways, both mended
here. It asks only whether there is a *reason* to join: a leader who joined again because it learned of a topic's partitions, as
it does right after every start, finds that the reason is gone and never looks at the answer; the member stays in the group
without partitions, with which nobody else works either. (Kafka's own client asks whether a join is needed *or pending*,
``rejoinNeededOrPending``.) And an answer that came between two polls is taken for none: the member joins anew, round after round
until one ends within a poll. (Kafka's own client keeps the join's future until a poll has used it.)
"""

from typing import Any

from kafka import KafkaConsumer
from kafka.errors import CorruptRecordError
from kafka.record import memory_records
from kafka.record.default_records import DefaultRecord, DefaultRecordBatch
from kafka.record.util import decode_varint

from streamer.types import UNREADABLE


def patch_group_join(consumer: KafkaConsumer) -> None:
    """Make a consumer go on joining its group until it has its partitions. Call once, before it subscribes."""
    coordinator = consumer._coordinator
    needed, join = coordinator.need_rejoin, coordinator.join_group_async

    def needed_or_pending() -> bool:
        return bool(needed() or coordinator.rejoining)

    async def join_or_take_the_answer(timeout_ms: float | None = None) -> bool:
        answered = coordinator._join_task
        if answered is not None and answered.is_done:

            async def answer() -> object:
                return await answered

            # It waits for whatever is under way; a task that only repeats the answer is.
            coordinator._join_task = coordinator._manager.call_soon(answer)
        return bool(await join(timeout_ms=timeout_ms))

    coordinator.need_rejoin = needed_or_pending
    coordinator.join_group_async = join_or_take_the_answer


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


def patch_record_reading() -> None:
    """Make kafka-python read batches so. It has no setting for it; the class is looked up where it is replaced here."""
    memory_records.DefaultRecordBatch = TolerantRecordBatch
