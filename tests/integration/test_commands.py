"""The commands as a new user types them, in processes of their own, against an own Kafka and Redis."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from deploy.bundle import DEFAULT_BUNDLE
from streamer.config import RedisSettings
from streamer.demo.run import DEMO_DATA
from streamer.evidence.store import FILES, event_folder
from streamer.redis.client import make_redis
from streamer.redis.status import read_statuses
from streamer.settings_file import settings_toml
from tests.harness.brokers import Broker, unique_kafka_settings
from tests.harness.evidence import read_manifest
from tests.harness.service import Results, Service, running


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "streamer.cli", *arguments]


@contextmanager
def background(arguments: list[str]) -> Iterator[None]:
    """Run a command until the block ends; it must end well at SIGTERM."""
    process = subprocess.Popen(arguments)
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0


def has_clip(folder: Path) -> bool:
    manifest = read_manifest(folder)
    return manifest is not None and manifest["clip"] is not None


@pytest.mark.timeout(180)
def test_an_engineer_sends_a_video_file_and_reads_the_alert(
    tmp_path: Path, one_kafka_broker: Broker, redis_settings: RedisSettings
) -> None:
    """cameras import, ingest, run, watch and evidence on an own broker and Redis: the vehicle becomes an event with a clip."""
    kafka = unique_kafka_settings(one_kafka_broker.address)
    stored = {"dir": str(tmp_path / "evidence"), "post_roll_s": 1}
    service = Service(tmp_path, kafka, redis_settings, engine={"bundle": str(DEFAULT_BUNDLE)}, evidence=stored)
    config = tmp_path / "oddsight.toml"
    config.write_text(settings_toml(service.settings))
    results = Results(redis_settings)
    watching = subprocess.Popen(command("watch", "--config", str(config)), stdout=subprocess.PIPE, text=True)
    profile = DEMO_DATA / "profiles" / "plaza.safetensors"
    subprocess.run(command("cameras", "import", str(profile), "--config", str(config)), check=True, timeout=60)

    with running(service), background(command("evidence", "--config", str(config))):
        sent = subprocess.run(
            command("ingest", str(DEMO_DATA / "videos" / "plaza.mp4"), "--camera-id", "plaza", "--fast", "--config", str(config)),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        service.wait_until(lambda: results.next_offsets() == 480, "end of the video")
        start = next(event for event in results.events() if event["kind"] == "start")
        folder = tmp_path / "evidence" / event_folder(start["event_id"], int(start["started_at_ms"]))
        service.wait_until(lambda: has_clip(folder), "clip of the event")
        with make_redis(redis_settings) as client:
            statuses = partial(read_statuses, client, redis_settings)
            service.wait_until(lambda: all(status["ready"] == "" for status in statuses().values()), "service that has caught up")
            (status,) = statuses().values()
        assert service.stop() == 0
    watching.send_signal(signal.SIGINT)
    lines = watching.communicate(timeout=30)[0].splitlines()

    assert (status["frames_total"], status["engine"]) == ("480", "openvino")
    assert {path.name for path in folder.iterdir()} >= FILES.keys() - {"usual.jpg"}
    assert sent.stdout == "480 frames sent, 0 failed, 0 dropped, 0 reconnects\n"
    assert watching.returncode == 0
    assert [line.split("  ")[1:3] for line in lines] == [["plaza", event["kind"]] for event in results.events()]
    assert ["plaza", "start"] in [line.split("  ")[1:3] for line in lines]


@pytest.mark.timeout(300)
def test_the_demo_finds_what_it_says_it_finds_and_ends_with_exit_0() -> None:
    done = subprocess.run(
        command("demo"), capture_output=True, text=True, timeout=270, env={**os.environ, "COLUMNS": "140"}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("│")]
    rows = {line.split()[1]: line for line in lines}

    assert "Look at them in a browser: http://127.0.0.1:" in done.stdout
    assert "street was unknown, was learned live, and has been on watch since second" in done.stdout
    assert rows.keys() == {"plaza", "street", "park", "hall"}
    assert "quiet" in rows["park"]
    assert "told, still open" in rows["plaza"]
    for what, channel in (("a vehicle drives", "speed"), ("a covered trolley", "appearance"), ("somebody falls", "dwell")):
        assert any(what in line and " found " in line and channel in line for line in lines), done.stdout
    assert "which cannot be found: the score knows no directions" in done.stdout
    assert "2640 frames of 4 cameras scored" in done.stdout
    assert done.stderr == ""
