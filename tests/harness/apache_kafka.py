"""Real Apache Kafka for tests: one broker in KRaft mode under Java, which can be killed and started again with its data."""

import os
import shutil
import subprocess
import time
from pathlib import Path

from streamer.demo.embedded import start_process
from streamer.kafka.diagnostics import Address, diagnose_broker

SHARED_KAFKA = Path(__file__).parents[3] / "shared" / "kafka"
USERNAME = "app"
PASSWORD = "right-password"

_START_TIMEOUT_S = 60.0
_STORE_PASSWORD = "changeit"
_JAVA_OPTIONS = ["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]


def kafka_home() -> Path:
    """The folder whose ``libs`` holds the broker's jars; it need not exist."""
    return Path(os.environ.get("KAFKA_HOME", SHARED_KAFKA))


def missing_part() -> str | None:
    """What is missing to start a real Kafka, None if nothing is."""
    if not list((kafka_home() / "libs").glob("kafka_*.jar")):
        return f"no Kafka jars in {kafka_home()}/libs: set KAFKA_HOME"
    if shutil.which("java") is None or shutil.which("keytool") is None:
        return "no java and keytool on PATH: install a Java 17 runtime"
    return None


class ApacheKafka:
    """A broker with a plain listener (``address``) and one with SASL over TLS (``secure_address``, ``ca_file``)."""

    kind = "apache"

    def __init__(self, folder: Path, ports: tuple[int, int, int]) -> None:
        plain, secure, self._controller_port = ports
        self.address = f"127.0.0.1:{plain}"
        self.secure_address = f"127.0.0.1:{secure}"
        self.ca_file = folder / "ca.pem"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._make_certificate()
        self._properties = folder / "server.properties"
        self._properties.write_text("".join(f"{key}={value}\n" for key, value in self._settings().items()))
        self._format()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start, or restart with the same data on the same ports; returns when the broker answers clients."""
        with (self._folder / "output.txt").open("ab") as output:
            command = ["java", *_JAVA_OPTIONS, "-cp", self._classpath, "kafka.Kafka", str(self._properties)]
            self._process = start_process(command, output)
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while diagnose_broker(Address("127.0.0.1", int(self.address.rpartition(":")[2])), None, None) is not None:
            if not self.running or time.monotonic() > deadline_s:
                raise RuntimeError("Kafka did not start:\n" + (self._folder / "output.txt").read_text()[-4000:])
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill by SIGKILL, so that the next start finds on disk what a crash leaves."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def _classpath(self) -> str:
        return f"{kafka_home()}/libs/*"

    def _settings(self) -> dict[str, object]:
        listeners = f"PLAINTEXT://{self.address},SASL_SSL://{self.secure_address}"
        login = "org.apache.kafka.common.security"
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self._controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"{listeners},CONTROLLER://127.0.0.1:{self._controller_port}",
            "advertised.listeners": listeners,
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": self._folder / "log",
            "offsets.topic.num.partitions": 4,
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": (
                f'{login}.plain.PlainLoginModule required user_{USERNAME}="{PASSWORD}";'
            ),
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": f"{login}.scram.ScramLoginModule required;",
            "ssl.keystore.type": "PKCS12",
            "ssl.keystore.location": self._folder / "server.p12",
            "ssl.keystore.password": _STORE_PASSWORD,
        }

    def _make_certificate(self) -> None:
        """A self-signed certificate, made by Java's keytool."""
        store = ["-alias", "broker", "-keystore", str(self._folder / "server.p12"), "-storepass", _STORE_PASSWORD]
        names = ["-dname", "CN=127.0.0.1", "-ext", "san=ip:127.0.0.1,dns:localhost", "-ext", "bc=ca:true"]
        key = ["-keyalg", "RSA", "-keysize", "2048", "-validity", "2", "-storetype", "PKCS12"]
        _run("keytool", "-genkeypair", *store, *names, *key)
        _run("keytool", "-exportcert", "-rfc", *store, "-file", str(self.ca_file))

    def _format(self) -> None:
        user = f"SCRAM-SHA-512=[name={USERNAME},password={PASSWORD}]"
        cluster = ["--standalone", "--cluster-id", "MkU3OEVBNTcwNTJENDM2Qg", "--config", str(self._properties)]
        _run("java", *_JAVA_OPTIONS, "-cp", self._classpath, "kafka.tools.StorageTool", "format", *cluster, "--add-scram", user)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
