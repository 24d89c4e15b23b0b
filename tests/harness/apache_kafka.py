"""Real Apache Kafka for tests: one broker in KRaft mode under Java, which can be killed and started again with its data."""

import os
import shutil
import subprocess
from pathlib import Path

from streamer.chaos.servers import ApacheBroker
from streamer.kafka.diagnostics import Address

SHARED_KAFKA = Path(__file__).parents[3] / "shared" / "kafka"
USERNAME = "app"
PASSWORD = "right-password"

_STORE_PASSWORD = "changeit"


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
        plain, secure, controller = (Address("127.0.0.1", port) for port in ports)
        self.address, self.secure_address = str(plain), str(secure)
        self.ca_file = folder / "ca.pem"
        self._folder = folder
        self._make_certificate()
        properties = self._secure_listener(plain, secure, controller)
        user = f"SCRAM-SHA-512=[name={USERNAME},password={PASSWORD}]"
        self._server = ApacheBroker(kafka_home(), folder, properties, address=plain, controller=controller, scram_user=user)

    @property
    def running(self) -> bool:
        return self._server.running

    def start(self) -> None:
        """Start, or restart with the same data on the same ports; returns when the broker answers clients."""
        self._server.start()

    def kill(self) -> None:
        """Kill by SIGKILL, so that the next start finds on disk what a crash leaves."""
        self._server.kill()

    def _secure_listener(self, plain: Address, secure: Address, controller: Address) -> dict[str, object]:
        listeners = f"PLAINTEXT://{plain},SASL_SSL://{secure}"
        login = "org.apache.kafka.common.security"
        return {
            "listeners": f"{listeners},CONTROLLER://{controller}",
            "advertised.listeners": listeners,
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


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
