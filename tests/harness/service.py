"""The service as users run it: a process started from a TOML file, observed through Redis and HTTP."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from streamer.config import KafkaSettings, RedisSettings, Settings
from streamer.demo.embedded import start_process
from streamer.redis.stored import parse_cameras
from streamer.settings_file import settings_toml
from tests.harness.brokers import free_ports

Entry = dict[str, str]


class Service:
    """An ``oddsight-stream run`` process that may be killed and started again."""

    def __init__(self, folder: Path, kafka: KafkaSettings, redis_: RedisSettings, **sections: dict[str, Any]) -> None:
        http = {"port": free_ports(1)[0]}
        # Else the shipped network would learn every test's cameras for a quarter of an hour; plain pictures would be "covered".
        sections = {"learning": {"enabled": False}, "health": {"enabled": False}, **sections}
        self.settings = Settings.model_validate({"kafka": kafka, "redis": redis_, "http": http, **sections})
        self.log_path = folder / f"service-{http['port']}.log"
        self.config_path = folder / f"oddsight-{http['port']}.toml"
        self.config_path.write_text(settings_toml(self.settings))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start without waiting until it is ready."""
        with self.log_path.open("ab") as log:
            self.process = start_process([sys.executable, "-m", "streamer.cli", "run", "--config", str(self.config_path)], log)

    def kill(self) -> None:
        """Send SIGKILL and wait."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Send SIGTERM and wait; returns the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=30)

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of an HTTP endpoint; (0, "") if nothing listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.settings.http.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def log(self) -> list[dict[str, Any]]:
        """The log's entries."""
        lines = self.log_path.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def wait_until(self, condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
        """Wait until ``condition()``; fails with the log if it takes too long or the process ends."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            assert self.process is not None
            assert self.process.poll() is None, f"the service ended:\n{self.log_path.read_text()[-4000:]}"
            assert time.monotonic() < deadline_s, f"no {what} within {timeout_s} s:\n{self.log_path.read_text()[-4000:]}"
            time.sleep(0.05)


@contextmanager
def running(service: Service, *, started: bool = False) -> Iterator[Service]:
    """Start the service unless it is ``started``, and kill it when the block ends."""
    if not started:
        service.start()
    try:
        yield service
    finally:
        if service.process is not None and service.process.poll() is None:
            service.kill()


class Results:
    """What a service wrote to Redis."""

    def __init__(self, settings: RedisSettings) -> None:
        self._client = redis.Redis.from_url(settings.url, decode_responses=True)
        self._prefix = settings.prefix

    def events(self) -> list[Entry]:
        """All event entries in order."""
        return self._entries(f"{self._prefix}:events")

    def health(self) -> list[Entry]:
        """All entries of the stream of health in order."""
        return self._entries(f"{self._prefix}:health")

    def scores(self) -> dict[str, list[Entry]]:
        """Score entries by camera, in order."""
        prefix = f"{self._prefix}:scores:"
        return {str(key).removeprefix(prefix): self._entries(str(key)) for key in self._client.scan_iter(f"{prefix}*")}

    def score_count(self) -> int:
        """Number of scores stored."""
        return sum(int(self._client.xlen(key)) for key in self._client.scan_iter(f"{self._prefix}:scores:*"))  # type: ignore[arg-type]  # the client is synchronous

    def summed_up(self) -> dict[str, int]:
        """How many scores of each camera are in its minutes, with the one that is still being summed up."""
        counts: Counter[str] = Counter()
        prefix = f"{self._prefix}:minutes:"
        for key in self._client.scan_iter(f"{prefix}*"):
            counts[str(key).removeprefix(prefix)] += sum(int(entry["frames"]) for entry in self._entries(str(key)))
        for key in self._client.scan_iter(f"{self._prefix}:progress:*"):
            for name, state in parse_cameras(self._client.hgetall(key)).items():  # type: ignore[arg-type]  # likewise
                counts[name] += 0 if state.minute is None else state.minute.frames
        return dict(counts)

    def next_offsets(self) -> int:
        """Sum of the next offsets of all partitions: the number of messages done."""
        keys = self._client.scan_iter(f"{self._prefix}:progress:*")
        return sum(int(str(self._client.hget(key, "next_offset") or 0)) for key in keys)

    def _entries(self, key: str) -> list[Entry]:
        return [fields for _, fields in self._client.xrange(key)]  # type: ignore[union-attr]  # likewise
