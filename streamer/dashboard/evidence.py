"""The evidence of events: pictures, heat maps and clips in a folder, which another process writes and deletes from."""

import re
import stat
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, ValidationError

from deploy.files import open_inside
from streamer.dashboard.models import EventRow, Row
from streamer.evidence.store import FILES, MANIFEST, event_folder
from streamer.types import EVENT_ID_PATTERN

MEDIA_TYPES: Final = {name: kind for name, kind in FILES.items() if name != MANIFEST}
"""The files of an event that are given out."""
_MAX_DESCRIPTION_BYTES: Final = 4 << 20


Pixels = Annotated[float, Field(ge=0, le=100_000)]
Side = Annotated[int, Field(ge=1, le=100_000)]


class Clip(Row):
    """What the clip shows, in capture times."""

    from_ms: int
    to_ms: int
    frames: int


class Description(Row):
    """What ``evidence.json`` says."""

    captured_at_ms: int | None = None
    """Of the picture."""
    width_px: Side | None = None
    height_px: Side | None = None
    """Size of the picture."""
    region: tuple[Pixels, Pixels, Pixels, Pixels] | None = None
    """x, y, width, height in pixels of the picture."""
    clip: Clip | None = None
    missing: dict[str, str] = Field(default_factory=dict)
    """File and why there is none."""


class Evidence(Description):
    """The evidence of an event that is there now."""

    files: dict[str, int] = Field(default_factory=dict)
    """File and when it was written, in milliseconds since the Unix epoch."""
    scores: tuple[tuple[float, float | None, float | None], ...] = ()
    """Capture time, score and threshold around the event."""


class EvidenceFolder:
    """Reads the folder of the evidence. Whatever is missing or cannot be read is not there."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def read(self, row: EventRow, *, scores: bool = False) -> Evidence | None:
        """The evidence of an event; None if there is none. The scores only if asked for."""
        folder = self._folder_of(row)
        if folder is None or not folder.is_dir():
            return None
        files = {name: time_ms for name in MEDIA_TYPES if (time_ms := _written_ms(folder / name)) is not None}
        evidence = _read_description(folder)
        if not scores:
            evidence = evidence.model_copy(update={"scores": ()})
        return evidence.model_copy(update={"files": files})

    def file(self, row: EventRow, name: str) -> Path | None:
        """The path of one of the event's files, if it is there."""
        folder = self._folder_of(row)
        if folder is None or name not in MEDIA_TYPES or _written_ms(folder / name) is None:
            return None
        return folder / name

    def _folder_of(self, row: EventRow) -> Path | None:
        if self._folder is None or not re.fullmatch(EVENT_ID_PATTERN, row.event_id):
            return None
        return event_folder(self._folder, row.event_id, row.started_at_ms)


def _written_ms(path: Path) -> int | None:
    """When a regular file was written, None if there is no such file; symbolic links are not followed."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_mtime_ns // 1_000_000 if stat.S_ISREG(found.st_mode) else None


def _read_description(folder: Path) -> Evidence:
    try:
        with open_inside(folder, MANIFEST) as file:
            return Evidence.model_validate_json(file.read(_MAX_DESCRIPTION_BYTES))
    except (OSError, ValidationError):
        return Evidence()
