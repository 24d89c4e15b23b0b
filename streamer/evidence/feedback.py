"""The folder of operators' feedback: the clips of marked events and a CSV, as ``oddsight-train fit --feedback`` reads them."""

import csv
import io
import re
from typing import Any, Final

import structlog

from streamer.evidence.store import EvidenceStore
from streamer.interfaces import Fields
from streamer.types import EVENT_ID_PATTERN

log = structlog.get_logger("oddsight.evidence")

LABELS: Final = {"true": "anomaly", "false": "normal", "normal": "normal"}
"""Kind of mark -> what training calls it."""
UNMARK: Final = "unmark"
_FOLDER: Final = "feedback"
"""In the store; what lies there is not deleted by age or size."""
_CSV: Final = f"{_FOLDER}/marks.csv"
_MAX_CSV_BYTES: Final = 100_000_000
_COLUMNS: Final = ("video", "first_frame", "last_frame", "mark", "x", "y", "width", "height", "camera")


def kept_clip(event_id: str) -> str:
    """Where the clip of a marked event is kept, in the store."""
    return f"{_FOLDER}/{event_id}.mp4"


class FeedbackFolder:
    """Keeps the clips of marked events, for as long as they are marked, whatever becomes of the events' evidence."""

    def __init__(self, store: EvidenceStore) -> None:
        self._store, self._files = store, store.files

    def take(self, mark: Fields) -> None:
        """Take up an entry of the stream of marks; other kinds than those above are none of its business.

        Raises StoreUnavailable: take it up again later.
        """
        event_id, kind = mark.get("event_id", ""), mark.get("kind", "")
        if kind not in {*LABELS, UNMARK} or not re.fullmatch(EVENT_ID_PATTERN, event_id):
            return
        rows = {row["video"]: row for row in self._rows()}
        clip = f"{event_id}.mp4"
        was_marked = rows.pop(clip, None) is not None
        if kind == UNMARK:
            self._files.delete(kept_clip(event_id))
        elif (row := self._keep(event_id, clip)) is not None:
            rows[clip] = {**row, "mark": LABELS[kind]}
        if rows or was_marked:
            self._write(list(rows.values()))

    def _keep(self, event_id: str, clip: str) -> dict[str, Any] | None:
        """Copy the clip of an event; what the CSV says of it. None if there is none."""
        found = self._store.find(event_id)
        if found is None or found[1].get("clip") is None or self._files.find(f"{found[0]}/clip.mp4") is None:
            log.warning("a mark has no clip to be learned from", event_id=event_id)
            return None
        folder, manifest = found
        try:
            about = {**_frames(manifest), **_region(manifest), "camera": manifest["camera_id"]}
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            log.warning("what is stored of a marked event is damaged", event_id=event_id, error=repr(error))
            return None
        self._files.copy(f"{folder}/clip.mp4", kept_clip(event_id))
        return {"video": clip, **about}

    def _rows(self) -> list[dict[str, str]]:
        content = self._files.read(_CSV, _MAX_CSV_BYTES)
        return [] if content is None else list(csv.DictReader(io.StringIO(content.decode(errors="replace"))))

    def _write(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS)
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["video"]))
        self._files.write(_CSV, text.getvalue().encode())


def _frames(manifest: dict[str, Any]) -> dict[str, int]:
    """The frames of the clip that show the event; its frames lie about evenly in time."""
    clip = manifest["clip"]
    last = clip["frames"] - 1
    per_ms = last / max(1, clip["to_ms"] - clip["from_ms"])
    first, final = (
        min(last, max(0, round((manifest[name] - clip["from_ms"]) * per_ms))) for name in ("started_at_ms", "ended_at_ms")
    )
    return {"first_frame": first, "last_frame": max(first, final)}


def _region(manifest: dict[str, Any]) -> dict[str, int]:
    """The region, in pixels of the clip; nothing if it is not known."""
    clip, region, width_px = manifest["clip"], manifest.get("region"), manifest.get("width_px")
    if not region or not width_px:
        return {}
    scale = clip["width_px"] / width_px
    x, y, width, height = (round(value * scale) for value in region)
    return {"x": x, "y": y, "width": max(1, width), "height": max(1, height)}
