"""The HTTP endpoints over a real socket on this machine."""

from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection

import pytest

from deploy.errors import ConfigError
from streamer.config import HttpSettings
from streamer.monitoring import Health, Metrics, serve_http
from tests.harness.fakes import FakeClock

FREE_PORT = HttpSettings(port=0)


class Service:
    """What is served, and where."""

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


def test_metrics_are_served_as_prometheus_text(service: Service) -> None:
    service.metrics.rejected.labels("empty").inc(3)

    status, content_type, text = service.get("/metrics")

    assert status == 200
    assert content_type.startswith("text/plain; version=0.0.4")
    assert 'oddsight_rejected_messages_total{reason="empty"} 3.0' in text.splitlines()


def test_readiness_follows_the_service(service: Service) -> None:
    text_type = "text/plain; charset=utf-8"
    assert service.get("/readyz") == (503, text_type, "has not joined its consumer group yet\n")

    service.health.problem = None
    assert service.get("/readyz") == (200, text_type, "ok\n")

    service.health.problem = "Redis: keine Verbindung – Port prüfen"
    assert service.get("/readyz") == (503, text_type, "Redis: keine Verbindung – Port prüfen\n")


def test_liveness_follows_the_loop(service: Service) -> None:
    assert service.get("/livez")[0::2] == (200, "ok\n")

    service.clock.now_s += 60

    assert service.get("/livez")[0::2] == (503, "the loop has not turned for 60 s\n")


@pytest.mark.parametrize("path", ["/", "/metric", "/../etc/passwd"])
def test_any_other_path_is_not_found_and_says_what_there_is(service: Service, path: str) -> None:
    assert service.get(path)[0::2] == (404, "try /metrics, /livez or /readyz\n")


def test_a_port_that_is_taken_is_a_wrong_setting(service: Service) -> None:
    taken = HttpSettings(port=service.port)

    with (
        pytest.raises(ConfigError, match=rf"cannot listen on 127\.0\.0\.1:{service.port}: .*in use; set http\.port"),
        serve_http(taken, Metrics(), Health()),
    ):
        pass


def test_nothing_is_served_afterwards() -> None:
    service = Service()
    with serve_http(FREE_PORT, service.metrics, service.health) as service.port:
        assert service.get("/livez")[0] == 200

    with pytest.raises(ConnectionRefusedError):
        service.get("/livez")
