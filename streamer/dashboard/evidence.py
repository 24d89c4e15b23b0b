"""The evidence of events: pictures, heat maps and clips in a folder or a bucket, which another process writes to."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Final

import structlog
from pydantic import Field, ValidationError

from streamer.dashboard.models import EventRow, Row
from streamer.evidence.feedback import kept_clip
from streamer.evidence.files import EvidenceFiles
from streamer.evidence.store import FILES, MANIFEST, MAX_MANIFEST_BYTES, event_folder
from streamer.interfaces import StoreUnavailable

log = structlog.get_logger("oddsight.dashboard")

MEDIA_TYPES: Final = {name: kind for name, kind in FILES.items() if name != MANIFEST}
"""The files of an event that are given out."""
_AWAY: Final = "the store of evidence does not answer at the moment"
_AT_ONCE: Final = 16


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


class EvidenceReader:
    """Reads evidence. Whatever is missing or damaged is not there; if the store is away, that is said in place of the files."""

    def __init__(self, files: EvidenceFiles | None) -> None:
        self.files = files
        self.failures = 0
        """How often the store did not answer."""
        self.problem: str | None = None
        """Why it does not answer at the moment."""
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="evidence")

    def read(self, row: EventRow, *, scores: bool = False) -> Evidence | None:
        """The evidence of an event; None if there is none. The scores only if asked for."""
        try:
            return self.find(row, scores=scores)
        except StoreUnavailable:
            return Evidence(missing=dict.fromkeys(MEDIA_TYPES, _AWAY))

    def read_all(self, rows: Iterable[EventRow]) -> list[Evidence | None]:
        """The evidence of events, without scores."""
        return list(self._pool.map(self.read, rows))

    def find(self, row: EventRow, *, scores: bool = False) -> Evidence | None:
        """As :meth:`read`. Raises StoreUnavailable, which is counted."""
        folder = folder_of(row)
        if self.files is None or folder is None:
            return None
        try:
            found = {file.name.rpartition("/")[2]: file for file in self.files.files(folder)}
            content = self.files.read(f"{folder}/{MANIFEST}", MAX_MANIFEST_BYTES) if found else None
        except StoreUnavailable as error:
            self.failed(error)
            raise
        self.problem = None
        if not found:
            return None
        evidence = _description(content)
        files = {name: round(found[name].modified_s * 1000) for name in MEDIA_TYPES if name in found}
        return evidence.model_copy(update={"files": files, **({} if scores else {"scores": ()})})

    def keeps(self, row: EventRow) -> bool:
        """Whether the clip of a marked event is kept for training; False while the store is away."""
        if self.files is None or folder_of(row) is None:
            return False
        try:
            return self.files.find(kept_clip(row.event_id)) is not None
        except StoreUnavailable as error:
            self.failed(error)
            return False

    def failed(self, error: StoreUnavailable) -> None:
        """Count that the store did not answer."""
        if self.problem is None:
            log.warning("evidence cannot be read", error=str(error))
        self.failures, self.problem = self.failures + 1, str(error)


def folder_of(row: EventRow) -> str | None:
    """Where the evidence of an event lies; None if its id can have none."""
    try:
        return event_folder(row.event_id, row.started_at_ms)
    except ValueError:
        return None


def _description(content: bytes | None) -> Evidence:
    try:
        return Evidence.model_validate_json(content or b"")
    except ValidationError:
        return Evidence()
