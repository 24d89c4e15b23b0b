"""The file of users: who may log in, in which role. Passwords are kept as Argon2 hashes only."""

import hashlib
import os
import re
import stat
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deploy.errors import ConfigError, validation_line

Role = Literal["viewer", "operator", "admin"]
ROLES: Final[tuple[Role, ...]] = ("viewer", "operator", "admin")
"""Each may do all that those before it may: look; mark events and change cameras; remove masks and see what was done."""

MIN_PASSWORD_CHARS, MAX_PASSWORD_CHARS = 10, 200
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_LOCAL = "local"
_MAX_FILE_BYTES = 1 << 20
_HASHER = PasswordHasher()
_ONE_AT_A_TIME = threading.Semaphore(2)
"""Checking a password takes 64 MiB on purpose."""


class User(BaseModel):
    """What the file says of one user."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    password: str
    """Argon2 hash."""

    @property
    def credential(self) -> str:
        """Another one for every new password, so that a session does not outlive the password it was opened with."""
        return hashlib.sha256(self.password.encode()).hexdigest()[:16]


class _UsersFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    users: dict[str, User] = Field(default_factory=dict)


def check_name(name: str) -> str:
    """The name, if it may be one of a user; ConfigError otherwise."""
    if not _NAME.fullmatch(name) or name == _LOCAL:
        rule = f"1 to 64 letters, digits or . _ @ -, beginning with a letter or digit, and not {_LOCAL!r}"
        raise ConfigError(f"a user's name must be {rule}, got {name[:80]!r}")
    return name


def check_password(password: str) -> str:
    """The password, if it may be one; ConfigError otherwise."""
    if not MIN_PASSWORD_CHARS <= len(password) <= MAX_PASSWORD_CHARS:
        raise ConfigError(f"a password must have {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} characters, got {len(password)}")
    return password


def read_users(path: Path) -> dict[str, User]:
    """The users in a file. Raises ConfigError if it cannot be read, is no file of users, or others may read it."""
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()[: _MAX_FILE_BYTES + 1]
    except OSError as error:
        add = "make it: oddsight-stream users add NAME --role admin"
        raise ConfigError(f"dashboard.users: {path}: {error.strerror}; {add}") from error
    if not stat.S_ISREG(mode) or mode & 0o077:
        raise ConfigError(f"dashboard.users: {path} must be a file that its owner alone may read: chmod 600 {path}")
    try:
        return _UsersFile.model_validate_json(content).users
    except ValidationError as error:
        raise ConfigError(f"dashboard.users: {path}: {validation_line(error)}; make it with oddsight-stream users") from error


def add_user(path: Path, name: str, role: Role, password: str) -> None:
    """Add a user to a file, which is made if it does not exist; a user of this name is replaced."""
    user = User(role=role, password=_HASHER.hash(check_password(password)))
    _write(path, {**_existing(path), check_name(name): user})


def remove_user(path: Path, name: str) -> None:
    """Remove a user from a file; ConfigError if there is none of this name."""
    users = read_users(path)
    if name not in users:
        raise ConfigError(f"{path} has no user {name!r}; see: oddsight-stream users list")
    _write(path, {each: user for each, user in users.items() if each != name})


def is_password_of(user: User | None, password: str) -> bool:
    """Whether this is the user's password; takes as long if there is no such user."""
    with _ONE_AT_A_TIME:
        try:
            return _HASHER.verify(_NOBODY if user is None else user.password, password) and user is not None
        except (VerificationError, InvalidHashError):
            return False


def _existing(path: Path) -> dict[str, User]:
    return read_users(path) if path.exists() else {}


def _write(path: Path, users: Mapping[str, User]) -> None:
    """Replace the file at once, so that nobody reads half of it; it is readable by its owner alone from the beginning."""
    text = _UsersFile(users=dict(sorted(users.items()))).model_dump_json(indent=2)
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError as error:
        raise ConfigError(f"dashboard.users: {path}: {error.strerror}; name a file in a folder that exists") from error


_NOBODY: Final = "$argon2id$v=19$m=65536,t=3,p=4$7BeIK0xYUHyZ6ab/EeNcHQ$w/aWgq4wrqHGm/BYbRLoisgVUTl6pKrApVgq/0o8C/Q"
"""Hash of no password, with the same cost as those of users."""


class UserList:
    """The users of a file, read again whenever it changes. ConfigError if it is no longer a file of users."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at: tuple[int, int] | None = None
        self._users: dict[str, User] = Field(default_factory=dict)
        self.get("")

    def get(self, name: str) -> User | None:
        """The user of this name, as the file says now."""
        stamp = self._stamp()
        if stamp is None or stamp != self._read_at:
            self._users, self._read_at = read_users(self._path), stamp
        return self._users.get(name)

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino
