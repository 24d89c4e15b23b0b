"""Where evidence lies: files with names such as ``2025-11-29/0123456789abcdef/clip.mp4``, in a folder or in a bucket."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")


class StoredFile(NamedTuple):
    """A file that is there."""

    name: str
    modified_s: float
    """Since the Unix epoch."""
    size_bytes: int
    version: str = ""
    """Changes with the content, if the store says so."""


class EvidenceFiles(Protocol):
    """Files by their names. Each is written whole or not at all, so that others may read them at any time.

    Every method but :meth:`scratch` raises StoreUnavailable.
    """

    place: str
    """Where it is, for logs."""

    def check(self) -> None:
        """Try to write. Raises ConfigError if that fails and will not pass by itself."""

    def scratch(self, name: str) -> Path:
        """Where a file can be made that is to be moved here; whoever makes it deletes it. Raises OSError."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file."""

    def move(self, path: Path, name: str) -> None:
        """Move a file of :meth:`scratch` here."""

    def copy(self, name: str, to: str) -> None:
        """Copy a file of this store."""

    def read(self, name: str, most_bytes: int) -> bytes | None:
        """Content of a file; None if there is none, or it is larger."""

    def read_part(self, file: StoredFile, first: int, end: int) -> bytes:
        """The bytes from ``first`` up to ``end``, which is left out."""

    def find(self, name: str) -> StoredFile | None:
        """What is known of a file; None if there is none."""

    def local(self, name: str) -> Path | None:
        """Where a file lies on this machine; None if there is none, or files lie elsewhere."""

    def days(self) -> Sequence[str]:
        """The days of which there is evidence, in order."""

    def files(self, folder: str) -> Sequence[StoredFile]:
        """The files in a folder, and in those inside it."""

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""

    def delete_folder(self, folder: str) -> None:
        """Delete a folder with all that is in it."""
