"""Waits until a disturbed service is back at work, and then checks all that it has written since the start."""

import time
from collections.abc import Callable

from deploy.bundle import read_bundle
from streamer.chaos.audit import Tally, compare
from streamer.chaos.messages import Message, TopicReader, parse_letter, parse_message
from streamer.chaos.reference import Reference
from streamer.chaos.results import Results
from streamer.chaos.stack import BUNDLE, Stack
from streamer.chaos.traffic import PARTITIONS
from streamer.interfaces import RedisUnavailable
from streamer.redis.client import RedisProgressStore, make_redis
from streamer.types import Partition

_TIMEOUT_S = 60.0
_POLL_S = 0.05


class Auditor:
    """Knows what was sent, what should have come of it, and what did."""

    def __init__(self, stack: Stack) -> None:
        self._stack, settings = stack, stack.settings
        self._messages: TopicReader[Message] = TopicReader(
            settings.kafka, settings.kafka.topic, parse_message, lambda: stack.partitions
        )
        self._letters = TopicReader(settings.kafka, settings.kafka.deadletter_topic, parse_letter, lambda: PARTITIONS)
        self._reference = Reference(read_bundle(BUNDLE), settings, stack.traffic.pictures)
        self._results = Results(settings.redis)
        self._client = make_redis(settings.redis)
        self._store = RedisProgressStore(self._client, settings.redis, settings.kafka.consumer_group)
        self._referred = 0
        self._cameras: set[str] = set()
        self.tally = Tally()

    def close(self) -> None:
        """Close the connections and the engine."""
        self._results.close()
        self._client.close()
        self._reference.close()

    def wait_on_watch(self, since_ms: int) -> bool:
        """Wait until every camera has a score of a frame captured since then; False if that takes more than a minute."""
        return self._wait_until(
            lambda: all(self._results.newest_ms(camera_id) >= since_ms for camera_id in self._stack.traffic.cameras())
        )

    def check(self) -> Tally:
        """Compare the effects of all messages that Kafka has acknowledged by now; what is new since the last call.

        Waits until the service has dealt with them. What it has not within a minute counts as lost.
        """
        acknowledged = self._stack.traffic.acknowledged()
        cutoff: dict[int, int] = {}
        for partition, offset in acknowledged:
            cutoff[partition] = max(offset, cutoff.get(partition, -1))
        self._messages.read_until(lambda: all(self._messages.position(number) > offset for number, offset in cutoff.items()))
        new = self._messages.messages[self._referred :]
        self._cameras |= {message.frame.info.camera_id for message in new if message.frame is not None}
        self._wait_until(lambda: all(self._next_offset(number) > offset for number, offset in cutoff.items()))
        self._wait_until(self._read_results)
        self._read_letters(cutoff)
        return self._compare(acknowledged, cutoff)

    def _compare(self, acknowledged: set[tuple[int, int]], cutoff: dict[int, int]) -> Tally:
        for message in self._messages.messages[self._referred :]:
            self._reference.add(message)
        self._referred = len(self._messages.messages)
        missing = acknowledged.difference((message.partition, message.offset) for message in self._messages.messages)
        found = [*self._results.effects(), *((letter, None) for letter in self._letters.messages)]
        before, self.tally = self.tally, compare(self._reference.effects, found, cutoff, missing)
        return self.tally.since(before)

    def _read_letters(self, cutoff: dict[int, int]) -> None:
        hostile = {
            (message.partition, message.offset)
            for message in self._messages.messages
            if message.frame is None and message.offset <= cutoff.get(message.partition, -1)
        }
        self._letters.read_until(lambda: hostile <= {(letter.partition, letter.offset) for letter in self._letters.messages})

    def _read_results(self) -> bool:
        self._results.read(self._cameras)
        return True

    def _next_offset(self, partition: int) -> int:
        return self._store.read(Partition(self._stack.settings.kafka.topic, partition)).next_offset or 0

    def _wait_until(self, condition: Callable[[], bool]) -> bool:
        """Whether ``condition()`` came true within a minute; replicas that have ended are started again meanwhile."""
        deadline_s = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < deadline_s:
            try:
                if condition():
                    return True
            except RedisUnavailable:
                pass
            self._stack.tend()
            time.sleep(_POLL_S)
        return False
