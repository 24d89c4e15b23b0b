"""Each workaround for kafka-python, with it and without: ``patched=False`` fails when a new version no longer has the bug."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer
from kafka.consumer import fetcher
from kafka.coordinator.base import BaseCoordinator
from kafka.errors import CorruptRecordError, KafkaTimeoutError
from kafka.net.compat import KafkaNetClient
from kafka.record import MemoryRecords
from kafka.record.memory_records import MemoryRecordsBuilder
from kafka.record.util import calc_crc32c
from kafka.util import Timer

from streamer.kafka.patches import (
    keep_fetching_while_joining,
    logged_connection_errors,
    open_client,
    patch_group_join,
    patch_record_reading,
    patch_resuming,
    wait_though_heartbeat_is_due,
)
from streamer.types import UNREADABLE
from tests.harness.brokers import free_ports

parametrize_patched = pytest.mark.parametrize("patched", [True, False])


class Task:
    """A background task of kafka-python; a test ends it by setting ``is_done``."""

    def __init__(self, work: Callable[[], Awaitable[object]]) -> None:
        self.work = work
        self.is_done = False

    def __await__(self) -> Generator[Any, None, object]:
        return self.work().__await__()


class Coordinator(BaseCoordinator):  # type: ignore[misc]  # kafka-python has no type hints
    """kafka-python's own join loop over a network whose JoinGroup does not end by itself."""

    _use_group_apis = True

    def __init__(self) -> None:
        self.has_reason = True
        self.assigned = 0
        self.joins: list[Task] = []
        self.rejoining, self._join_task = False, None
        self._lock = threading.RLock()
        self._generation = SimpleNamespace(generation_id=1, member_id="me", protocol="range")
        self._manager = SimpleNamespace(call_soon=self._call_soon, wait_for=self._wait_for)

    def _call_soon(self, work: Callable[[], Awaitable[object]]) -> Task:
        task = Task(work)
        self.joins += [task] if work == self._do_join_and_sync_async else []
        return task

    async def _wait_for(self, task: Task, _timeout_ms: float) -> object:
        if task in self.joins and not task.is_done:
            raise KafkaTimeoutError
        return await task

    async def _do_join_and_sync_async(self) -> bytes:
        return b"assignment"

    def need_rejoin(self) -> bool:
        return self.has_reason

    async def ensure_coordinator_ready_async(self, timeout_ms: float | None = None) -> bool:
        return True

    async def _on_join_prepare_async(self, *_: object, timeout_ms: float | None = None) -> None: ...

    async def _on_join_complete_async(self, *_: object) -> None:
        self.assigned += 1

    def _enable_heartbeat(self) -> None: ...

    def _disable_heartbeat(self) -> None: ...

    def group_protocols(self) -> list[Any]:
        return []

    _on_join_prepare = _on_join_complete = _perform_assignment = protocol_type = group_protocols

    def __del__(self) -> None: ...


@pytest.fixture
def coordinator(patched: bool) -> Coordinator:
    coordinator = Coordinator()
    if patched:
        patch_group_join(SimpleNamespace(_coordinator=coordinator))
    return coordinator


def poll(coordinator: Coordinator) -> None:
    asyncio.run(coordinator.join_group_async(timeout_ms=1))


@parametrize_patched
def test_join_is_finished_when_its_reason_is_gone(coordinator: Coordinator, patched: bool) -> None:
    poll(coordinator)
    coordinator.has_reason = False
    coordinator.joins[0].is_done = True
    poll(coordinator)
    assert coordinator.assigned == (1 if patched else 0)


@parametrize_patched
def test_join_that_ends_between_polls_is_not_repeated(coordinator: Coordinator, patched: bool) -> None:
    poll(coordinator)
    coordinator.joins[0].is_done = True
    poll(coordinator)
    assert (coordinator.assigned, len(coordinator.joins)) == ((1, 1) if patched else (0, 2))


@pytest.mark.parametrize(("partitions", "goes_on", "waits_ms"), [([], False, 100), (["frames-0"], True, 10)])
def test_member_with_partitions_does_not_wait_for_the_group(partitions: list[str], goes_on: bool, waits_ms: float) -> None:
    waited_ms = []

    def ensure_active_group(timeout_ms: float) -> bool:
        waited_ms.append(timeout_ms)
        return False

    subscription = SimpleNamespace(assigned_partitions=lambda: set(partitions))
    coordinator = SimpleNamespace(_subscription=subscription, ensure_active_group=ensure_active_group)
    keep_fetching_while_joining(SimpleNamespace(_coordinator=coordinator))
    assert coordinator.ensure_active_group(100) is goes_on
    assert waited_ms == [waits_ms]


@parametrize_patched
def test_poll_waits_for_messages_though_a_heartbeat_is_due(patched: bool) -> None:
    waited_ms = []

    def fetch_records(*_: object, timeout_ms: float, **__: object) -> tuple[dict[str, object], bool]:
        waited_ms.append(timeout_ms)
        return {}, False

    coordinator = SimpleNamespace(poll=lambda **_: True, time_to_next_poll=lambda: 0.0)
    nothing = dict.fromkeys(["reset_offsets_if_needed", "maybe_validate_positions", "validate_offsets_if_needed"], lambda: None)
    consumer = SimpleNamespace(
        _coordinator=coordinator,
        _refresh_committed_offsets=lambda **_: None,
        _fetcher=SimpleNamespace(fetch_records=fetch_records, **nothing),
        config={"group_id": "group"},
    )
    if patched:
        wait_though_heartbeat_is_due(consumer)
    KafkaConsumer._poll_once(consumer, Timer(60_000), max_records=10)
    assert (waited_ms[0] > 0) is patched


class Fetcher(fetcher.Fetcher):  # type: ignore[misc]  # likewise
    """kafka-python's own choice of what a poll delivers. Records of one partition are aside, all of another are delivered."""

    def __init__(self) -> None:
        self._next_in_line_exception_metadata, self._paused_completed_fetches = None, dict[str, object]()
        self._completed_fetches, self._subscriptions = deque[object](), SimpleNamespace(is_paused=lambda _: False)
        aside = SimpleNamespace(topic_partition="resumed", next_fetch_offset=0)
        self._next_partition_records, self._paused_partition_records = (), {"resumed": aside}

    def _append(self, drained: dict[str, list[object]], records: Any, most: int, _update: bool) -> int:
        drained[records.topic_partition] += [records]
        return most


@parametrize_patched
def test_records_of_a_resumed_partition_are_delivered(patched: bool) -> None:
    own = Fetcher()
    if patched:
        patch_resuming(SimpleNamespace(_fetcher=own))
    delivered, _ = own.fetched_records(max_records=10)
    assert list(delivered) == (["resumed"] if patched else [])


@parametrize_patched
def test_unreadable_record_does_not_hide_the_others(patched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "MemoryRecords", MemoryRecords)  # other tests leave it patched
    builder = MemoryRecordsBuilder(2, 0, 1_000_000, offset=7)
    for number in range(3):
        builder.append(1000 + number, b"north", b"value %d" % number, headers=[(f"name{number}", b"x")])
    builder.close()
    encoded = bytes(builder.buffer()).replace(b"name1", b"\xff\xfe\xff\xfe\xff")
    encoded = encoded[:17] + calc_crc32c(encoded[21:]).to_bytes(4, "big") + encoded[21:]
    if not patched:
        with pytest.raises(CorruptRecordError):
            list(fetcher.MemoryRecords(encoded).next_batch())
        return
    patch_record_reading()
    first, unreadable, last = fetcher.MemoryRecords(encoded).next_batch()
    assert (first.value, last.value) == (b"value 0", b"value 2")
    assert (unreadable.offset, unreadable.timestamp, unreadable.value) == (8, 1001, None)
    ((name, reason),) = unreadable.headers
    assert name == UNREADABLE
    assert b"UnicodeDecodeError" in reason


@parametrize_patched
def test_failed_client_leaves_no_thread(patched: bool) -> None:
    made: list[KafkaNetClient] = []

    def open_unpatched(client_class: Callable[..., Any], **options: Any) -> None:
        client_class(**options, kafka_client=lambda **network: made.append(KafkaNetClient(**network)) or made[-1])

    before = set(threading.enumerate())
    with pytest.raises(KafkaTimeoutError, match="Unable to bootstrap"):
        (open_client if patched else open_unpatched)(
            KafkaAdminClient, bootstrap_servers=[f"127.0.0.1:{free_ports(1)[0]}"], bootstrap_timeout_ms=50
        )
    assert (set(threading.enumerate()) <= before) is patched
    for client in made:
        client.close()


def test_connection_errors_are_collected_from_the_log() -> None:
    logger = logging.getLogger("kafka.net.manager")
    with logged_connection_errors() as errors:
        logger.warning("connection %s failed: %s", "one", OSError("refused"))
    assert [str(error) for error in errors] == ["refused"]


def test_capturing_the_log_is_exclusive_and_undone() -> None:
    logger = logging.getLogger("kafka.net")
    before = (logger.level, logger.propagate, logger.handlers[:])
    second_started, first_ended = threading.Event(), threading.Event()

    def second() -> None:
        with logged_connection_errors():
            second_started.set()
            first_ended.wait(timeout=10)

    thread = threading.Thread(target=second)
    with logged_connection_errors():
        thread.start()
        assert not second_started.wait(timeout=0.2)
    first_ended.set()
    thread.join()
    assert (logger.level, logger.propagate, logger.handlers) == before
