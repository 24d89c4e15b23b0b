"""Evidence as tests look at it, and a store that speaks S3 over TCP."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from moto.server import ThreadedMotoServer

from streamer.evidence.store import MANIFEST, parse_manifest
from tests.harness.brokers import free_ports

BUCKET = "oddsight"
KEY, SECRET = "AKIDEXAMPLE", "not-to-be-shown-anywhere"


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What is stored of an event in a folder; None if nothing is yet."""
    path = folder / MANIFEST
    return parse_manifest(path.read_bytes()) if path.exists() else None


class ObjectStore:
    """A server with one bucket; it can be stopped, and started again with what it held."""

    def __init__(self) -> None:
        self._port = free_ports(1)[0]
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self._server: ThreadedMotoServer | None = None

    def start(self) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", self._port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def request(self, method: str, path: str) -> bytes:
        """Ask the server itself; ``path`` begins with ``/``."""
        with urlopen(Request(self.endpoint + path, method=method), timeout=10) as answer:  # noqa: S310  of this machine
            content: bytes = answer.read()
        return content


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """A running store with an empty bucket."""
    store = ObjectStore()
    store.start()
    try:
        store.request("POST", "/moto-api/reset")
        store.request("PUT", f"/{BUCKET}")
        yield store
    finally:
        store.stop()
