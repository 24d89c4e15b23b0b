"""The evidence of events: a folder for each, in one for each day, with limits of age and size."""

import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog

from deploy.errors import ConfigError
from streamer.evidence.files import EvidenceFiles, StoredFile
from streamer.evidence.folder import FolderFiles
from streamer.monitoring import EvidenceMetrics
from streamer.storage import EvidenceSettings
from streamer.types import EVENT_ID_PATTERN

log = structlog.get_logger("oddsight.evidence")

MANIFEST: Final = "evidence.json"
FILES: Final = {
    "picture.jpg": "image/jpeg",
    "heatmap.png": "image/png",
    "usual.jpg": "image/jpeg",
    "clip.mp4": "video/mp4",
    MANIFEST: "application/json",
}
"""Name of each file that an event may have, and its content type."""
MAX_MANIFEST_BYTES: Final = 4 << 20

_EVENT_ID = re.compile(EVENT_ID_PATTERN)
_DAY_S: Final = 86_400
_MB: Final = 1_000_000


class _Stored(NamedTuple):
    """The evidence of one event."""

    folder: str
    modified_s: float
    size_bytes: int


def open_files(settings: EvidenceSettings, *, timeout_s: float = 30.0, retries: int = 2) -> EvidenceFiles | None:
    """The place of the settings; None if ``evidence.dir`` is not set. Does not connect.

    ``timeout_s``, ``retries``: of a request to a store that is no folder. Raises ConfigError.
    """
    if settings.dir is None or isinstance(settings.dir, Path):
        return None if settings.dir is None else FolderFiles(settings.dir)
    try:
        from streamer.evidence.bucket import BucketFiles
    except ImportError as error:
        message = f"evidence.dir: {settings.dir} cannot be used: {error}; install it: pip install 'oddsight[s3]'"
        raise ConfigError(message) from error
    return BucketFiles(settings.dir, settings, timeout_s=timeout_s, retries=retries)


class EvidenceStore:
    """Files of events, with limits. Its methods raise StoreUnavailable."""

    def __init__(
        self,
        settings: EvidenceSettings,
        metrics: EvidenceMetrics | None = None,
        wall_clock_s: Callable[[], float] = time.time,
    ) -> None:
        """Raises ConfigError if ``evidence.dir`` is not set, or cannot be written to."""
        files = open_files(settings)
        if files is None:
            raise ConfigError("evidence.dir is not set: name the folder that takes pictures and clips of events")
        files.check()
        self.files, self._settings, self._wall_clock_s = files, settings, wall_clock_s
        self._metrics = metrics or EvidenceMetrics()

    def write(self, event_id: str, started_at_ms: int, name: str, content: bytes) -> None:
        """Write one of an event's files."""
        self.files.write(f"{event_folder(event_id, started_at_ms)}/{name}", content)
        self._metrics.count_file(name, len(content))

    def move(self, path: Path, event_id: str, started_at_ms: int, name: str) -> None:
        """Move a file that was made in the store's scratch folder to one of an event's files."""
        size_bytes = path.stat().st_size
        self.files.move(path, f"{event_folder(event_id, started_at_ms)}/{name}")
        self._metrics.count_file(name, size_bytes)

    def find(self, event_id: str) -> tuple[str, dict[str, Any]] | None:
        """The folder of an event and what is stored of it; None if it has no evidence."""
        if not _EVENT_ID.fullmatch(event_id):
            return None
        for day in reversed(self.files.days()):
            manifest = parse_manifest(self.files.read(f"{day}/{event_id}/{MANIFEST}", MAX_MANIFEST_BYTES))
            if manifest is not None:
                return f"{day}/{event_id}", manifest
        return None

    def sweep(self) -> int:
        """Delete what is too old or beyond the size, the oldest first; how many events lost their evidence."""
        stored = sorted(self._stored(), key=lambda each: each.modified_s)
        left_bytes, deleted = sum(each.size_bytes for each in stored), 0
        oldest_s = self._wall_clock_s() - self._settings.keep_days * _DAY_S
        for each in stored:
            if each.modified_s >= oldest_s and left_bytes <= self._settings.keep_mb * _MB:
                break
            self.files.delete_folder(each.folder)
            self._metrics.count_deleted(each.size_bytes)
            left_bytes, deleted = left_bytes - each.size_bytes, deleted + 1
        self._metrics.stored_bytes.set(left_bytes)
        if deleted:
            log.info("evidence deleted by age or size", events=deleted, left_mb=round(left_bytes / _MB, 1))
        return deleted

    def _stored(self) -> Iterator[_Stored]:
        events = defaultdict[str, list[StoredFile]](list)
        for day in self.files.days():
            for file in self.files.files(day):
                event_id = file.name.split("/")[1]
                if _EVENT_ID.fullmatch(event_id):
                    events[f"{day}/{event_id}"].append(file)
        for folder, files in events.items():
            yield _Stored(folder, max(file.modified_s for file in files), sum(file.size_bytes for file in files))


def event_folder(event_id: str, started_at_ms: int) -> str:
    """Where an event's evidence lies in the store, whether there is any or not. Raises ValueError for what is no event_id."""
    if not _EVENT_ID.fullmatch(event_id):
        raise ValueError(f"an event_id is 16 hexadecimal digits, got {event_id[:40]!r}")
    return f"{datetime.fromtimestamp(started_at_ms / 1000, UTC):%Y-%m-%d}/{event_id}"


def parse_manifest(content: bytes | None) -> dict[str, Any] | None:
    """What is stored of an event; None if nothing is yet, or it is damaged."""
    try:
        manifest = json.loads(content or b"")
    except (ValueError, RecursionError):
        return None
    return manifest if isinstance(manifest, dict) else None
