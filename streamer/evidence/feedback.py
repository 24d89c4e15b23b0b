"""The folder of operators' feedback: the clips of marked events and a CSV, as ``oddsight-train fit --feedback`` reads them."""

import csv
import io
import shutil
from pathlib import Path
from typing import Any, Final

import structlog

from streamer.evidence.store import EvidenceStore, read_manifest
from streamer.interfaces import Fields

log = structlog.get_logger("oddsight.evidence")

LABELS: Final = {"true": "anomaly", "false": "normal", "normal": "normal"}
"""Kind of mark -> what training calls it."""
UNMARK: Final = "unmark"
_COLUMNS: Final = ("video", "first_frame", "last_frame", "mark", "x", "y", "width", "height")


class FeedbackFolder:
    """Keeps the clips of marked events, for as long as they are marked, whatever becomes of the events' evidence."""

    def __init__(self, store: EvidenceStore) -> None:
        self._store, self._folder = store, store.feedback_folder
        self._csv = self._folder / "marks.csv"

    def take(self, mark: Fields) -> None:
        """Take up an entry of the stream of marks; other kinds than those above are none of its business. Raises OSError."""
        event_id, kind = mark.get("event_id", ""), mark.get("kind", "")
        if kind not in {*LABELS, UNMARK}:
            return
        rows = {row["video"]: row for row in self._rows()}
        clip = self._folder / f"{event_id}.mp4"
        rows.pop(clip.name, None)
        if kind == UNMARK:
            clip.unlink(missing_ok=True)
        elif (row := self._keep(event_id, clip)) is not None:
            rows[clip.name] = {**row, "mark": LABELS[kind]}
        if rows or self._csv.exists():
            self._write(list(rows.values()))

    def _keep(self, event_id: str, clip: Path) -> dict[str, Any] | None:
        """Copy the clip of an event; what the CSV says of it. None if there is none."""
        folder = self._store.find(event_id)
        manifest = None if folder is None else read_manifest(folder)
        if folder is None or manifest is None or manifest.get("clip") is None:
            log.warning("a mark has no clip to be learned from", event_id=event_id)
            return None
        self._folder.mkdir(exist_ok=True)
        shutil.copyfile(folder / "clip.mp4", clip)
        return {"video": clip.name, **_frames(manifest), **_region(manifest)}

    def _rows(self) -> list[dict[str, str]]:
        try:
            return list(csv.DictReader(io.StringIO(self._csv.read_text(encoding="utf-8"))))
        except FileNotFoundError:
            return []

    def _write(self, rows: list[dict[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS)
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["video"]))
        part = self._csv.with_suffix(".part")
        part.write_text(text.getvalue(), encoding="utf-8")
        part.replace(self._csv)


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
