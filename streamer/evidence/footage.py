"""The frames around an event, read from Kafka, which keeps them anyway: no copy of every camera's frames is held in memory."""

from collections.abc import Iterator
from itertools import chain
from typing import Final, NamedTuple

from deploy.clock import in_ms
from streamer.kafka.history import MessageHistory
from streamer.pipeline.clips import frame_header
from streamer.types import Event, FrameMessage, Partition

_FIRST_STEP: Final = 128
_MOST_BACK: Final = 20_000
"""Messages before an event, of all cameras of its partition."""
_MOST_BYTES: Final = 300_000_000


class SentFrame(NamedTuple):
    """A frame as its camera sent it."""

    captured_at_ms: int
    """By the camera's believed time, as in events."""
    encoded: bytes


class EventFootage:
    """Reads the frames around events. Its methods raise BrokerUnavailable."""

    def __init__(self, history: MessageHistory) -> None:
        self._history = history

    def frame(self, partition: Partition, offset: int) -> bytes | None:
        """The image of the message at an offset; None if Kafka has deleted it."""
        message = next(self._history.read(partition, offset), None)
        return message.value if message is not None and message.offset == offset else None

    def clip(self, event: Event, from_ms: int, until_ms: int) -> list[SentFrame]:
        """The camera's frames that were captured from ``from_ms`` to ``until_ms``, in order, as far as Kafka has them.

        Of more than 300 MB, the first.
        """
        partition, camera_id = Partition(event.topic, event.partition), event.camera_id.encode()
        ahead = (each for each in self._history.read(partition, event.offset) if each.key == camera_id)
        here = next(ahead, None)
        if here is None:
            return []
        # Events count believed times, frames carry what the camera claims: here both are known.
        shift_ms = event.captured_at_ms - (_claimed_ms(here) or event.captured_at_ms) if here.offset == event.offset else 0
        frames, total_bytes = [], 0
        for message in chain(self._before(partition, event.offset, camera_id, from_ms - shift_ms), [here], ahead):
            claimed_ms = _claimed_ms(message)
            if claimed_ms is None or message.value is None or claimed_ms + shift_ms < from_ms:
                continue
            total_bytes += len(message.value)
            if claimed_ms + shift_ms > until_ms or total_bytes > _MOST_BYTES:
                break
            frames.append(SentFrame(claimed_ms + shift_ms, message.value))
        return frames

    def _before(self, partition: Partition, offset: int, camera_id: bytes, from_ms: int) -> list[FrameMessage]:
        """The camera's messages before an offset, back to one that is older than ``from_ms``, a time that it claims."""
        first, _ = self._history.bounds(partition)
        known: list[FrameMessage] = []
        begin, step = offset, _FIRST_STEP
        while begin > max(first, offset - _MOST_BACK) and not (known and (_claimed_ms(known[0]) or from_ms) < from_ms):
            end, begin = begin, max(first, begin - step)
            known = [each for each in self._between(partition, begin, end) if each.key == camera_id] + known
            step *= 2
        return known

    def _between(self, partition: Partition, begin: int, end: int) -> Iterator[FrameMessage]:
        for message in self._history.read(partition, begin):
            if message.offset >= end:
                return
            yield message


def _claimed_ms(message: FrameMessage) -> int | None:
    header = frame_header(message)
    return None if header is None else in_ms(header[1])
