"""The examples of docs/subscribe.md, run as readers would copy them, but for the address of Redis."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from streamer.config import RedisSettings
from streamer.demo.embedded import start_process
from streamer.redis.client import make_redis
from tests.harness.notices import event_entry

PAGE = (Path(__file__).parents[2] / "docs/subscribe.md").read_text(encoding="utf-8")


def example(language: str, settings: RedisSettings, *changes: tuple[str, str]) -> str:
    """An example of the page, with the address and the prefix of this Redis."""
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    for before, after in (("oddsight:events", settings.events_key), *changes):
        assert before in text
        text = text.replace(before, after)
    return text


@contextmanager
def running(command: list[str], folder: Path) -> Iterator[Path]:
    """A process that prints into a file."""
    output = folder / "output"
    with output.open("wb") as file:
        process = start_process(command, file)
    try:
        yield output
    finally:
        process.kill()
        process.wait()


def told(command: list[str], settings: RedisSettings, folder: Path) -> str:
    """What an example prints of an event that starts while it runs, once it has printed that of the camera ``last``."""
    with make_redis(settings) as client, running(command, folder) as output:
        deadline_s, number = time.monotonic() + 30, 0
        while "last" not in output.read_text():
            assert time.monotonic() < deadline_s, output.read_text()
            number += 1
            # Until it reads: what came before is not told.
            entry = event_entry(f"{number}", camera_id="gate" if number < 3 else "last", region="1,2,3,4")
            client.xadd(settings.events_key, entry)  # type: ignore[arg-type]  # texts
            time.sleep(0.2)
        return output.read_text()


def port_of(settings: RedisSettings) -> str:
    return str(urlsplit(settings.url).port)


def test_python(redis_settings: RedisSettings, tmp_path: Path) -> None:
    address = f"redis.Redis(port={port_of(redis_settings)}, "
    text = example("python", redis_settings, ("redis.Redis(", address)).replace('region"))', 'region"), flush=True)')
    assert "last 0.5 1,2,3,4" in told([sys.executable, "-c", text], redis_settings, tmp_path)


def test_shell(redis_settings: RedisSettings, tmp_path: Path) -> None:
    if shutil.which("redis-cli") is None:
        pytest.skip("redis-cli is not installed")
    text = example("sh", redis_settings, ("redis-cli", f"redis-cli -p {port_of(redis_settings)}"))
    printed = told(["sh", "-c", text], redis_settings, tmp_path)
    assert "camera_id\tlast\n" in printed
    assert "peak_score\t0.5\n" in printed


def test_node(redis_settings: RedisSettings, tmp_path: Path) -> None:
    script = tmp_path / "subscriber.mjs"
    (tmp_path / "node_modules").symlink_to(node_modules())
    address = f'createClient({{ url: "{redis_settings.url}" }})'
    script.write_text(example("js", redis_settings, ("createClient()", address)), encoding="utf-8")
    assert "last 0.5 1,2,3,4" in told([str(shutil.which("node")), str(script)], redis_settings, tmp_path)


def node_modules() -> Path:
    """The folder in which Node finds the package ``redis``; skips if there is none."""
    if shutil.which("node") is None:
        pytest.skip("Node is not installed")
    find = "console.log(require.resolve('redis').replace(/node_modules.redis.*$/, 'node_modules'))"
    npm = shutil.which("npm")
    root = subprocess.run([npm, "root", "-g"], capture_output=True, text=True, check=False).stdout.strip() if npm else ""
    path = os.pathsep.join(filter(None, [os.environ.get("NODE_PATH", ""), root]))
    environment = {**os.environ, "NODE_PATH": path}
    found = subprocess.run(["node", "-e", find], env=environment, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("Node has no package redis: npm install --global redis, or name its folder in NODE_PATH")
    return Path(found.stdout.strip())
