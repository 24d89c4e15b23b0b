"""Files from others, opened only if they are regular files, and lock files."""

import errno
import fcntl
import os
import stat
from io import BufferedReader, TextIOWrapper
from pathlib import Path


def open_regular_file(path: Path, *, follow_links: bool) -> BufferedReader:
    """Open a file for reading. Raises OSError also if it is no regular file, or a symbolic link and these are not followed.

    Nothing waits for the other end of a FIFO, and what was checked is what is read: the check is made on the open file.
    """
    if not follow_links and path.is_symlink():
        raise OSError(errno.ELOOP, "is a symbolic link; put the file itself there", str(path))
    flags = os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)
    file = open(path, "rb", opener=lambda name, mode: os.open(name, mode | flags))  # noqa: SIM115  the caller closes it; Path.open has no opener
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return file


def open_inside(folder: Path, name: str) -> BufferedReader:
    """Open a regular file of a folder. Raises OSError also if a symbolic link leads out of the folder."""
    path = (folder / name).resolve(strict=True)
    if not path.is_relative_to(folder.resolve()):
        raise OSError(errno.EXDEV, "leads out of the folder by a symbolic link", str(folder / name))
    return open_regular_file(path, follow_links=False)


def read_inside(folder: Path, name: str) -> bytes:
    """Content of a regular file of a folder. Raises as :func:`open_inside`."""
    with open_inside(folder, name) as file:
        return file.read()


def lock_file(path: Path) -> TextIOWrapper:
    """Lock a file, made with its folder if need be, until the returned file is closed or the process ends.

    Raises BlockingIOError if it is locked already, and OSError if it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.open("w", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise
    return lock
