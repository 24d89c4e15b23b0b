"""What a delivery test needs of a broker, and the embedded one in that form."""

import socket
import uuid
from contextlib import ExitStack
from typing import Protocol

from streamer.config import KafkaSettings
from streamer.embedded import embedded_kafka


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
    """The broker of :mod:`streamer.embedded`."""

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
    """Ports nobody listens on, all different."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


def unique_kafka_settings(address: str) -> KafkaSettings:
    """Settings with topics and a group that nobody else uses."""
    name = uuid.uuid4().hex[:12]
    return KafkaSettings(
        bootstrap_servers=address,
        topic=f"frames-{name}",
        deadletter_topic=f"deadletter-{name}",
        consumer_group=f"group-{name}",
        start="earliest",
        session_timeout_ms=4_000,
    )
