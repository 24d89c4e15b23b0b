"""The interface of a broker in delivery tests, implemented by the embedded one, and free ports."""

import os
import random
import socket
import uuid
from contextlib import ExitStack
from itertools import cycle, islice
from typing import Protocol

from streamer.config import KafkaSettings
from streamer.demo.embedded import embedded_kafka

_PORTS_A_WORKER = 1000
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_FIRST_PORT = 20_000 + _WORKER % 10 * _PORTS_A_WORKER
_own_ports = cycle(random.sample(range(_FIRST_PORT, _FIRST_PORT + _PORTS_A_WORKER), _PORTS_A_WORKER))


class Broker(Protocol):
    """A broker that can be killed and started again on the same address."""

    kind: str
    """``embedded`` or ``apache``. The embedded one comes back empty."""
    address: str

    @property
    def running(self) -> bool: ...

    def start(self) -> None: ...

    def kill(self) -> None: ...


class EmbeddedBroker:
    """The broker of :mod:`streamer.demo.embedded`."""

    kind = "embedded"

    def __init__(self) -> None:
        self._port = free_ports(1)[0]
        self.address = f"127.0.0.1:{self._port}"
        self.running = False
        self._stack = ExitStack()

    def start(self) -> None:
        self._stack.enter_context(embedded_kafka(self._port))
        self.running = True

    def kill(self) -> None:
        self._stack.close()
        self.running = False


def free_ports(count: int) -> list[int]:
    """Different ports on which nobody listens, none of the last thousand.

    A caller may listen on its port only later. So these ports are outside the range from which the system assigns them (Linux
    starts at 32768), and each pytest-xdist worker has its own range.
    """
    return list(islice(filter(_is_free, _own_ports), count))


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def unique_kafka_settings(address: str) -> KafkaSettings:
    """Settings with topics and a group of their own."""
    name = uuid.uuid4().hex[:12]
    return KafkaSettings(
        bootstrap_servers=address,
        topic=f"frames-{name}",
        deadletter_topic=f"deadletter-{name}",
        consumer_group=f"group-{name}",
        start="earliest",
        session_timeout_ms=4_000,
    )
