"""All workarounds for bugs of kafka-python that reach into its private places.

Seen in kafka-python 3.0.12, which ``pyproject.toml`` pins exactly. ``tests/unit/streamer/kafka/test_patches.py`` shows each bug
without its workaround: when a new version fails there, the workaround can go.
"""

import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from kafka import KafkaConsumer, KafkaProducer
from kafka.consumer import fetcher
from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient

from streamer.kafka.records import TolerantRecords

_LOOK_AT_JOIN_MS = 10

_log_lock = threading.Lock()
"""kafka-python's log is global: two threads that capture it at once would mix their errors and leave it changed."""


def patch_group_join(consumer: KafkaConsumer) -> None:
    """Make a consumer finish a group join that takes longer than one poll. Call once, before it subscribes.

    Such a join goes on in the background, and kafka-python loses its result in two ways. The member then stays in the group
    without partitions, and nobody else processes them.

    - It asks only whether there is a reason to join. A leader that joins again because it learned of a topic's partitions, as it
      does after every start, finds the reason gone and never reads the result. (Kafka's Java client asks whether a join is
      needed or pending, ``rejoinNeededOrPending``.)
    - A result that arrived between two polls is discarded, and the member joins again, until a join ends within a poll. (Kafka's
      Java client keeps the join's future until a poll has used it.)
    """
    coordinator = consumer._coordinator
    needed, join = coordinator.need_rejoin, coordinator.join_group_async

    def needed_or_pending() -> bool:
        return bool(needed() or coordinator.rejoining)

    async def join_or_take_result(timeout_ms: float | None = None) -> bool:
        finished = coordinator._join_task
        if finished is not None and finished.is_done:

            async def result() -> object:
                return await finished

            # join_group_async awaits a task that is not done, so give it one that repeats the result.
            coordinator._join_task = coordinator._manager.call_soon(result)
        return bool(await join(timeout_ms=timeout_ms))

    coordinator.need_rejoin = needed_or_pending
    coordinator.join_group_async = join_or_take_result


def keep_fetching_while_joining(consumer: KafkaConsumer) -> None:
    """Make a consumer read on from the partitions that it has while its group shares them out anew. Call once.

    With the cooperative protocol they stay its own meanwhile, but a poll of kafka-python fetches nothing until the join has
    ended, and that takes until the slowest member has heard of it. (Kafka's Java client does not wait: ``waitForJoinGroup``.)
    """
    coordinator = consumer._coordinator
    ensure = coordinator.ensure_active_group

    def ensure_or_go_on(timeout_ms: float | None = None) -> bool:
        if not coordinator._subscription.assigned_partitions():
            return bool(ensure(timeout_ms))
        # Not at once: a join that is about to end is taken up by this poll.
        ensure(_LOOK_AT_JOIN_MS if timeout_ms is None else min(timeout_ms, _LOOK_AT_JOIN_MS))
        return True

    coordinator.ensure_active_group = ensure_or_go_on


def wait_though_heartbeat_is_due(consumer: KafkaConsumer) -> None:
    """Make a poll wait for messages also while a heartbeat is due. Call once; not for a consumer that commits by itself.

    kafka-python lets a poll wait until the next heartbeat at most. Its network thread sends that, so there is nothing to do for
    the poll; and while Kafka does not answer, the next one stays due, and the poll asks for messages thousands of times a second.
    Each time leaves some 4 KB behind at the fetch that is under way, until Kafka answers it: 20 MB in a few seconds.
    """
    consumer._coordinator.time_to_next_poll = lambda: math.inf


def patch_resuming(consumer: KafkaConsumer) -> None:
    """Make a consumer deliver what it had fetched of a partition before that was paused, once it is resumed. Call once.

    kafka-python sets such messages aside, and takes them up again only while it holds no others, also none that have all been
    delivered. So where other partitions go on, those of a resumed one stay aside for ever.
    """
    records = consumer._fetcher
    fetched_records = records.fetched_records

    def drop_delivered_first(*arguments: Any, **options: Any) -> Any:
        if not records._next_partition_records:
            records._next_partition_records = None
        return fetched_records(*arguments, **options)

    records.fetched_records = drop_delivered_first


def topic_id(consumer: KafkaConsumer, topic: str) -> str | None:
    """The id that a topic got when it was created, None if the broker tells none; kafka-python knows it, but does not show it."""
    known: UUID | None = consumer._client.cluster.topic_id(topic)
    return str(known) if known else None


def patch_record_reading() -> None:
    """Make kafka-python read fetched batches as :mod:`streamer.kafka.records` does.

    It raises an error for whatever it cannot read: a header name that is not UTF-8, which no broker checks, a codec that is not
    installed, a damaged batch. The batch is then refused at every poll, and the consumer never gets past it. And it unpacks
    compressed batches without a limit.
    """
    fetcher.MemoryRecords = TolerantRecords


def open_client(client_class: Callable[..., Any], **options: Any) -> Any:
    """Make a consumer, producer or administration client.

    If kafka-python's constructor raises, its network thread goes on reconnecting for ever; here it is stopped.
    """
    opened: list[KafkaNetClient] = []

    def make_network_client(**network_options: Any) -> KafkaNetClient:
        opened.append(KafkaNetClient(**network_options))
        return opened[-1]

    try:
        return client_class(**options, kafka_client=make_network_client)
    except KafkaError:
        for client in opened:
            client.close()
        raise


def close_producer(producer: KafkaProducer, timeout_s: float) -> None:
    """Close a producer; what it cannot send within ``timeout_s`` is dropped.

    kafka-python's own method raises then, before it has stopped anything: the thread goes on for ever, and the destructor raises.
    """
    try:
        producer.close(timeout=timeout_s)
    except KafkaError:
        producer._sender.force_close()
        producer._sender.join(timeout_s)
        producer.close(timeout=0)


@contextmanager
def logged_connection_errors() -> Iterator[list[Exception]]:
    """Collect the exceptions that kafka-python logs while the block runs, and keep them off the log.

    Why a connection failed is only in its log; what it raises says no more than "Unable to bootstrap".
    """
    logger = logging.getLogger("kafka.net")
    with _log_lock:
        handler, level, propagate = _ErrorCollector(), logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(logging.WARNING)
        logger.propagate = False
        try:
            yield handler.errors
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


class _ErrorCollector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.errors: list[Exception] = []

    def emit(self, record: logging.LogRecord) -> None:
        arguments = record.args if isinstance(record.args, tuple) else ()
        self.errors += [argument for argument in arguments if isinstance(argument, Exception)]
