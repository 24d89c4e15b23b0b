"""Evidence in a folder of this machine. Symbolic links in it are not followed."""

import errno
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from deploy.errors import ConfigError
from deploy.files import open_inside
from streamer.evidence.files import DAY, StoredFile
from streamer.interfaces import StoreUnavailable

_NONE: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.EINVAL}
"""There is no such file, or it is a link or no regular file."""


class FolderFiles:
    """See :class:`streamer.evidence.files.EvidenceFiles`."""

    def __init__(self, root: Path) -> None:
        self._root, self.place = root, str(root)

    def check(self) -> None:
        try:
            self._root.mkdir(mode=0o750, parents=True, exist_ok=True)  # pictures of people are not for everybody
            (self._root / ".trial").write_bytes(b"")
            (self._root / ".trial").unlink()
        except OSError as error:
            raise ConfigError(f"evidence.dir: {self._root} cannot be written to: {error.strerror}") from error

    def scratch(self, name: str) -> Path:
        folder = self._root / ".parts"
        folder.mkdir(exist_ok=True)
        return folder / name

    def write(self, name: str, content: bytes) -> None:
        with self._errors():
            path = self._path(name)
            part = path.with_name(f".{path.name}.part")
            part.write_bytes(content)
            part.replace(path)

    def move(self, path: Path, name: str) -> None:
        with self._errors():
            path.replace(self._path(name))

    def copy(self, name: str, to: str) -> None:
        with self._errors():
            shutil.copyfile(self._root / name, self._path(to))

    def read(self, name: str, most_bytes: int) -> bytes | None:
        with self._errors():
            try:
                with open_inside(self._root, name) as file:
                    content = file.read(most_bytes + 1)
            except OSError as error:
                if error.errno not in _NONE:
                    raise
                return None
        return content if len(content) <= most_bytes else None

    def read_part(self, file: StoredFile, first: int, end: int) -> bytes:
        with self._errors(), open_inside(self._root, file.name) as opened:
            opened.seek(first)
            return opened.read(end - first)

    def find(self, name: str) -> StoredFile | None:
        try:
            found = (self._root / name).lstat()
        except OSError:
            return None
        return StoredFile(name, found.st_mtime, found.st_size) if stat.S_ISREG(found.st_mode) else None

    def local(self, name: str) -> Path | None:
        return self._root / name if self.find(name) is not None else None

    def days(self) -> Sequence[str]:
        with self._errors():
            return sorted(path.name for path in self._root.iterdir() if DAY.fullmatch(path.name) and path.is_dir())

    def files(self, folder: str) -> Sequence[StoredFile]:
        names = (path.relative_to(self._root).as_posix() for path in (self._root / folder).rglob("*"))
        return [file for name in names if (file := self.find(name)) is not None]

    def delete(self, name: str) -> None:
        with self._errors():
            (self._root / name).unlink(missing_ok=True)

    def delete_folder(self, folder: str) -> None:
        path = self._root / folder
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):  # other events of the day
            path.parent.rmdir()

    def _path(self, name: str) -> Path:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreUnavailable(f"{self._root}: {error.strerror}") from error
