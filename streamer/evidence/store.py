"""The folder of evidence: one folder for each event, in one for each day, with limits of age and size."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog

from deploy.errors import ConfigError
from streamer.config import EvidenceSettings
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

_EVENT_ID = re.compile(EVENT_ID_PATTERN)
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_DAY_S: Final = 86_400
_MB: Final = 1_000_000


class _Stored(NamedTuple):
    """The folder of one event."""

    path: Path
    modified_s: float
    size_bytes: int


class EvidenceStore:
    """Files of events. Each is written whole or not at all, so that others may read them at any time."""

    def __init__(self, settings: EvidenceSettings, wall_clock_s: Callable[[], float] = time.time) -> None:
        """Raises ConfigError if ``evidence.dir`` is not set, or cannot be written to."""
        if settings.dir is None:
            raise ConfigError("evidence.dir is not set: name the folder that takes pictures and clips of events")
        self._root, self._settings, self._wall_clock_s = settings.dir, settings, wall_clock_s
        try:
            self._root.mkdir(mode=0o750, parents=True, exist_ok=True)  # pictures of people are not for everybody
            (self._root / ".trial").write_bytes(b"")
            (self._root / ".trial").unlink()
        except OSError as error:
            raise ConfigError(f"evidence.dir: {self._root} cannot be written to: {error.strerror}") from error

    def write(self, event_id: str, started_at_ms: int, name: str, content: bytes) -> None:
        """Write one of an event's files. Raises OSError."""
        folder = event_folder(self._root, event_id, started_at_ms)
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{name}.part"
        part.write_bytes(content)
        part.replace(folder / name)

    def move(self, event_id: str, started_at_ms: int, name: str, path: Path) -> None:
        """Move a file of the same disk to one of an event's files. Raises OSError."""
        folder = event_folder(self._root, event_id, started_at_ms)
        folder.mkdir(parents=True, exist_ok=True)
        path.replace(folder / name)

    def scratch(self, name: str) -> Path:
        """Where a file can be made that is to be moved into the store."""
        folder = self._root / ".parts"
        folder.mkdir(exist_ok=True)
        return folder / name

    @property
    def feedback_folder(self) -> Path:
        """Where clips lie that operators have marked; they are not deleted."""
        return self._root / "feedback"

    def find(self, event_id: str) -> Path | None:
        """The folder of an event, None if it has no evidence."""
        if not _EVENT_ID.fullmatch(event_id):
            return None
        return next((day / event_id for day in self._days() if (day / event_id).is_dir()), None)

    def sweep(self) -> int:
        """Delete what is too old or beyond the size, the oldest first; how many events lost their evidence."""
        stored = sorted(self._stored(), key=lambda each: each.modified_s)
        size_bytes, deleted = sum(each.size_bytes for each in stored), 0
        oldest_s = self._wall_clock_s() - self._settings.keep_days * _DAY_S
        for each in stored:
            if each.modified_s >= oldest_s and size_bytes <= self._settings.keep_mb * _MB:
                break
            shutil.rmtree(each.path, ignore_errors=True)
            size_bytes -= each.size_bytes
            deleted += 1
        for day in self._days():
            if not any(day.iterdir()):
                day.rmdir()
        if deleted:
            log.info("evidence deleted by age or size", events=deleted, left_mb=round(size_bytes / _MB, 1))
        return deleted

    def _days(self) -> list[Path]:
        return [path for path in self._root.iterdir() if _DAY.fullmatch(path.name) and path.is_dir()]

    def _stored(self) -> Iterator[_Stored]:
        for day in self._days():
            for path in day.iterdir():
                if _EVENT_ID.fullmatch(path.name) and path.is_dir():
                    with os.scandir(path) as files:
                        stats = [file.stat(follow_symlinks=False) for file in files]
                    newest_s = max((stat.st_mtime for stat in stats), default=0.0)
                    yield _Stored(path, newest_s, sum(stat.st_size for stat in stats))


def event_folder(root: Path, event_id: str, started_at_ms: int) -> Path:
    """Where an event's evidence lies, whether there is any or not. Raises ValueError for what is no event_id."""
    if not _EVENT_ID.fullmatch(event_id):
        raise ValueError(f"an event_id is 16 hexadecimal digits, got {event_id[:40]!r}")
    return root / datetime.fromtimestamp(started_at_ms / 1000, UTC).strftime("%Y-%m-%d") / event_id


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What is stored of an event; None if nothing is yet, or it is damaged."""
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
