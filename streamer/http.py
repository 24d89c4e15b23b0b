"""/metrics, /livez and /readyz over HTTP, on a thread of their own."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from deploy.errors import ConfigError
from streamer.config import HttpSettings
from streamer.health import Health
from streamer.metrics import Metrics

_STOP_WITHIN_S = 0.05


@contextmanager
def serve_http(settings: HttpSettings, metrics: Metrics, health: Health) -> Iterator[int]:
    """Serve until the block ends; gives the port.

    Raises:
        ConfigError: the port is taken or the host is none of this machine's.
    """
    try:
        server = ThreadingHTTPServer((settings.host, settings.port), _handler(metrics, health))
    except OSError as error:
        raise ConfigError(f"http: cannot listen on {settings.host}:{settings.port}: {error.strerror}; set http.port") from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(_STOP_WITHIN_S,), name="http", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(metrics: Metrics, health: Health) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, "text/plain; version=0.0.4; charset=utf-8", metrics.exposition())
            elif self.path == "/livez":
                self._answer_health(health.live())
            elif self.path == "/readyz":
                self._answer_health(health.ready())
            else:
                self._answer(404, "text/plain; charset=utf-8", b"try /metrics, /livez or /readyz\n")

        def _answer_health(self, problem: str | None) -> None:
            self._answer(200 if problem is None else 503, "text/plain; charset=utf-8", f"{problem or 'ok'}\n".encode())

        def _answer(self, status: int, content_type: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Probes every few seconds are no news."""

    return Handler
