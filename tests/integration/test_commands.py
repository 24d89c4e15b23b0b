"""The commands as a new user types them, in processes of their own, against an own Kafka and Redis."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.bundle import DEFAULT_BUNDLE
from streamer.config import RedisSettings
from streamer.demo.run import DEMO_DATA
from streamer.settings_file import settings_toml
from tests.harness.brokers import Broker, unique_kafka_settings
from tests.harness.service import Results, Service, running


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "streamer.cli", *arguments]


@pytest.mark.timeout(180)
def test_an_engineer_sends_a_video_file_and_reads_the_alert(
    tmp_path: Path, one_kafka_broker: Broker, redis_settings: RedisSettings
) -> None:
    """cameras import, ingest, run and watch on an own broker and Redis: the vehicle becomes an event on the watcher's output."""
    kafka = unique_kafka_settings(one_kafka_broker.address)
    service = Service(tmp_path, kafka, redis_settings, engine={"bundle": str(DEFAULT_BUNDLE)})
    config = tmp_path / "oddsight.toml"
    config.write_text(settings_toml(service.settings))
    results = Results(redis_settings)
    watching = subprocess.Popen(command("watch", "--config", str(config)), stdout=subprocess.PIPE, text=True)
    profile = DEMO_DATA / "profiles" / "plaza.safetensors"
    subprocess.run(command("cameras", "import", str(profile), "--config", str(config)), check=True, timeout=60)

    with running(service):
        sent = subprocess.run(
            command("ingest", str(DEMO_DATA / "videos" / "plaza.mp4"), "--camera-id", "plaza", "--fast", "--config", str(config)),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        service.wait_until(lambda: results.next_offsets() == 480, "end of the video")
        assert service.stop() == 0
    watching.send_signal(signal.SIGINT)
    lines = watching.communicate(timeout=30)[0].splitlines()

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

    assert "street was unknown, was learned live, and has been on watch since second" in done.stdout
    assert rows.keys() == {"plaza", "street", "park", "hall"}
    assert "quiet" in rows["park"]
    assert "told, still open" in rows["plaza"]
    assert any("a vehicle drives" in line and "found" in line and "speed" in line for line in lines)
    assert "2640 frames of 4 cameras scored" in done.stdout
    assert done.stderr == ""
