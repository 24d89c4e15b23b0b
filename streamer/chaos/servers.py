"""The processes of the throw-away stack: Kafka, Redis, replicas of the service. Each can be killed and started again."""

import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from streamer.demo.embedded import answers_ping, kafka_command, redis_command, redis_url, start_process
from streamer.interfaces import EmbeddedUnavailable
from streamer.kafka.diagnostics import Address, diagnose_broker

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0
_POLL_S = 0.05
_PORTS = range(10_000, 30_000)
"""Outside the range from which the system assigns ports (Linux starts at 32768): a server that is down for a moment must find its
port free when it comes back."""
_JAVA_OPTIONS = ("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qg"


class Server:
    """A process that can be killed, suspended and started again with the same command; what it prints goes to a file."""

    def __init__(self, name: str, command: Sequence[str], log_path: Path, is_ready: Callable[[], bool] | None = None) -> None:
        self.name, self._command, self._log_path, self._is_ready = name, list(command), log_path, is_ready
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process lives; also while it is suspended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Of the process, None before the first start."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it, and wait until it is ready if that can be asked; raises EmbeddedUnavailable with what it printed."""
        with self._log_path.open("ab") as log:
            self._process = start_process(self._command, log)
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while self._is_ready is not None and not self._is_ready():
            if not self.running or time.monotonic() > deadline_s:
                raise EmbeddedUnavailable(f"{self.name} did not start; it printed: {self.printed()}")
            time.sleep(_POLL_S)

    def printed(self) -> str:
        """The end of what it printed."""
        return self._log_path.read_bytes()[-2000:].decode(errors="replace").strip() or "nothing"

    def kill(self) -> None:
        """SIGKILL, also while it is suspended; no effect on one that has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        self._signal(signal.SIGTERM)

    def wait(self) -> None:
        """Wait until it has ended; kill it if that takes too long."""
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_TIMEOUT_S)
        self.kill()

    def suspend(self) -> None:
        """SIGSTOP: nothing of it runs, its connections stay open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)  # no effect on one that has ended


class EmbeddedBroker(Server):
    """The broker of :mod:`streamer.demo.embedded`; killed, it comes back empty."""

    kind = "embedded"

    def __init__(self, folder: Path) -> None:
        self.address = free_address()
        super().__init__("the embedded broker", kafka_command(self.address), folder / "kafka.log", self._answers)

    def _answers(self) -> bool:
        return diagnose_broker(self.address, None, None) is None


class ApacheBroker(Server):
    """Apache Kafka, one node in KRaft mode; killed, it comes back with its data.

    ``properties`` are added to those of the server, in place of those of the same name; ``scram_user`` as of the formatter's
    ``--add-scram``.
    """

    kind = "apache"

    def __init__(
        self,
        home: Path,
        folder: Path,
        properties: dict[str, object] | None = None,
        *,
        address: Address | None = None,
        controller: Address | None = None,
        scram_user: str | None = None,
    ) -> None:
        check_kafka_home(home)
        self.address, self._controller = address or free_address(), controller or free_address()
        self._java = ["java", *_JAVA_OPTIONS, "-cp", f"{home}/libs/*"]
        self._properties = folder / "server.properties"
        lines = {**self._server_properties(folder), **(properties or {})}
        self._properties.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        self._format(scram_user)
        super().__init__("Kafka", [*self._java, "kafka.Kafka", str(self._properties)], folder / "kafka.log", self._answers)

    def _answers(self) -> bool:
        return diagnose_broker(self.address, None, None) is None

    def _server_properties(self, folder: Path) -> dict[str, object]:
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.bootstrap.servers": self._controller,
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{self.address},CONTROLLER://{self._controller}",
            "advertised.listeners": f"PLAINTEXT://{self.address}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": folder / "log",
            "offsets.topic.num.partitions": 4,
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
        }

    def _format(self, scram_user: str | None) -> None:
        command = [*self._java, "kafka.tools.StorageTool", "format", "--standalone", "--cluster-id", _CLUSTER_ID]
        command += ["--config", str(self._properties), *(["--add-scram", scram_user] if scram_user else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own arguments
        if done.returncode != 0:
            raise EmbeddedUnavailable(f"Kafka's folder could not be made: {(done.stdout + done.stderr).strip()[-2000:]}")


def check_kafka_home(home: Path) -> None:
    """Raise EmbeddedUnavailable unless Apache Kafka can be started from a folder."""
    if not list((home / "libs").glob("kafka_*.jar")):
        raise EmbeddedUnavailable(f"no Kafka jars in {home}/libs: let KAFKA_HOME name the folder of an installation, or unset it")
    if shutil.which("java") is None:
        raise EmbeddedUnavailable("no java on PATH: install a Java 17 runtime, or unset KAFKA_HOME for the embedded broker")


class EmbeddedRedis(Server):
    """The Redis of :mod:`streamer.demo.embedded`; killed, it comes back with its data."""

    def __init__(self, folder: Path) -> None:
        address = free_address()
        self.url = redis_url(address)
        (folder / "redis").mkdir()
        command = redis_command(address, folder / "redis")
        super().__init__("the embedded Redis", command, folder / "redis.log", lambda: answers_ping(self.url))


def free_address() -> Address:
    """An address of this machine on which nobody listens."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return Address("127.0.0.1", port)
