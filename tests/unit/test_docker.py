"""The container files agree with the code and with each other, as far as can be seen without a container engine."""

import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
import yaml

from streamer.cli import app
from streamer.config import ENVIRONMENT, Settings, load_settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker/streamer.Dockerfile").read_text(encoding="utf-8")
CONFIG_PATH = "/etc/oddsight/oddsight.toml"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker/compose.yaml").read_text(encoding="utf-8"))["services"]


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(ROOT / "docker/oddsight.toml", {})


def test_the_settings_point_at_the_services(services: dict[str, Any], settings: Settings) -> None:
    assert settings.kafka.bootstrap_servers == "kafka:9092"
    assert f"INSIDE://{settings.kafka.bootstrap_servers}" in services["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert urlsplit(settings.redis.url).hostname in services


def test_the_topics_are_those_of_the_settings(services: dict[str, Any], settings: Settings) -> None:
    created = re.findall(r"--topic (\S+) --partitions (\d+)", services["topics"]["command"][-1])
    assert dict(created) == {settings.kafka.topic: "4", settings.kafka.deadletter_topic: "1"}


@pytest.mark.parametrize("service", ["streamer", "ingest"])
def test_the_command_line_is_one_that_oddsight_stream_takes(services: dict[str, Any], service: str) -> None:
    command, *arguments = services[service]["command"]
    parsed = typer.main.get_group(app).commands[command].make_context(command, list(arguments))
    assert str(parsed.params["config"]) == CONFIG_PATH


@pytest.mark.parametrize("service", ["streamer", "ingest"])
def test_everything_mounted_exists(services: dict[str, Any], settings: Settings, service: str) -> None:
    mounts = dict(split_mount(mount) for mount in services[service]["volumes"])
    assert [path for path in mounts.values() if not (ROOT / "docker" / path).exists()] == []
    assert CONFIG_PATH in mounts
    assert service != "streamer" or str(settings.engine.bundle) in mounts


def test_every_oddsight_variable_is_a_setting(services: dict[str, Any]) -> None:
    mentioned = set(re.findall(r"ODDSIGHT_[A-Z_]+", "".join(path.read_text("utf-8") for path in (ROOT / "docker").iterdir())))
    assert mentioned
    assert mentioned <= ENVIRONMENT.keys()


def test_the_port_that_is_checked_is_the_port_that_is_served(services: dict[str, Any], settings: Settings) -> None:
    assert f"http://127.0.0.1:{settings.http.port}/livez" in DOCKERFILE
    assert f"EXPOSE {settings.http.port}\n" in DOCKERFILE
    assert services["streamer"]["ports"] == [f"127.0.0.1:{settings.http.port}:{settings.http.port}"]


def test_the_image_copies_only_what_exists_and_does_not_run_as_root() -> None:
    copied = [source for line in re.findall(r"^COPY ([^-].*) \S+$", DOCKERFILE, re.MULTILINE) for source in shlex.split(line)]
    assert "pyproject.toml" in copied
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE) == ["oddsight"]


def split_mount(mount: str) -> tuple[str, str]:
    """Path in the container, path here: that of the default where a variable may name another."""
    here, _, inside = mount.removesuffix(":ro").rpartition(":")
    return inside, re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", here)
