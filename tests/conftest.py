"""Brokers and Redis for tests: embedded ones everywhere, real Apache Kafka where it and Java are found. And: is there a GPU?

And how workers (pytest -n) share the tests out.
"""

import os
import signal
import socket
import uuid
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings
from kafka.net.inet import KafkaNetSocket

from deploy.errors import EngineUnavailable
from deploy.gpu.driver import find_gpu
from streamer.config import KafkaSettings, RedisSettings
from streamer.demo.embedded import embedded_redis
from tests.harness.apache_kafka import SHARED_KAFKA, ApacheKafka, missing_part
from tests.harness.brokers import Broker, EmbeddedBroker, free_ports, unique_kafka_settings

DEAR = {"kafka_settings": "kafka", "kafka_broker": "kafka", "shipped_in_half": "float16"}
"""Fixture that takes long to make -> what the files that name it are called together: one worker gets them all."""

# The other workers may have the processors just when a test is watched.
settings.register_profile("unhurried", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


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


@pytest.hookimpl(optionalhook=True)  # there is no such hook in a run without pytest-xdist
def pytest_xdist_setupnodes() -> None:
    """Several workers with several threads each would get in each other's way. NumPy reads this when a worker loads it."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file goes to one worker as a whole, for what its tests share; so do files that share what is ``DEAR``.

    pytest-xdist 3.8 has groups for that, but under pytest 9.2 it does not see them.
    """
    from xdist.scheduler import LoadFileScheduling

    @cache
    def files_of(file: str) -> str:
        text = (config.rootpath / file).read_text(encoding="utf-8")
        return next((group for fixture, group in DEAR.items() if fixture in text), file)

    class ByFiles(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return files_of(nodeid.partition("::")[0])

    return ByFiles(config, log)


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_as_in_a_terminal() -> None:
    """A run in the background inherits an ignored SIGINT, and so would every process that a test starts and interrupts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _sockets_of_failed_attempts_are_closed() -> Iterator[None]:
    """kafka-python 3.0 leaves them to the garbage collector, and so those of attempts that a client's close finds under way."""
    connect = KafkaNetSocket.sock_connect

    async def connect_or_close(self: KafkaNetSocket, net: Any, sock: socket.socket, *where: Any, **until: Any) -> socket.socket:
        try:
            return await connect(self, net, sock, *where, **until)
        except BaseException:
            sock.close()
            raise

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KafkaNetSocket, "sock_connect", connect_or_close)
        yield


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
def one_kafka_broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """The real broker if it is installed, else the embedded one: for tests that take long and hardly depend on which."""
    broker: Broker = request.getfixturevalue("embedded_broker" if missing_part() else "apache_kafka")
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


@pytest.fixture(autouse=True)
def default_logs() -> None:
    """Tests of commands set logs up for the whole process."""
    structlog.reset_defaults()
