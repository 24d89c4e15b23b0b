"""Finds out why a Kafka broker cannot be used, with one small connection of its own.

kafka-python says "Unable to bootstrap" whether the name does not resolve, nothing listens, TLS fails or nobody answers. Each has
another remedy, so the address is checked step by step: name, connection, TLS, a Kafka request, credentials.

Credentials are checked here because kafka-python 3.0.12 often loses the broker's refusal: Apache Kafka delays it by
``connection.failed.authentication.delay.ms`` (0.1 s), then sends it and closes at once, and if both arrive together kafka-python
reports only the closed connection.
"""

import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

_STEP_TIMEOUT_S = 3.0
_DEFAULT_PORT = 9092

_MAX_RESPONSE_BYTES = 1024 * 1024
# (api key, version) of Kafka's protocol guide: requests that every broker since 1.0 answers before authentication.
_API_VERSIONS, _SASL_HANDSHAKE, _SASL_AUTHENTICATE = (18, 0), (17, 1), (36, 0)
_UNSUPPORTED_MECHANISM = 33
_CORRELATION = b"odds"
_TLS_ALERT = b"\x15\x03"


class Address(NamedTuple):
    """Host and port of a broker."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class SaslLogin(NamedTuple):
    """How to authenticate."""

    mechanism: str
    username: str
    begin: Callable[[], Any]
    """Makes a SASL mechanism of kafka-python, the client's side of one authentication."""


class _Fault(Exception):
    """A step failed; the message says how, and what to check."""


def parse_address(text: str) -> Address:
    """Parse ``host:port``, ``[v6]:port`` or ``host`` (port 9092); raises ValueError for anything else."""
    host, port = text.strip(), str(_DEFAULT_PORT)
    if not host.endswith("]") and ":" in host:  # IPv6 addresses contain colons themselves
        host, _, port = host.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError(f"{text!r} is no address: write host:port, the port from 1 to 65535")
    return Address(host, int(port))


def diagnose_broker(address: Address, tls: ssl.SSLContext | None, login: SaslLogin | None) -> str | None:
    """What is wrong at ``address`` and what to check; None if a Kafka broker answers and accepts the login.

    Takes a few milliseconds if all is well, otherwise up to a few times three seconds plus the name lookup.
    """
    try:
        with _connect(address) as plain:
            if tls is None:
                _check_protocol(plain, login)
            else:
                with _start_tls(plain, address.host, tls) as secured:
                    _check_protocol(secured, login)
    except _Fault as fault:
        return f"{address}: {fault}"
    return None


def diagnose_connection(address: Address) -> str | None:
    """As :func:`diagnose_broker`, but checks only that the name resolves and something listens."""
    try:
        _connect(address).close()
    except _Fault as fault:
        return f"{address}: {fault}"
    return None


def _connect(address: Address) -> socket.socket:
    try:
        return socket.create_connection(address, timeout=_STEP_TIMEOUT_S)
    except socket.gaierror as error:
        raise _Fault(
            f"the name {address.host!r} does not resolve ({error.strerror}). "
            "The address is wrong, or this machine's DNS does not know it: check kafka.bootstrap_servers"
        ) from error
    except ConnectionRefusedError as error:
        raise _Fault(
            "nothing listens there (connection refused). The broker is down or the port is wrong: "
            "check that the broker runs, then kafka.bootstrap_servers"
        ) from error
    except TimeoutError as error:
        raise _Fault(
            f"no answer within {_STEP_TIMEOUT_S:g} s. The host is down, the address is wrong or a firewall drops "
            "the connection: check that this machine can reach it"
        ) from error
    except OSError as error:
        raise _Fault(f"cannot be reached ({error.strerror or error}): check kafka.bootstrap_servers and the network") from error


def _start_tls(plain: socket.socket, host: str, tls: ssl.SSLContext) -> ssl.SSLSocket:
    try:
        return tls.wrap_socket(plain, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        raise _Fault(
            f"TLS fails, the broker's certificate is not trusted ({error.verify_message.rstrip('.')}): check that "
            "kafka.ca_file is the authority that signed it and that the certificate names this host"
        ) from error
    except TimeoutError as error:
        raise _Fault(
            f"something listens but does not answer the TLS handshake within {_STEP_TIMEOUT_S:g} s: check the port, "
            "and whether the broker hangs"
        ) from error
    except OSError as error:  # ssl.SSLError is one
        raise _Fault(
            f"TLS fails ({error.strerror or error}). Most likely this is a listener without TLS: "
            "check the port, or set kafka.security_protocol to PLAINTEXT or SASL_PLAINTEXT"
        ) from error


def _check_protocol(connection: socket.socket, login: SaslLogin | None) -> None:
    response = _request(connection, _API_VERSIONS)
    if (not response or response.startswith(_TLS_ALERT)) and not isinstance(connection, ssl.SSLSocket):
        raise _Fault(
            "closes the connection without an answer. It expects TLS, or it is no Kafka broker: "
            "check the port, or set kafka.security_protocol to SSL or SASL_SSL"
        )
    if not response.startswith(_CORRELATION, 4):
        raise _Fault("something answers, but it is no Kafka broker: check the port in kafka.bootstrap_servers")
    if login is not None:
        _check_login(connection, login)


def _check_login(connection: socket.socket, login: SaslLogin) -> None:
    name = login.mechanism.encode()
    response = _request(connection, _SASL_HANDSHAKE, struct.pack(">h", len(name)) + name)
    error_code = int.from_bytes(response[8:10], "big")
    if error_code == _UNSUPPORTED_MECHANISM:
        raise _Fault(f"the broker does not offer {login.mechanism}: check kafka.sasl_mechanism")
    if error_code != 0 or not response:
        raise _Fault("this listener accepts no user name and password: check the port and kafka.security_protocol")
    exchange = login.begin()
    try:
        while not exchange.is_done():
            exchange.receive(_authenticate(connection, exchange.auth_bytes()))
    except ValueError as error:  # refused, or the broker does not prove that it knows the password
        raise _Fault(f"user name or password refused for {login.username!r}: check kafka.username and kafka.password") from error


def _authenticate(connection: socket.socket, token: bytes) -> bytes:
    """The broker's next token. Raises ValueError if it refuses, by an error code or by closing the connection."""
    response = _request(connection, _SASL_AUTHENTICATE, struct.pack(">i", len(token)) + token)
    if response[8:10] != b"\0\0":
        raise ValueError("refused")
    message_bytes = max(0, int.from_bytes(response[10:12], "big", signed=True))  # -1 is no message
    return response[16 + message_bytes :]


def _request(connection: socket.socket, api: tuple[int, int], body: bytes = b"") -> bytes:
    """The response with its four bytes of length; shorter or empty if the broker closes the connection."""
    message = struct.pack(">hh", *api) + _CORRELATION + struct.pack(">h", 8) + b"oddsight" + body
    try:
        connection.sendall(struct.pack(">i", len(message)) + message)
        response = _receive(connection, 4)
        if response.startswith(_TLS_ALERT):
            return response
        return response + _receive(connection, min(int.from_bytes(response, "big"), _MAX_RESPONSE_BYTES))
    except TimeoutError as error:
        raise _Fault(
            f"something listens but does not answer within {_STEP_TIMEOUT_S:g} s. It is no Kafka broker, or it hangs: "
            "check the port and the broker's log"
        ) from error
    except OSError:
        return b""


def _receive(connection: socket.socket, size_bytes: int) -> bytes:
    received = b""
    while len(received) < size_bytes and (part := connection.recv(size_bytes - len(received))):
        received += part
    return received
