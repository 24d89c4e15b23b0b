"""The consumer's place in its group, without a broker."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.base import MemberState
from kafka.errors import FencedInstanceIdError, InconsistentGroupProtocolError
from structlog.testing import capture_logs

from streamer.config import KafkaSettings
from streamer.interfaces import BrokerUnavailable, PartitionChange
from streamer.kafka import topics
from streamer.kafka.topics import KafkaFrameSource
from streamer.types import Partition

SETTINGS = KafkaSettings(consumer_group="site", group_instance_id="entrance")
WHERE = TopicPartition("frames", 0)


class FakeConsumer:
    """A member whose state and errors a test sets."""

    def __init__(self, _settings: KafkaSettings, partition_assignment_strategy: list[Any], group_instance_id: str | None) -> None:
        (self.assignor,), self.instance_id = partition_assignment_strategy, group_instance_id
        self._coordinator = SimpleNamespace(need_rejoin=None, join_group_async=None, ensure_active_group=None)
        self._fetcher = SimpleNamespace(fetched_records=None)
        self.state = MemberState.UNJOINED
        self.error: Exception | None = None

    def subscribe(self, topics: list[str], listener: KafkaFrameSource) -> None: ...

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        if self.error is not None:
            raise self.error
        return {}

    def commit_async(self, offsets: object, callback: Callable[..., None]) -> None:
        self.poll(0)

    def group_metadata(self) -> SimpleNamespace:
        return SimpleNamespace(state=self.state)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> KafkaFrameSource:
    monkeypatch.setattr(topics, "make_consumer", FakeConsumer)
    return KafkaFrameSource(SETTINGS)


@pytest.fixture
def consumer(source: KafkaFrameSource) -> Any:
    return source._consumer


def test_shares_partitions_cooperatively_under_its_own_name(consumer: FakeConsumer) -> None:
    assert isinstance(consumer.assignor, CooperativeStickyAssignor)
    assert consumer.instance_id == "entrance"


def test_member_without_partitions_has_joined(source: KafkaFrameSource, consumer: FakeConsumer) -> None:
    """kafka-python tells the listener nothing of it."""
    source.poll(0)
    assert not source.joined
    consumer.state = MemberState.STABLE
    source.poll(0)
    assert source.joined
    consumer.state = MemberState.REBALANCING
    source.poll(0)
    assert source.joined


def test_lost_partitions_are_not_claimed(source: KafkaFrameSource, consumer: FakeConsumer) -> None:
    consumer.assignor.on_assignment(SimpleNamespace(partitions=lambda: [WHERE]), 1)
    assert consumer.assignor.metadata(["frames"]).owned_partitions
    source.on_partitions_lost([WHERE])
    assert not consumer.assignor.metadata(["frames"]).owned_partitions
    assert source.poll(0).changes == [PartitionChange("revoked", Partition("frames", 0))]


def test_older_members_are_waited_for_and_logged_once(source: KafkaFrameSource, consumer: FakeConsumer) -> None:
    consumer.error = InconsistentGroupProtocolError()
    with capture_logs() as logged:
        for _ in range(3):
            assert source.poll(0) == ([], [])
    assert [(entry["consumer_group"], entry["protocol"]) for entry in logged] == [("site", "cooperative-sticky")]
    assert not source.joined


def test_error_names_the_instance_id_that_two_have(source: KafkaFrameSource, consumer: FakeConsumer) -> None:
    consumer.error = FencedInstanceIdError()
    for call in (lambda: source.poll(0), lambda: source.commit({Partition("frames", 0): 1})):
        with pytest.raises(BrokerUnavailable, match=r"group site with the same kafka\.group_instance_id, entrance: give"):
            call()
