"""``oddsight-stream chaos`` as users run it, on the embedded broker: it finds what it must, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from streamer.chaos.stack import REPLICAS
from streamer.kafka.diagnostics import Address, diagnose_connection, parse_address
from streamer.settings_file import load_settings

pytestmark = pytest.mark.timeout(120)


def start_chaos(folder: Path, *options: str) -> "subprocess.Popen[str]":
    environment = {name: value for name, value in os.environ.items() if name != "KAFKA_HOME"}
    return subprocess.Popen(
        [sys.executable, "-m", "streamer.cli", "chaos", *options],
        env={**environment, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def replicas(folder: Path) -> list[str]:
    """The command lines that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            found.append(path.read_bytes().decode(errors="replace"))
    return [command for command in found if str(folder) in command]


def has_started(folder: Path) -> bool:
    """Whether a replica has begun with a partition."""
    return any("partition started" in log.read_text() for log in folder.glob("*/replica-*.log"))


def report(chaos: "subprocess.Popen[str]") -> dict[str, Any]:
    """What it printed, once it has ended well."""
    out, err = chaos.communicate()
    assert chaos.returncode == 0, out + err
    content: dict[str, Any] = json.loads(out)
    return content


def test_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    names = ["replica killed", "redis killed"]
    found = report(start_chaos(tmp_path, *(word for name in names for word in ("--fault", name)), "--json"))

    assert [row["fault"] for row in found["rows"]] == names
    assert [(row["repeats"], row["lost"], row["doubled"], row["wrong"]) for row in found["rows"]] == [(1, 0, 0, 0)] * 2
    assert sum(row["events"] for row in found["rows"]) > 0
    assert all(row["recovered_s"] is not None for row in found["rows"])
    assert (found["kafka"], found["folder"], found["problems"]) == ("embedded", None, [])
    assert list(tmp_path.iterdir()) == []


def test_doublings_are_found_without_the_fence(tmp_path: Path) -> None:
    found = report(start_chaos(tmp_path, "--self-check", "--json"))

    assert [(row["fault"], row["doubled"] > 0) for row in found["rows"]] == [("replica stopped", True)]
    assert found["fenced"] is False
    assert any("doubled: " in problem for problem in found["problems"])


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    chaos = start_chaos(tmp_path, "--json")
    deadline_s = time.monotonic() + 60
    # Not earlier: Ctrl-C during the import of a library may look like a library that is broken.
    while not has_started(tmp_path) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert len(replicas(tmp_path)) >= REPLICAS
    settings = load_settings(next(tmp_path.glob("*/oddsight-1.toml")), {})
    host, _, port = settings.redis.url.removeprefix("redis://").removesuffix("/0").partition(":")
    servers = [parse_address(settings.kafka.bootstrap_servers), Address(host, int(port))]
    assert [diagnose_connection(address) for address in servers] == [None, None]
    chaos.send_signal(signal.SIGINT)
    found, printed = chaos.communicate(timeout=60)

    assert chaos.returncode == 130, printed
    assert json.loads(found)["interrupted"]
    assert replicas(tmp_path) == []
    assert all("nothing listens" in str(diagnose_connection(address)) for address in servers)
    assert list(tmp_path.iterdir()) == []
