"""Receivers of notifications on real sockets: an HTTP server, a mail server and an MQTT broker that come and go."""

import asyncio
import ipaddress
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import paho.mqtt.client as paho
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paho.mqtt.enums import CallbackAPIVersion

from streamer.demo.embedded import start_process
from tests.harness.redis_servers import wait_until

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


class Certificate(NamedTuple):
    """A certificate of 127.0.0.1 that is its own authority, and its key."""

    certificate: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


def make_certificate(folder: Path) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = Certificate(folder / "certificate.pem", folder / "key.pem")
    paths.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
    return paths


class Request(NamedTuple):
    """A request, and what it was answered."""

    headers: dict[str, str]
    body: bytes
    status: int


@contextmanager
def http_receiver(port: int, statuses: Sequence[int] = (), tls: Certificate | None = None) -> Iterator[list[Request]]:
    """Answers with these statuses, one after the other, then with 204; a redirect leads to itself. Yields what it got."""
    requests: list[Request] = []
    left = list(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = left.pop(0) if left else 204
            requests.append(Request(dict(self.headers), body, status))
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    if tls is not None:
        server.socket = tls.server_context().wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Mailbox:
    """aiosmtpd's handler: takes mail after some temporary failures."""

    def __init__(self, failures: int) -> None:
        self.mails: list[EmailMessage] = []
        self._failures = failures

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802  aiosmtpd's name
        if self._failures:
            self._failures -= 1
            return "451 try again later"
        mail = message_from_bytes(envelope.content, policy=default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        return "250 taken"


@contextmanager
def mail_server(port: int, failures: int = 0, tls: Certificate | None = None) -> Iterator[list[EmailMessage]]:
    """Takes mail; with ``tls`` only after STARTTLS, from the user ``oddsight`` with the password ``secret``."""
    mailbox = _Mailbox(failures)
    options: dict[str, Any] = {}
    if tls is not None:
        options = {
            "tls_context": tls.server_context(),
            "require_starttls": True,
            "auth_required": True,
            "authenticator": lambda *given: AuthResult(
                success=(given[-1].login, given[-1].password) == (b"oddsight", b"secret"), handled=False
            ),
        }
    controller = Controller(mailbox, hostname="127.0.0.1", port=port, loop=asyncio.new_event_loop(), **options)
    controller.start()
    try:
        yield mailbox.mails
    finally:
        controller.stop()
        controller.loop.close()


class Mosquitto:
    """An MQTT broker that keeps what it holds for its subscribers over a stop."""

    def __init__(self, folder: Path, port: int, tls: Certificate | None = None) -> None:
        self.port, self._config, self._folder = port, folder / "mosquitto.conf", folder
        lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", "user root", "persistence true"]
        lines += [f"persistence_location {folder}/", "autosave_on_changes true", "autosave_interval 1"]
        if tls is not None:
            lines += [f"certfile {tls.certificate}", f"keyfile {tls.key}"]
        self._config.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "mosquitto.log").open("ab") as log:
            self._process = start_process([str(MOSQUITTO), "-c", str(self._config)], log)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=10)
            self._process = None


class Published(NamedTuple):
    """A message that a subscriber got."""

    topic: str
    payload: Any
    is_retained: bool


@contextmanager
def subscription(port: int, topic: str, client_id: str) -> Iterator[list[Published]]:
    """What a subscriber gets; the broker keeps what comes while it is away."""
    got: list[Published] = []
    subscribed = threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=False)
    client.reconnect_delay_set(1, 1)

    def on_message(_client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        payload = message.payload.decode()
        got.append(Published(message.topic, json.loads(payload) if payload.startswith("{") else payload, message.retain))

    client.on_connect = lambda client, *_: client.subscribe(topic, qos=1)
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = on_message
    wait_until(lambda: _connects(client, port))
    client.loop_start()
    assert subscribed.wait(10)
    try:
        yield got
    finally:
        client.disconnect()
        client.loop_stop()


def _connects(client: paho.Client, port: int) -> bool:
    try:
        client.connect("127.0.0.1", port)
    except OSError:
        return False
    return True
