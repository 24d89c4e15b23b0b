"""Health, metrics and the HTTP endpoints, over a real socket."""

import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from deploy.errors import ConfigError
from streamer.config import HttpSettings
from streamer.http_server import serve_http
from streamer.monitoring import Health, LineLogger, Metrics
from tests.harness.fakes import FakeClock

FREE_PORT = HttpSettings(port=0)
JOINING = "has not joined its consumer group yet"


class Service:
    def __init__(self) -> None:
        self.clock = FakeClock(0.0)
        self.health = Health(self.clock)
        self.metrics = Metrics()
        self.port = 0

    def get(self, path: str) -> tuple[int, str, str]:
        """Status, content type and text."""
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=5)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.headers["Content-Type"], answer.read().decode()


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    with serve_http(FREE_PORT, service.metrics, service.health) as service.port:
        yield service


@pytest.mark.parametrize(
    ("problem", "stuck_s", "live", "ready"),
    [
        (JOINING, 0.0, None, JOINING),
        (None, 29.9, None, None),
        (None, 30.0, "the loop has not turned for 30 s", "the loop has not turned for 30 s"),
        ("Redis is away", 31.0, "the loop has not turned for 31 s", "the loop has not turned for 31 s"),
    ],
)
def test_health(problem: str | None, stuck_s: float, live: str | None, ready: str | None) -> None:
    service = Service()
    assert service.health.problem == JOINING

    service.health.problem = problem
    service.clock.now_s += stuck_s
    assert (service.health.live(), service.health.ready()) == (live, ready)

    service.health.beat()
    assert (service.health.live(), service.health.ready()) == (None, problem)


def test_serves_metrics(service: Service) -> None:
    service.metrics.rejected.labels("empty").inc(3)

    status, content_type, text = service.get("/metrics")

    assert status == 200
    assert content_type.startswith("text/plain; version=0.0.4")
    assert 'oddsight_rejected_messages_total{reason="empty"} 3.0' in text.splitlines()


def test_serves_readiness(service: Service) -> None:
    text_type = "text/plain; charset=utf-8"
    service.health.problem = "Redis: keine Verbindung – Port prüfen"
    assert service.get("/readyz") == (503, text_type, "Redis: keine Verbindung – Port prüfen\n")

    service.health.problem = None
    assert service.get("/readyz") == (200, text_type, "ok\n")


def test_serves_liveness(service: Service) -> None:
    assert service.get("/livez")[0::2] == (200, "ok\n")

    service.clock.now_s += 60

    assert service.get("/livez")[0::2] == (503, "the loop has not turned for 60 s\n")


@pytest.mark.parametrize("path", ["/", "/metric", "/../etc/passwd"])
def test_other_paths_are_not_found(service: Service, path: str) -> None:
    assert service.get(path)[0::2] == (404, "try /metrics, /livez or /readyz\n")


def test_rejects_port_in_use(service: Service) -> None:
    taken = HttpSettings(port=service.port)

    with (
        pytest.raises(ConfigError, match=rf"cannot listen on 127\.0\.0\.1:{service.port}: .*in use; set http\.port"),
        serve_http(taken, Metrics(), Health()),
    ):
        pass


def test_idle_connections_do_not_keep_probes_out() -> None:
    service = Service()
    with (
        serve_http(FREE_PORT, service.metrics, service.health, max_connections=10) as service.port,
        ExitStack() as idle,
    ):
        for _ in range(12):
            idle.enter_context(socket.create_connection(("127.0.0.1", service.port)))
        assert service.get("/livez")[0] == 200


def test_connections_that_are_reset_print_nothing(service: Service, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
    assert service.get("/livez")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_ends_while_answers_are_being_written(caplog: pytest.LogCaptureFixture) -> None:
    switch_interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # the server's threads meet at every step
    try:
        for _ in range(100):
            service = Service()
            with ExitStack() as connections, serve_http(FREE_PORT, service.metrics, service.health) as port:
                for _ in range(8):
                    connection = connections.enter_context(socket.create_connection(("127.0.0.1", port)))
                    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
                    connection.recv(1)
    finally:
        sys.setswitchinterval(switch_interval_s)
    assert caplog.text == ""


def test_other_methods_are_refused(service: Service) -> None:
    with closing(HTTPConnection("127.0.0.1", service.port, timeout=5)) as connection:
        connection.request("POST", "/metrics", body=b"x")
        assert connection.getresponse().status == 405


def dropped_lines() -> float:
    value = Metrics().registry.get_sample_value("oddsight_dropped_log_lines_total")
    assert value is not None
    return value


def test_a_full_stuck_or_closed_log_is_counted_and_ends_nothing() -> None:
    reading, writing = os.pipe()
    full = os.open("/dev/full", os.O_WRONLY)
    closed = os.dup(writing)
    os.close(closed)
    before = dropped_lines()
    LineLogger(full).info("full")
    LineLogger(closed).info("closed")
    LineLogger(None).info("none")
    assert dropped_lines() == before + 3

    LineLogger(writing).info("x" * 100_000)  # more than a pipe holds, and nobody reads
    assert dropped_lines() == before + 4
    os.close(reading)
    LineLogger(writing).info("gone")
    assert dropped_lines() == before + 5
    os.close(writing)
    os.close(full)


def test_log_lines_are_written_whole(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        LineLogger(file.fileno()).warning("ä" * 10_000)
    assert (tmp_path / "log").read_text() == "ä" * 10_000 + "\n"


def test_server_stops_with_block() -> None:
    service = Service()
    with serve_http(FREE_PORT, service.metrics, service.health) as service.port:
        assert service.get("/livez")[0] == 200

    with pytest.raises(ConnectionRefusedError):
        service.get("/livez")
