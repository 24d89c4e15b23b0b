"""What is wrong with a Kafka address, found with one small connection of our own.

kafka-python says "Unable to bootstrap" whether the name is wrong, nothing listens, TLS fails or nobody answers. Each has
another cure, so the address is tried step by step: name, connection, TLS, a Kafka request, user name and password.

The password is tried here because kafka-python 3.0.12 often loses the broker's refusal: Apache Kafka holds it back for
``connection.failed.authentication.delay.ms`` (0.1 s) and then sends it and closes at once, and where both arrive together its
transport reports only the closing.
"""

import socket
import ssl
import struct
from collections.abc import Callable
from typing import NamedTuple, Protocol

_STEP_TIMEOUT_S = 3.0
_DEFAULT_PORT = 9092

_MAX_ANSWER_BYTES = 1024 * 1024
# Every broker since 1.0 answers these before it knows who asks (key and version as in Kafka's protocol guide).
_API_VERSIONS = (18, 0)
_SASL_HANDSHAKE = (17, 1)
_SASL_AUTHENTICATE = (36, 0)
_UNSUPPORTED_MECHANISM = 33
_CORRELATION = b"odds"
_TLS_ALERT = b"\x15\x03"


class Address(NamedTuple):
    """Where one broker listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class SaslExchange(Protocol):
    """The client's side of one SASL authentication, as kafka-python's mechanisms are."""

    def auth_bytes(self) -> bytes:
        """What to send next."""

    def receive(self, auth_bytes: bytes) -> object:
        """Take the broker's answer.

        Raises:
            ValueError: it proves that the broker does not know the password.
        """

    def is_done(self) -> bool:
        """Whether nothing is left to send."""


class SaslLogin(NamedTuple):
    """How to authenticate."""

    mechanism: str
    username: str
    begin: Callable[[], SaslExchange]


class _Fault(Exception):
    """A step failed; the message says how, and what to check."""


def parse_address(text: str) -> Address:
    """``host:port``, ``[v6]:port`` or ``host`` alone, which means port 9092.

    Raises:
        ValueError: the port is no number from 1 to 65535, or the host is empty.
    """
    host, port = _split_port(text.strip())
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError(f"{text!r} is no address: write host:port, the port from 1 to 65535")
    return Address(host, int(port))


def diagnose_broker(address: Address, tls: ssl.SSLContext | None, login: SaslLogin | None) -> str | None:
    """What is wrong at ``address``, and what to check; None if something there speaks Kafka and takes the login.

    Takes a few milliseconds where all is well, and a few times three seconds plus the name lookup where not.
    """
    try:
        with _connect(address) as plain:
            if tls is None:
                _converse(plain, address, login)
            else:
                with _secure(plain, address, tls) as secured:
                    _converse(secured, address, login)
    except _Fault as fault:
        return str(fault)
    return None


def diagnose_connection(address: Address) -> str | None:
    """As :func:`find_fault`, but only whether the name resolves and something listens."""
    try:
        _connect(address).close()
    except _Fault as fault:
        return str(fault)
    return None


def _split_port(text: str) -> tuple[str, str]:
    """IPv6 addresses contain colons themselves."""
    if text.endswith("]") or ":" not in text:
        return text, str(_DEFAULT_PORT)
    host, _, port = text.rpartition(":")
    return host, port


def _connect(address: Address) -> socket.socket:
    try:
        return socket.create_connection(address, timeout=_STEP_TIMEOUT_S)
    except socket.gaierror as error:
        raise _Fault(
            f"{address}: the name {address.host!r} does not resolve ({error.strerror}). "
            "The address is wrong, or this machine's DNS does not know it: check kafka.bootstrap_servers"
        ) from error
    except ConnectionRefusedError as error:
        raise _Fault(
            f"{address}: nothing listens there (connection refused). The broker is down or the port is wrong: "
            "check that the broker runs, then kafka.bootstrap_servers"
        ) from error
    except TimeoutError as error:
        raise _Fault(
            f"{address}: no answer within {_STEP_TIMEOUT_S:g} s. The host is down, the address is wrong or a firewall drops "
            "the connection: check that this machine can reach it"
        ) from error
    except OSError as error:
        raise _Fault(
            f"{address}: cannot be reached ({error.strerror or error}): check kafka.bootstrap_servers and the network"
        ) from error


def _secure(plain: socket.socket, address: Address, tls: ssl.SSLContext) -> ssl.SSLSocket:
    try:
        return tls.wrap_socket(plain, server_hostname=address.host)
    except ssl.SSLCertVerificationError as error:
        raise _Fault(
            f"{address}: TLS fails, the broker's certificate is not trusted ({error.verify_message.rstrip('.')}): check that "
            "kafka.ca_file is the authority that signed it and that the certificate names this host"
        ) from error
    except TimeoutError as error:
        raise _Fault(
            f"{address}: something listens but does not answer the TLS handshake within {_STEP_TIMEOUT_S:g} s: check the port, "
            "and whether the broker hangs"
        ) from error
    except OSError as error:  # ssl.SSLError is one
        raise _Fault(
            f"{address}: TLS fails ({error.strerror or error}). Most likely this is a listener without TLS: "
            "check the port, or set kafka.security_protocol to PLAINTEXT or SASL_PLAINTEXT"
        ) from error


def _converse(connection: socket.socket, address: Address, login: SaslLogin | None) -> None:
    answer = _ask(connection, address, _request(*_API_VERSIONS))
    if (not answer or answer.startswith(_TLS_ALERT)) and not isinstance(connection, ssl.SSLSocket):
        raise _Fault(
            f"{address}: closes the connection without an answer. It expects TLS, or it is no Kafka broker: "
            "check the port, or set kafka.security_protocol to SSL or SASL_SSL"
        )
    if not answer.startswith(_CORRELATION, 4):
        raise _Fault(f"{address}: something answers, but it is no Kafka broker: check the port in kafka.bootstrap_servers")
    if login is not None:
        _check_mechanism(connection, address, login.mechanism)
        _check_password(connection, address, login)


def _check_mechanism(connection: socket.socket, address: Address, mechanism: str) -> None:
    name = mechanism.encode()
    answer = _ask(connection, address, _request(*_SASL_HANDSHAKE, struct.pack(">h", len(name)) + name))
    error_code = int.from_bytes(answer[8:10], "big")
    if error_code == _UNSUPPORTED_MECHANISM:
        raise _Fault(f"{address}: the broker does not offer {mechanism}: check kafka.sasl_mechanism")
    if error_code != 0 or not answer:
        raise _Fault(f"{address}: this listener takes no user name and password: check the port and kafka.security_protocol")


def _check_password(connection: socket.socket, address: Address, login: SaslLogin) -> None:
    exchange = login.begin()
    try:
        while not exchange.is_done():
            exchange.receive(_authenticate(connection, address, exchange.auth_bytes()))
    except ValueError as error:
        raise _Fault(
            f"{address}: user name or password refused for {login.username!r}: check kafka.username and kafka.password"
        ) from error


def _authenticate(connection: socket.socket, address: Address, token: bytes) -> bytes:
    """The broker's next token; ValueError where it refuses, by an error code or by closing the connection."""
    answer = _ask(connection, address, _request(*_SASL_AUTHENTICATE, struct.pack(">i", len(token)) + token))
    if answer[8:10] != b"\0\0":
        raise ValueError("refused")
    message_bytes = max(0, int.from_bytes(answer[10:12], "big", signed=True))  # -1 is no message
    return answer[16 + message_bytes :]


def _request(api_key: int, api_version: int, body: bytes = b"") -> bytes:
    message = struct.pack(">hh", api_key, api_version) + _CORRELATION + struct.pack(">h", 8) + b"oddsight" + body
    return struct.pack(">i", len(message)) + message


def _ask(connection: socket.socket, address: Address, request: bytes) -> bytes:
    """The answer with its four bytes of length; fewer bytes, or none, where the connection is closed instead."""
    try:
        connection.sendall(request)
        answer = _receive(connection, 4)
        if answer.startswith(_TLS_ALERT):
            return answer
        return answer + _receive(connection, min(int.from_bytes(answer, "big"), _MAX_ANSWER_BYTES))
    except TimeoutError as error:
        raise _Fault(
            f"{address}: something listens but does not answer within {_STEP_TIMEOUT_S:g} s. It is no Kafka broker, or it hangs: "
            "check the port and the broker's log"
        ) from error
    except OSError:
        return b""


def _receive(connection: socket.socket, size_bytes: int) -> bytes:
    received = b""
    while len(received) < size_bytes and (part := connection.recv(size_bytes - len(received))):
        received += part
    return received
