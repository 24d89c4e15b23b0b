"""Brokers and Redis for tests: embedded ones everywhere, real Apache Kafka where it and Java are found. And: is there a GPU?"""

import signal
import uuid
from collections.abc import Iterator

import pytest

from deploy.cuda.gpu import find_gpu
from deploy.errors import EngineUnavailable
from streamer.config import KafkaSettings, RedisSettings
from streamer.embedded import embedded_redis
from tests.harness.apache_kafka import SHARED_KAFKA, ApacheKafka, missing_part
from tests.harness.brokers import Broker, EmbeddedBroker, free_ports, unique_kafka_settings


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` are skipped where there is none, with the reason, once a file."""
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    try:
        find_gpu("gpu-marked")
    except EngineUnavailable as error:
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason=str(error)))


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_as_in_a_terminal() -> None:
    """A run in the background inherits an ignored SIGINT, and so would every process that a test starts and interrupts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def apache_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    """One real broker for the whole run. Skips where it cannot be had; fails where it must be had."""
    missing = missing_part()
    if missing is not None:
        if SHARED_KAFKA.exists():
            pytest.fail(f"real Apache Kafka must run here, but: {missing}")
        pytest.skip(f"real Apache Kafka: {missing}")
    first, second, third = free_ports(3)
    broker = ApacheKafka(tmp_path_factory.mktemp("kafka"), (first, second, third))
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def embedded_broker() -> Iterator[EmbeddedBroker]:
    """A fresh embedded broker: it starts in 30 ms, and one that served many tests would hold all their frames."""
    broker = EmbeddedBroker()
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture(params=["embedded", pytest.param("apache", marks=pytest.mark.kafka)])
def kafka_broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """The test runs once on each kind of broker; one that it killed is started again."""
    broker: Broker = request.getfixturevalue("embedded_broker" if request.param == "embedded" else "apache_kafka")
    yield broker
    if not broker.running:
        broker.start()


@pytest.fixture
def kafka_settings(kafka_broker: Broker) -> KafkaSettings:
    """Settings for ``kafka_broker`` with topics and a group of this test's own; the topics do not exist yet."""
    return unique_kafka_settings(kafka_broker.address)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The URL of an embedded Redis that serves the whole run."""
    with embedded_redis() as url:
        yield url


@pytest.fixture
def redis_settings(redis_server: str) -> RedisSettings:
    """Settings for ``redis_server`` with a prefix of this test's own."""
    return RedisSettings(url=redis_server, prefix=f"test-{uuid.uuid4().hex[:12]}")
