"""The container files agree with the code and with each other; no container engine is needed."""

import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
import yaml

from streamer.cli import app
from streamer.config import Settings
from streamer.notify.run import make_sender
from streamer.settings_file import ENVIRONMENT, load_settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker/streamer.Dockerfile").read_text(encoding="utf-8")
DOCKERIGNORE = (ROOT / ".dockerignore").read_text(encoding="utf-8")
CONFIG_PATH = "/etc/oddsight/oddsight.toml"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker/compose.yaml").read_text(encoding="utf-8"))["services"]


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(ROOT / "docker/oddsight.toml", {})


def test_settings_name_services(services: dict[str, Any], settings: Settings) -> None:
    assert settings.kafka.bootstrap_servers == "kafka:9092"
    assert f"INSIDE://{settings.kafka.bootstrap_servers}" in services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert urlsplit(settings.redis.url).hostname in services


def test_topics_match_settings(services: dict[str, Any], settings: Settings) -> None:
    created = re.findall(r"--topic (\S+) --partitions (\d+)", services["topics"]["command"][-1])
    assert dict(created) == {settings.kafka.topic: "4", settings.kafka.deadletter_topic: "1"}


@pytest.mark.parametrize("service", ["streamer", "ingest", "evidence", "notify", "dashboard"])
def test_commands_are_valid(services: dict[str, Any], service: str) -> None:
    command, *arguments = services[service]["command"]
    parsed = typer.main.get_group(app).commands[command].make_context(command, list(arguments))
    assert str(parsed.params["config"]) == CONFIG_PATH


@pytest.mark.parametrize("service", ["streamer", "ingest"])
def test_mounted_paths_exist(services: dict[str, Any], settings: Settings, service: str) -> None:
    mounts = dict(split_mount(mount) for mount in services[service]["volumes"])
    assert [path for path in mounts.values() if not (ROOT / "docker" / path).exists()] == []
    assert CONFIG_PATH in mounts
    assert service != "streamer" or str(settings.engine.bundle) in mounts


def test_variables_are_settings(services: dict[str, Any]) -> None:
    mentioned = set(re.findall(r"ODDSIGHT_[A-Z_]+", "".join(path.read_text("utf-8") for path in (ROOT / "docker").rglob("*.*"))))
    assert mentioned
    assert mentioned <= ENVIRONMENT.keys()


def test_ports_match_settings(services: dict[str, Any], settings: Settings) -> None:
    assert f"http://127.0.0.1:{settings.http.port}/livez" in DOCKERFILE
    assert f"EXPOSE {settings.http.port}\n" in DOCKERFILE
    assert services["streamer"]["ports"] == [f"127.0.0.1:{settings.http.port}:{settings.http.port}"]


def test_the_dashboard_is_published_on_this_machine_alone(services: dict[str, Any], settings: Settings) -> None:
    port, users = settings.dashboard.port, settings.dashboard.users
    assert services["dashboard"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert users is not None
    assert f"dashboard-users:{users.parent}" in services["dashboard"]["volumes"]
    folder = settings.evidence.dir
    assert f"RUN mkdir {users.parent} {folder}\n" in DOCKERFILE
    assert f"evidence:{folder}" in services["evidence"]["volumes"]
    for reader in ("dashboard", "notify"):
        assert f"evidence:{folder}:ro" in services[reader]["volumes"]


@pytest.mark.parametrize("service", ["evidence", "notify"])
def test_processes_beside_the_service_are_asked_at_their_own_port(
    services: dict[str, Any], settings: Settings, service: str
) -> None:
    section = getattr(settings, service)
    assert section.host == "0.0.0.0"  # noqa: S104  inside the container
    assert services[service]["ports"] == [f"127.0.0.1:{section.port}:{section.port}"]
    assert f"http://127.0.0.1:{section.port}/livez" in services[service]["healthcheck"]["test"][-1]
    scraped = yaml.safe_load((ROOT / "docker/observability/prometheus.yaml").read_text(encoding="utf-8"))["scrape_configs"]
    (job,) = [each for each in scraped if each["job_name"] == f"oddsight-{service}"]
    assert job["static_configs"] == [{"targets": [f"{service}:{section.port}"]}]


def test_notify_has_somebody_to_tell_and_is_there_on_request(services: dict[str, Any], settings: Settings) -> None:
    assert services["notify"]["profiles"] == ["notify"]
    assert [make_sender(name, each, settings).place for name, each in settings.notify.receivers.items()] == [
        "kafka:9092, topic oddsight.events"
    ]


def test_credentials_of_a_bucket_are_passed_on_and_stand_nowhere(services: dict[str, Any]) -> None:
    for service in ("evidence", "notify", "dashboard"):
        assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= set(services[service]["environment"])
        assert all("=" not in each for each in services[service]["environment"])


def test_image_copies_and_user() -> None:
    copied = [source for line in re.findall(r"^COPY ([^-].*) \S+$", DOCKERFILE, re.MULTILINE) for source in shlex.split(line)]
    assert "pyproject.toml" in copied
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert set(copied) <= {line[1:] for line in DOCKERIGNORE.splitlines() if line.startswith("!")}
    assert DOCKERIGNORE.splitlines()[1] == "*"
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE) == ["oddsight"]


def split_mount(mount: str) -> tuple[str, str]:
    """Path in the container, and path in the repository (the default if a variable may name another)."""
    outside, _, inside = mount.removesuffix(":ro").rpartition(":")
    return inside, re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", outside)


def test_image_installs_locked_requirements_only() -> None:
    commands = re.findall(r"pip (?:install|wheel) [^\n\\]*", DOCKERFILE)
    assert len(commands) == 4
    for command in commands:
        assert ("--require-hashes" in command) != ("--no-deps" in command), command
        named = re.findall(r"--requirement (\S+)", command)
        assert all((ROOT / path).is_file() for path in named)
    assert "!requirements" in DOCKERIGNORE.split()
