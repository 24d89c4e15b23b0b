"""Evidence in a bucket of a store that speaks S3."""

import configparser
import mimetypes
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import obstore
import structlog
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from deploy.errors import ConfigError, first_line
from streamer.evidence.files import DAY, StoredFile
from streamer.interfaces import StoreUnavailable
from streamer.storage import EvidenceSettings

log = structlog.get_logger("oddsight.evidence")

if TYPE_CHECKING:
    from obstore import Attributes, ObjectMeta

_CONNECT_S: Final = 3.0
_REST_S: Final = 5.0
"""After a failure the store is not asked for so long, so that only one request waits for a store that is away."""
_SLOW: Final = timedelta(milliseconds=200), timedelta(seconds=2)
_KEYS: Final = ("access_key_id", "secret_access_key", "session_token")


class BucketFiles:
    """See :class:`streamer.evidence.files.EvidenceFiles`."""

    def __init__(
        self,
        address: str,
        settings: EvidenceSettings,
        *,
        timeout_s: float = 30.0,
        retries: int = 2,
        environment: Mapping[str, str] = os.environ,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``address``: ``s3://BUCKET/PREFIX``. Does not connect. Raises ConfigError if credentials cannot be read."""
        bucket, _, prefix = address.removeprefix("s3://").partition("/")
        given = {"endpoint": settings.endpoint, "region": settings.region, **own_credentials(environment)}
        self._store = S3Store(
            bucket,
            prefix=prefix or None,
            config={name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]  # its keys
            client_options={
                "allow_http": True,
                "connect_timeout": timedelta(seconds=_CONNECT_S),
                "timeout": timedelta(seconds=timeout_s),
            },
            retry_config={
                "max_retries": retries,
                "retry_timeout": timedelta(seconds=timeout_s),
                "backoff": {"init_backoff": _SLOW[0], "max_backoff": _SLOW[1], "base": 2},
            },
        )
        self.place = address
        self._clock_s, self._rests_until_s, self._problem = clock_s, 0.0, ""

    def check(self) -> None:
        try:
            with self._errors():
                obstore.put(self._store, ".trial", b"")
                obstore.delete(self._store, [".trial"])
        except StoreUnavailable as error:
            if isinstance(error.__cause__, PermissionDeniedError | UnauthenticatedError | FileNotFoundError):
                raise ConfigError(f"evidence.dir: {error}") from error
            log.warning("the store of evidence does not answer yet", error=str(error))

    def scratch(self, name: str) -> Path:
        descriptor, path = tempfile.mkstemp(suffix=f"-{name}")
        os.close(descriptor)
        return Path(path)

    def write(self, name: str, content: bytes) -> None:
        with self._errors():
            obstore.put(self._store, name, content, attributes=_attributes(name))

    def move(self, path: Path, name: str) -> None:
        with self._errors():
            obstore.put(self._store, name, path, attributes=_attributes(name))
        path.unlink(missing_ok=True)

    def copy(self, name: str, to: str) -> None:
        with self._errors():
            obstore.copy(self._store, name, to)

    def read(self, name: str, most_bytes: int) -> bytes | None:
        with self._errors(), suppress(FileNotFoundError):
            found = obstore.get(self._store, name)
            return bytes(found.bytes()) if found.meta["size"] <= most_bytes else None
        return None

    def read_part(self, file: StoredFile, first: int, end: int) -> bytes:
        with self._errors():
            found = obstore.get(self._store, file.name, options={"range": (first, end), "if_match": file.version or None})
            return bytes(found.bytes())

    def find(self, name: str) -> StoredFile | None:
        with self._errors(), suppress(FileNotFoundError):
            return _stored(obstore.head(self._store, name))
        return None

    def local(self, name: str) -> Path | None:
        return None

    def days(self) -> Sequence[str]:
        with self._errors():
            folders = obstore.list_with_delimiter(self._store)["common_prefixes"]
        return sorted(folder for folder in folders if DAY.fullmatch(folder))

    def files(self, folder: str) -> Sequence[StoredFile]:
        with self._errors():
            return [_stored(each) for some in obstore.list(self._store, folder) for each in some]

    def delete(self, name: str) -> None:
        with self._errors(), suppress(FileNotFoundError):
            obstore.delete(self._store, [name])

    def delete_folder(self, folder: str) -> None:
        names = [file.name for file in self.files(folder)]
        with self._errors():
            obstore.delete(self._store, names)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        if self._clock_s() < self._rests_until_s:
            raise StoreUnavailable(f"{self.place}: {self._problem}")
        try:
            yield
        except (BaseError, OSError) as error:
            # The library's text goes on with the answer's body, and with what it is made of.
            self._problem = first_line(error).partition(": <?xml")[0].rpartition(" - ")[2]
            self._rests_until_s = self._clock_s() + _REST_S
            raise StoreUnavailable(f"{self.place}: {self._problem}") from error


def own_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """What stands in the file of credentials that AWS' own programs use. All other ways the library knows itself.

    Empty if the environment holds credentials, or there is no such file or profile. Raises ConfigError if it is no such file.
    """
    if not {"AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"}.isdisjoint(environment):
        return {}
    path = Path(environment.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser()
    profiles = configparser.RawConfigParser()
    try:
        profiles.read(path, encoding="utf-8")
    except (configparser.Error, OSError, UnicodeDecodeError):
        raise ConfigError(f"{path}: is no file of AWS credentials") from None  # the error may show a secret
    profile = environment.get("AWS_PROFILE", "default")
    return {key: profiles[profile][f"aws_{key}"] for key in _KEYS if profiles.has_option(profile, f"aws_{key}")}


def _stored(meta: "ObjectMeta") -> StoredFile:
    return StoredFile(meta["path"], meta["last_modified"].timestamp(), meta["size"], meta["e_tag"] or "")


def _attributes(name: str) -> "Attributes":
    return {"Content-Type": mimetypes.guess_type(name)[0] or "application/octet-stream"}
