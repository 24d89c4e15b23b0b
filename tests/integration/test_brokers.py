"""Guarantees of brokers and Redis that the service relies on, and the reasons given for failed connections."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.base import MemberState
from kafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError
from kafka.structs import OffsetAndMetadata
from pydantic import SecretStr

from deploy.errors import ConfigError
from streamer.config import KafkaSettings, RedisSettings
from streamer.demo.embedded import embedded_redis
from streamer.interfaces import BrokerUnavailable, EmbeddedUnavailable, RedisUnavailable
from streamer.kafka.client import ensure_topics, make_consumer, make_producer, open_admin
from streamer.kafka.deadletters import KafkaDeadLetters
from streamer.kafka.diagnostics import Address, diagnose_connection
from streamer.kafka.patches import keep_fetching_while_joining, patch_group_join
from streamer.kafka.topics import KafkaFrameSource
from streamer.kafka.unpacking import MAX_UNPACKED_BYTES
from streamer.monitoring import Metrics
from streamer.redis.client import check_redis, make_redis
from streamer.types import FrameMessage, Partition, Rejected
from tests.harness.apache_kafka import PASSWORD, USERNAME, ApacheKafka
from tests.harness.brokers import Broker, EmbeddedBroker, free_ports, unique_kafka_settings


def send(settings: KafkaSettings, values: list[bytes], key: bytes = b"north") -> None:
    producer = make_producer(settings)
    sent = [producer.send(settings.topic, value, key=key) for value in values]
    for future in sent:
        future.get(timeout=20)
    producer.close()


def read(consumer: KafkaConsumer, count: int, *, within_s: float = 60) -> list[tuple[TopicPartition, int, bytes]]:
    read_records: list[tuple[TopicPartition, int, bytes]] = []
    deadline_s = time.monotonic() + within_s
    while len(read_records) < count and time.monotonic() < deadline_s:
        for where, records in consumer.poll(timeout_ms=200).items():
            read_records += [(where, record.offset, record.value) for record in records]
    return read_records


def read_topic(settings: KafkaSettings, count: int) -> list[tuple[TopicPartition, int, bytes]]:
    """All partitions from their beginning, without a group to wait for."""
    consumer = make_consumer(settings, group_id=None)
    partitions = [TopicPartition(settings.topic, number) for number in consumer.partitions_for_topic(settings.topic)]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    try:
        return read(consumer, count)
    finally:
        consumer.close(timeout_ms=1000)


def member(settings: KafkaSettings, **overrides: object) -> KafkaConsumer:
    """A member of the group, patched as in the service: without the patch a busy machine loses the result of the join."""
    consumer = make_consumer(settings, **overrides)
    patch_group_join(consumer)
    consumer.subscribe([settings.topic])
    return consumer


def cooperative_member(settings: KafkaSettings) -> KafkaConsumer:
    """A member that reads on while its group shares partitions out anew."""
    consumer = make_consumer(
        settings, partition_assignment_strategy=[CooperativeStickyAssignor], auto_offset_reset="earliest", metadata_max_age_ms=500
    )
    patch_group_join(consumer)
    keep_fetching_while_joining(consumer)
    consumer.subscribe([settings.topic])
    return consumer


class TestDelivery:
    def test_topics_are_created_once(self, kafka_settings: KafkaSettings) -> None:
        ensure_topics(kafka_settings, partitions=3)
        ensure_topics(kafka_settings, partitions=5)
        expected = {kafka_settings.topic: 3, kafka_settings.deadletter_topic: 3}
        topics: dict[str, int] = {}
        deadline_s = time.monotonic() + 20
        with open_admin(kafka_settings) as admin:
            while not expected.keys() <= topics.keys() and time.monotonic() < deadline_s:  # brokers learn of a new topic later
                topics = {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics()}
        assert expected.items() <= topics.items()

    def test_frames_of_4_mib_pass_unchanged(self, kafka_settings: KafkaSettings) -> None:
        frame = bytes(range(256)) * 16_000
        ensure_topics(kafka_settings)
        send(kafka_settings, [frame])
        ((_, _, received),) = read_topic(kafka_settings, 1)
        assert received == frame

    def test_new_member_continues_at_the_commit(self, kafka_settings: KafkaSettings) -> None:
        ensure_topics(kafka_settings)
        send(kafka_settings, [b"%d" % number for number in range(10)])
        first = member(kafka_settings, auto_offset_reset="earliest")
        where = read(first, 10)[0][0]
        first.commit({where: OffsetAndMetadata(4, "", -1)})
        first.close(timeout_ms=1000)
        second = member(kafka_settings, auto_offset_reset="earliest")
        values = [value for _, _, value in read(second, 6)]
        second.close(timeout_ms=1000)
        assert values == [b"4", b"5", b"6", b"7", b"8", b"9"]

    def test_frames_of_one_camera_stay_in_order(self, kafka_settings: KafkaSettings) -> None:
        ensure_topics(kafka_settings)
        values = [b"%d" % number for number in range(300)]
        send(kafka_settings, values)
        received = read_topic(kafka_settings, 300)
        assert [value for _, _, value in received] == values
        assert len({where for where, _, _ in received}) == 1

    def test_short_polls_get_their_partitions(self, kafka_settings: KafkaSettings) -> None:
        """They join before they know the topic, and again at once; kafka-python loses a result that arrives between two polls."""
        ensure_topics(kafka_settings, partitions=4)
        groups = [f"{kafka_settings.consumer_group}-{number}" for number in range(5)]
        sources = [KafkaFrameSource(kafka_settings.model_copy(update={"consumer_group": group})) for group in groups]
        assigned: list[set[Partition]] = [set() for _ in sources]
        deadline_s = time.monotonic() + 60
        while any(len(partitions) < 4 for partitions in assigned) and time.monotonic() < deadline_s:
            for source, partitions in zip(sources, assigned, strict=True):
                partitions |= {change.partition for change in source.poll(0.001).changes if change.kind == "assigned"}
        for source in sources:
            source.close()
        assert [len(partitions) for partitions in assigned] == [4] * 5

    def test_missing_offset_raises(self, kafka_settings: KafkaSettings) -> None:
        ensure_topics(kafka_settings)
        consumer = member(kafka_settings)
        with pytest.raises(NoOffsetForPartitionError):
            read(consumer, 1)
        consumer.close(timeout_ms=1000)

    def test_producer_survives_a_broker_restart(self, kafka_broker: Broker, kafka_settings: KafkaSettings) -> None:
        ensure_topics(kafka_settings)
        producer = make_producer(kafka_settings)
        producer.send(kafka_settings.topic, b"before", key=b"north").get(timeout=20)
        kafka_broker.kill()
        kafka_broker.start()
        ensure_topics(kafka_settings)
        producer.send(kafka_settings.topic, b"after", key=b"north").get(timeout=30)
        producer.close()
        expected = [b"after"] if kafka_broker.kind == "embedded" else [b"before", b"after"]
        assert [value for _, _, value in read_topic(kafka_settings, len(expected))] == expected

    @pytest.mark.kafka
    def test_unknown_offset_names_the_partition(self, apache_kafka: ApacheKafka) -> None:
        settings = unique_kafka_settings(apache_kafka.address)
        ensure_topics(settings)
        where = TopicPartition(settings.topic, 0)
        consumer = make_consumer(settings)
        consumer.assign([where])
        consumer.seek(where, 1000)
        with pytest.raises(OffsetOutOfRangeError) as raised:
            read(consumer, 1)
        consumer.close(timeout_ms=1000)
        assert raised.value.args[0] == {where: 1000}


def polled(source: KafkaFrameSource, count: int, *, within_s: float = 60) -> list[FrameMessage]:
    """At least ``count`` messages of partitions that are started at their beginning."""
    messages: list[FrameMessage] = []
    deadline_s = time.monotonic() + within_s
    while len(messages) < count and time.monotonic() < deadline_s:
        changes, further = source.poll(0.1)
        messages += further
        for change in changes:
            source.start(change.partition, 0)
    return messages


def test_compressed_batches_are_read_and_bombs_passed(kafka_settings: KafkaSettings) -> None:
    ensure_topics(kafka_settings, partitions=1)
    values: list[tuple[str | None, bytes]] = [(codec, bytes(1000)) for codec in (None, "gzip", "snappy", "lz4", "zstd")]
    for codec, value in [*values, ("gzip", bytes(MAX_UNPACKED_BYTES)), (None, b"behind the bomb")]:
        address = kafka_settings.bootstrap_servers
        producer = KafkaProducer(bootstrap_servers=address, compression_type=codec, max_request_size=2**28)
        producer.send(kafka_settings.topic, value, key=b"north").get(timeout=20)
        producer.close()
    source = KafkaFrameSource(kafka_settings)

    messages = polled(source, 7)
    source.close()

    assert [each.value for each in messages] == [bytes(1000)] * 5 + [None, b"behind the bomb"]
    assert [each.first_offset for each in messages] == [None] * 5 + [5, None]
    assert [each.offset for each in messages] == list(range(7))


def test_a_resumed_partition_goes_on_where_it_was_paused(kafka_settings: KafkaSettings) -> None:
    """With messages that were fetched before the pause, while another partition goes on."""
    ensure_topics(kafka_settings, partitions=2)
    with closing(make_producer(kafka_settings)) as producer:
        for _ in range(300):
            producer.send(kafka_settings.topic, b"x", partition=0)
        producer.flush()
        source = KafkaFrameSource(kafka_settings)
        messages = polled(source, 10)
        paused = Partition(kafka_settings.topic, 0)
        for number in range(3):
            source.pause(paused)
            producer.send(kafka_settings.topic, b"y", partition=1).get(timeout=20)
            meanwhile = polled(source, 1)
            assert [(each.partition.number, each.offset) for each in meanwhile] == [(1, number)]
            source.resume(paused)
            messages += polled(source, 10)
        messages += polled(source, 300 - len(messages))
    source.close()

    assert [(each.partition.number, each.offset) for each in messages] == [(0, offset) for offset in range(300)]


def assigned(source: KafkaFrameSource, count: int, within_s: float) -> set[Partition]:
    """The partitions that the group assigns, once there are ``count``."""
    partitions: set[Partition] = set()
    deadline_s = time.monotonic() + within_s
    while len(partitions) < count and time.monotonic() < deadline_s:
        partitions |= {change.partition for change in source.poll(0.1).changes if change.kind == "assigned"}
    return partitions


class Member:
    """A member of the group, which reads its partitions from their beginning."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.source = KafkaFrameSource(settings)
        self.partitions: set[Partition] = set()
        self.changes: list[tuple[str, Partition]] = []
        self.messages: list[FrameMessage] = []

    def poll(self) -> None:
        polled = self.source.poll(0.02)
        self.messages += polled.messages
        self.changes += polled.changes
        for kind, partition in polled.changes:
            if kind == "assigned":
                self.partitions.add(partition)
                self.source.start(partition, 0)
            else:
                self.partitions.discard(partition)


def poll_until(condition: Callable[[], bool], *members: Member, within_s: float = 30) -> None:
    deadline_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline_s, [(each.partitions, each.changes) for each in members]
        for each in members:
            each.poll()


class TestGroup:
    def test_only_partitions_that_move_are_taken(self, one_kafka_broker: Broker) -> None:
        settings = unique_kafka_settings(one_kafka_broker.address)
        ensure_topics(settings, partitions=4)
        first = Member(settings)
        poll_until(lambda: len(first.partitions) == 4, first)
        second = Member(settings)
        poll_until(lambda: len(second.partitions) == 2, first, second)
        stay = set(first.partitions)
        second.source.close()
        poll_until(lambda: len(first.partitions) == 4, first)
        first.source.close()

        assert len(stay) == 2
        assert [(kind, partition) for kind, partition in first.changes if partition in stay] == [
            ("assigned", partition) for _, partition in first.changes[:4] if partition in stay
        ]
        moved = [kind for kind, partition in first.changes[4:] if partition not in stay]
        assert moved == ["revoked", "revoked", "assigned", "assigned"]

    def test_member_reads_on_while_the_group_waits_for_another(self, one_kafka_broker: Broker) -> None:
        """A join ends when the slowest member has heard of it: here one that does not poll."""
        settings = unique_kafka_settings(one_kafka_broker.address)
        ensure_topics(settings, partitions=2)
        first, slow, third = (cooperative_member(settings) for _ in range(3))
        while not (len(first.assignment()) == len(slow.assignment()) == 1):
            first.poll(20)
            slow.poll(20)
        while first.group_metadata().state is MemberState.STABLE:
            third.poll(20)
            first.poll(20)
        for key in (b"north", b"south", b"east", b"west"):
            send(settings, [b"frame"], key=key)
        read_on = read(first, 1, within_s=20)
        assert read_on
        assert first.group_metadata().state is not MemberState.STABLE
        for each in (first, slow, third):
            each.close(autocommit=False, timeout_ms=1000)

    @pytest.mark.kafka
    def test_partitions_of_a_named_member_wait_for_it(self, apache_kafka: ApacheKafka) -> None:
        settings = unique_kafka_settings(apache_kafka.address).model_copy(update={"session_timeout_ms": 20_000})
        ensure_topics(settings, partitions=4)
        named = settings.model_copy(update={"group_instance_id": "entrance"})
        stays, leaves = Member(settings), Member(named)
        poll_until(lambda: len(stays.partitions) == len(leaves.partitions) == 2, stays, leaves)
        before, changes = leaves.partitions, len(stays.changes)
        leaves.source.close()
        comes_back = Member(named)
        poll_until(lambda: len(comes_back.partitions) == 2, stays, comes_back)
        assert comes_back.partitions == before
        assert stays.changes[changes:] == []
        for each in (stays, comes_back):
            each.source.close()

    @pytest.mark.kafka
    def test_a_name_that_two_have_is_refused(self, apache_kafka: ApacheKafka) -> None:
        settings = unique_kafka_settings(apache_kafka.address).model_copy(update={"group_instance_id": "entrance"})
        ensure_topics(settings, partitions=1)
        first = Member(settings)
        poll_until(lambda: bool(first.partitions), first)
        second = Member(settings)
        poll_until(lambda: bool(second.partitions), second)
        first.source.commit({Partition(settings.topic, 0): 0})
        with pytest.raises(BrokerUnavailable, match=r"same kafka\.group_instance_id, entrance: give every process one"):
            poll_until(lambda: False, first)
        for each in (first, second):
            each.source.close()

    @pytest.mark.kafka  # the embedded broker refuses another protocol also when all have left
    def test_waits_until_members_of_an_older_version_have_left(self, apache_kafka: ApacheKafka) -> None:
        settings = unique_kafka_settings(apache_kafka.address)
        ensure_topics(settings, partitions=1)
        old = member(settings, auto_offset_reset="earliest")
        send(settings, [b"frame"])
        read(old, 1)
        new = Member(settings)
        for _ in range(5):
            new.poll()
        assert not new.source.joined
        old.close(timeout_ms=1000)
        poll_until(lambda: bool(new.partitions), new)
        assert new.source.joined
        new.source.close()


@pytest.mark.kafka
def test_dead_letters_do_not_fill_the_disk(apache_kafka: ApacheKafka) -> None:
    settings = unique_kafka_settings(apache_kafka.address)
    ensure_topics(settings)
    with open_admin(settings) as admin:

        def limits(topic: str) -> dict[str, str]:
            configs = admin.describe_configs([ConfigResource("topic", topic)])["topic"][topic]
            return {name: each["value"] for name, each in configs.items() if name.startswith("retention")}

        deadline_s = time.monotonic() + 20
        while not limits(settings.deadletter_topic) and time.monotonic() < deadline_s:  # the broker knows it a little later
            time.sleep(0.1)
        assert limits(settings.deadletter_topic) == {"retention.ms": "1209600000", "retention.bytes": "1073741824"}
        assert limits(settings.topic) == {}


@pytest.mark.kafka
def test_new_partitions_are_noticed(apache_kafka: ApacheKafka) -> None:
    settings = unique_kafka_settings(apache_kafka.address)
    ensure_topics(settings, partitions=2)
    source = KafkaFrameSource(settings)
    assert len(assigned(source, 2, within_s=60)) == 2
    assert source.topic(Partition(settings.topic, 0)).partitions == 2
    with open_admin(settings) as admin:
        admin.create_partitions({settings.topic: 4})
    assert {partition.number for partition in assigned(source, 2, within_s=20)} == {2, 3}
    assert source.topic(Partition(settings.topic, 0)).partitions == 4
    source.close()


def test_topic_created_again_is_another_one(kafka_settings: KafkaSettings) -> None:
    versions = []
    for _ in range(2):
        ensure_topics(kafka_settings, partitions=1)
        source = KafkaFrameSource(kafka_settings)
        assigned(source, 1, within_s=60)
        versions += [source.topic(Partition(kafka_settings.topic, 0))]
        source.close()
        with open_admin(kafka_settings) as admin:
            admin.delete_topics([kafka_settings.topic])
    assert [version.partitions for version in versions] == [1, 1]
    assert versions[0].is_other(versions[1])
    assert not versions[0].is_other(versions[0])


def letters_of(settings: KafkaSettings, metrics: Metrics) -> tuple[KafkaDeadLetters, Rejected]:
    rubbish = FrameMessage(Partition(settings.topic, 0), 7, bytes(4_500_000), bytes(2_000_000), (("x", bytes(4_500_000)),), 0)
    return KafkaDeadLetters(settings, metrics), Rejected(rubbish, "undecodable", "why")


def test_large_letters_fit_any_topic(kafka_settings: KafkaSettings) -> None:
    with open_admin(kafka_settings) as admin:
        configs = {"max.message.bytes": "1048588"}
        admin.create_topics({kafka_settings.deadletter_topic: {"num_partitions": 1, "replication_factor": 1, "configs": configs}})
    metrics = Metrics()
    letters, rejected = letters_of(kafka_settings, metrics)
    for _ in range(3):
        letters.send(rejected)
    letters.close()
    received = read_topic(kafka_settings.model_copy(update={"topic": kafka_settings.deadletter_topic}), 3)
    assert [value for _, _, value in received] == [b""] * 3
    assert metrics.registry.get_sample_value("oddsight_lost_dead_letters_total") == 0


@pytest.mark.kafka  # the embedded broker confirms and loses what reaches it, restarted, before its topics are created again
def test_letters_wait_for_a_broker_that_is_away(apache_kafka: ApacheKafka) -> None:
    settings, metrics = unique_kafka_settings(apache_kafka.address), Metrics()
    ensure_topics(settings)
    letters, rejected = letters_of(settings, metrics)
    apache_kafka.kill()
    for _ in range(3):
        letters.send(rejected)
    letters.flush()
    apache_kafka.start()
    received = read_topic(settings.model_copy(update={"topic": settings.deadletter_topic}), 3)
    letters.close()
    assert [value for _, _, value in received] == [b""] * 3
    assert metrics.registry.get_sample_value("oddsight_lost_dead_letters_total") == 0


def test_letters_without_a_broker_hold_up_nothing(embedded_broker: EmbeddedBroker) -> None:
    settings, metrics = unique_kafka_settings(embedded_broker.address), Metrics()
    ensure_topics(settings)
    threads = set(threading.enumerate())
    letters, rejected = letters_of(settings, metrics)
    embedded_broker.kill()
    started_s = time.monotonic()
    for _ in range(200):
        letters.send(rejected)
    for _ in range(20):
        letters.flush()
    assert time.monotonic() - started_s < 2
    assert len(letters.owed(rejected.message.partition)) == 128
    letters.close()
    assert time.monotonic() - started_s < 10
    assert set(threading.enumerate()) <= threads
    assert metrics.registry.get_sample_value("oddsight_lost_dead_letters_total") == 200 - 128


@pytest.mark.kafka
def test_only_committed_transactions_are_delivered(apache_kafka: ApacheKafka) -> None:
    settings = unique_kafka_settings(apache_kafka.address)
    ensure_topics(settings, partitions=1)
    producer = KafkaProducer(bootstrap_servers=apache_kafka.address, transactional_id=settings.topic)
    producer.init_transactions()
    for values, end in (
        ([b"a", b"b"], producer.commit_transaction),
        ([b"x", b"y"], producer.abort_transaction),
        ([b"c"], producer.commit_transaction),
        ([b"z"], producer.abort_transaction),
    ):
        producer.begin_transaction()
        for value in values:
            producer.send(settings.topic, value, key=b"north")
        producer.flush()
        end()
    producer.close()
    source, partition = KafkaFrameSource(settings), Partition(settings.topic, 0)

    messages = polled(source, 3)
    deadline_s = time.monotonic() + 20
    while source.position(partition) != 10 and time.monotonic() < deadline_s:  # six messages, four marks of an end
        messages += source.poll(0.1).messages
    lag = source.lag(partition, 10)
    source.close()

    assert [(each.offset, each.value) for each in messages] == [(0, b"a"), (1, b"b"), (6, b"c")]
    assert lag == 0


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A listener that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def web_port() -> Iterator[int]:
    """A listener that answers, but not as Kafka does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


class TestKafkaDiagnosis:
    def expect(self, message: str, **settings: object) -> None:
        """The same words whichever client is made, within ten seconds."""
        started_s = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=message):
            make_producer(KafkaSettings.model_validate(settings))
        assert time.monotonic() - started_s < 10

    def test_unresolvable_name(self) -> None:
        self.expect(
            r"nowhere\.invalid:9092.*does not resolve.*kafka\.bootstrap_servers", bootstrap_servers="nowhere.invalid:9092"
        )

    def test_closed_port(self) -> None:
        port = free_ports(1)[0]
        self.expect(rf"127\.0\.0\.1:{port}: nothing listens.*refused", bootstrap_servers=f"127.0.0.1:{port}")

    def test_silent_listener(self, silent_port: int) -> None:
        self.expect(r"does not answer within 3 s", bootstrap_servers=f"127.0.0.1:{silent_port}")

    def test_silent_listener_with_tls(self, silent_port: int) -> None:
        self.expect(r"does not answer the TLS handshake", bootstrap_servers=f"127.0.0.1:{silent_port}", security_protocol="SSL")

    def test_other_protocol(self, web_port: int) -> None:
        self.expect(r"no Kafka broker", bootstrap_servers=f"127.0.0.1:{web_port}")

    def test_names_every_failing_server(self) -> None:
        one, two = free_ports(2)
        self.expect(rf":{one}: nothing listens.*:{two}: nothing listens", bootstrap_servers=f"127.0.0.1:{one},127.0.0.1:{two}")

    def test_one_working_server_is_enough(self, kafka_broker: Broker) -> None:
        dead = free_ports(1)[0]
        settings = unique_kafka_settings(f"127.0.0.1:{dead},{kafka_broker.address}")
        ensure_topics(settings)
        send(settings, [b"frame"])

    def test_rejects_invalid_addresses(self) -> None:
        with pytest.raises(ConfigError, match=r"kafka\.bootstrap_servers: 'host:port' is no address"):
            make_producer(KafkaSettings(bootstrap_servers="host:port"))

    def test_every_client_gives_the_reason(self) -> None:
        settings = KafkaSettings(bootstrap_servers=f"127.0.0.1:{free_ports(1)[0]}")
        for connect in (make_producer, make_consumer, ensure_topics):
            with pytest.raises(BrokerUnavailable, match="nothing listens"):
                connect(settings)


@pytest.mark.kafka
class TestSecureKafka:
    @pytest.fixture
    def secure(self, apache_kafka: ApacheKafka) -> KafkaSettings:
        return unique_kafka_settings(apache_kafka.secure_address).model_copy(
            update={
                "security_protocol": "SASL_SSL",
                "username": USERNAME,
                "password": SecretStr(PASSWORD),
                "ca_file": apache_kafka.ca_file,
            }
        )

    @pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
    def test_accepts_the_right_password(self, secure: KafkaSettings, mechanism: str) -> None:
        settings = secure.model_copy(update={"sasl_mechanism": mechanism})
        ensure_topics(settings)
        send(settings, [b"frame"])
        ((_, _, received),) = read_topic(settings, 1)
        assert received == b"frame"

    def expect(self, message: str, settings: KafkaSettings) -> None:
        started_s = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=message):
            make_producer(settings)
        assert time.monotonic() - started_s < 10

    @pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
    def test_wrong_password_is_not_repeated(self, secure: KafkaSettings, mechanism: str) -> None:
        settings = secure.model_copy(update={"password": SecretStr("wr0ng"), "sasl_mechanism": mechanism})
        self.expect(r"^(?!.*wr0ng).*password refused for 'app'.*kafka\.password", settings)

    def test_mechanism_not_offered(self, secure: KafkaSettings) -> None:
        self.expect(r"does not offer SCRAM-SHA-256", secure.model_copy(update={"sasl_mechanism": "SCRAM-SHA-256"}))

    def test_unknown_authority(self, secure: KafkaSettings) -> None:
        self.expect(r"certificate is not trusted.*kafka\.ca_file", secure.model_copy(update={"ca_file": None}))

    def test_tls_to_a_plain_listener(self, secure: KafkaSettings, apache_kafka: ApacheKafka) -> None:
        self.expect(r"listener without TLS", secure.model_copy(update={"bootstrap_servers": apache_kafka.address}))

    def test_plaintext_to_a_tls_listener(self, apache_kafka: ApacheKafka) -> None:
        self.expect(r"expects TLS.*kafka\.security_protocol", unique_kafka_settings(apache_kafka.secure_address))

    def test_password_to_a_plain_listener(self, secure: KafkaSettings, apache_kafka: ApacheKafka) -> None:
        plain = {"security_protocol": "SASL_PLAINTEXT", "bootstrap_servers": apache_kafka.address}
        self.expect(r"accepts no user name and password", secure.model_copy(update=plain))

    def test_missing_password(self, secure: KafkaSettings) -> None:
        self.expect(r"may require a user name and password", secure.model_copy(update={"security_protocol": "SSL"}))


class TestRedis:
    def test_right_and_wrong_password(self, redis_settings: RedisSettings) -> None:
        with make_redis(redis_settings) as redis:
            redis.acl_setuser("guarded", enabled=True, passwords=["+right"], categories=["+@all"], keys=["*"])
        url = redis_settings.url.replace("redis://", "redis://guarded@")
        with make_redis(RedisSettings(url=url, password=SecretStr("right"))) as redis:
            check_redis(redis)
        with (
            make_redis(RedisSettings(url=url, password=SecretStr("wrong"))) as redis,
            pytest.raises(RedisUnavailable, match=r"refused: check redis\.password"),
        ):
            check_redis(redis)

    def test_closed_port(self) -> None:
        redis = make_redis(RedisSettings(url=f"redis://127.0.0.1:{free_ports(1)[0]}"))
        with pytest.raises(RedisUnavailable, match="nothing listens there"):
            check_redis(redis)

    def test_unresolvable_name(self) -> None:
        with pytest.raises(RedisUnavailable, match="does not resolve"):
            check_redis(make_redis(RedisSettings(url="redis://nowhere.invalid")))

    def test_client_survives_a_restart(self) -> None:
        port = free_ports(1)[0]
        redis = make_redis(RedisSettings(url=f"redis://127.0.0.1:{port}"))
        with embedded_redis(port):
            redis.set("key", "value")
        with pytest.raises(RedisUnavailable):
            check_redis(redis)
        with embedded_redis(port):
            check_redis(redis)
        redis.close()

    def test_data_survives_a_kill(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        data_dir = tmp_path_factory.mktemp("redis")
        with embedded_redis(data_dir=data_dir) as url, make_redis(RedisSettings(url=url)) as redis:
            redis.set("key", "value")
        with embedded_redis(data_dir=data_dir) as url, make_redis(RedisSettings(url=url)) as redis:
            assert redis.get("key") == "value"


def test_embedded_server_prints_why_it_failed(tmp_path: Path) -> None:
    with (
        pytest.raises(EmbeddedUnavailable, match=r"(?s)did not start; it printed: .*No such file"),
        embedded_redis(data_dir=tmp_path / "none"),
    ):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a child with its parent")
@pytest.mark.parametrize("server", ["embedded_kafka", "embedded_redis"])
def test_embedded_server_dies_with_its_parent(server: str) -> None:
    port = free_ports(1)[0]
    program = (
        f"import time; from streamer.demo.embedded import {server}\n"
        f"with {server}({port}): print('up', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        assert diagnose_connection(Address("127.0.0.1", port)) is None
        parent.kill()
    deadline_s = time.monotonic() + 60
    while diagnose_connection(Address("127.0.0.1", port)) is None and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert "nothing listens" in str(diagnose_connection(Address("127.0.0.1", port)))
