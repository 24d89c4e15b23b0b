"""The HTTP server for metrics and health: ``/metrics``, ``/livez`` and ``/readyz``.

Waitress closes connections that stay silent, has a limit of connections that is far below that of open files, and says nothing
of clients that go away.
"""

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from waitress import create_server, wasyncore

from deploy.errors import ConfigError
from streamer.config import HttpSettings
from streamer.monitoring import Health, Metrics, SideMetrics

MAX_CONNECTIONS = 400
"""Most processes may have 1024 files open; Kafka, Redis and the model need some of them."""
_SILENCE_TIMEOUT_S = 2
_CLEANUP_INTERVAL_S = 1
_POLL_INTERVAL_S = 1
_MAX_REQUEST_BYTES = 16_384
_BACKLOG = 2_048
"""Above the limit of connections, others wait here for one that is closed."""

Respond = Callable[[str, list[tuple[str, str]]], object]


@contextmanager
def serve_http(
    settings: HttpSettings,
    metrics: Metrics | SideMetrics,
    health: Health,
    *,
    section: str = "http",
    max_connections: int = MAX_CONNECTIONS,
) -> Iterator[int]:
    """Serve metrics and health on threads until the block ends; yields the port. ``section``: that of the port in the settings.

    Raises:
        ConfigError: the port is in use, or the host is not an address of this machine.
    """
    logging.getLogger("waitress").setLevel(logging.ERROR)
    listener = listen(settings.host, settings.port, section)
    open_sockets: dict[int, Any] = {}
    server = create_server(
        _application(metrics, health),
        map=open_sockets,
        sockets=[listener],
        threads=2,
        connection_limit=max_connections,
        channel_timeout=_SILENCE_TIMEOUT_S,
        cleanup_interval=_CLEANUP_INTERVAL_S,
        backlog=_BACKLOG,
        max_request_header_size=_MAX_REQUEST_BYTES,
        max_request_body_size=_MAX_REQUEST_BYTES,
        log_socket_errors=False,
        ident=None,
    )
    stopped = threading.Event()
    thread = threading.Thread(target=_run_until, args=(stopped, open_sockets), name="http", daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stopped.set()
        server.pull_trigger()
        thread.join()
        server.task_dispatcher.shutdown()  # its threads wake the server through a pipe, so sockets are closed after them
        wasyncore.close_all(open_sockets)


def _run_until(stopped: threading.Event, open_sockets: dict[int, Any]) -> None:
    while not stopped.is_set():
        wasyncore.loop(
            timeout=_POLL_INTERVAL_S, use_poll=True, map=open_sockets, count=1
        )  # select() knows no descriptor over 1023


def listen(host: str, port: int, section: str) -> socket.socket:
    """A socket that listens there; the ConfigError of one that cannot names the section of the settings."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # Python repeats the address there
        raise ConfigError(f"{section}: cannot listen on {host}:{port}: {reason}; set {section}.port") from error


def _application(metrics: Metrics | SideMetrics, health: Health) -> Callable[[dict[str, Any], Respond], Iterable[bytes]]:
    def answer(path: str) -> tuple[str, bytes, str]:
        if path == "/metrics":
            return "200 OK", metrics.exposition(), "text/plain; version=0.0.4; charset=utf-8"
        if path in {"/livez", "/readyz"}:
            problem = health.live() if path == "/livez" else health.ready()
            status = "200 OK" if problem is None else "503 Service Unavailable"
            return status, f"{problem or 'ok'}\n".encode(), "text/plain; charset=utf-8"
        return "404 Not Found", b"try /metrics, /livez or /readyz\n", "text/plain; charset=utf-8"

    def application(environ: dict[str, Any], respond: Respond) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            respond("405 Method Not Allowed", [("Allow", "GET, HEAD")])
            return [b""]
        status, content, content_type = answer(environ["PATH_INFO"])
        respond(status, [("Content-Type", content_type), ("Content-Length", str(len(content)))])
        return [content]

    return application
