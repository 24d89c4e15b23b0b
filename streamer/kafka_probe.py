"""What is wrong with a Kafka address, found with one small connection of our own.

kafka-python says "Unable to bootstrap" whether the name is wrong, nothing listens, TLS fails or nobody answers. Each has
another cure, so the address is tried step by step: name, connection, TLS, a Kafka request.
"""

import socket
import ssl
import struct
from typing import NamedTuple

_STEP_TIMEOUT_S = 3.0
_DEFAULT_PORT = 9092

_MAX_ANSWER_BYTES = 1024 * 1024
# Every broker since 0.10 answers both before any authentication (key and version as in Kafka's protocol guide).
_API_VERSIONS = (18, 0)
_SASL_HANDSHAKE = (17, 1)
_UNSUPPORTED_MECHANISM = 33
_CORRELATION = b"odds"
_TLS_ALERT = b"\x15\x03"


class Address(NamedTuple):
    """Where one broker listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


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


def find_fault(address: Address, tls: ssl.SSLContext | None, sasl_mechanism: str | None) -> str | None:
    """What is wrong at ``address``, and what to check; None if something there speaks Kafka and offers the mechanism.

    Takes a few milliseconds where all is well, and a few times three seconds plus the name lookup where not. User name and
    password are not tried.
    """
    try:
        with _connect(address) as plain:
            if tls is None:
                _converse(plain, address, sasl_mechanism)
            else:
                with _secure(plain, address, tls) as secured:
                    _converse(secured, address, sasl_mechanism)
    except _Fault as fault:
        return str(fault)
    return None


def find_connection_fault(address: Address) -> str | None:
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


def _converse(connection: socket.socket, address: Address, sasl_mechanism: str | None) -> None:
    answer = _ask(connection, address, _request(*_API_VERSIONS))
    if (not answer or answer.startswith(_TLS_ALERT)) and not isinstance(connection, ssl.SSLSocket):
        raise _Fault(
            f"{address}: closes the connection without an answer. It expects TLS, or it is no Kafka broker: "
            "check the port, or set kafka.security_protocol to SSL or SASL_SSL"
        )
    if not answer.startswith(_CORRELATION, 4):
        raise _Fault(f"{address}: something answers, but it is no Kafka broker: check the port in kafka.bootstrap_servers")
    if sasl_mechanism is not None:
        _check_mechanism(connection, address, sasl_mechanism)


def _check_mechanism(connection: socket.socket, address: Address, mechanism: str) -> None:
    name = mechanism.encode()
    answer = _ask(connection, address, _request(*_SASL_HANDSHAKE, struct.pack(">h", len(name)) + name))
    error_code = int.from_bytes(answer[8:10], "big")
    if error_code == _UNSUPPORTED_MECHANISM:
        raise _Fault(f"{address}: the broker does not offer {mechanism}: check kafka.sasl_mechanism")
    if error_code != 0 or not answer:
        raise _Fault(f"{address}: this listener takes no user name and password: check the port and kafka.security_protocol")


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
