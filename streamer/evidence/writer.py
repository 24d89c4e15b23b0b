"""Makes the evidence of one event: its picture at once, its clip when it is over."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np

from deploy.errors import BadFrame
from deploy.image import image_size, imdecode
from deploy.video import Mp4Writer
from streamer.areas import Polygon
from streamer.evidence.footage import EventFootage, SentFrame
from streamer.evidence.pictures import Picture, decode_picture, encode_picture, masked, overlay
from streamer.evidence.store import MANIFEST, EvidenceStore
from streamer.pipeline.areas import KnownAreas
from streamer.pipeline.decide import hot_region
from streamer.redis.evidence import EventHeatmap
from streamer.types import Event, Partition

PICTURE_PX: Final = 1280
CLIP_PX: Final = 960

Scores = Sequence[tuple[int, float, float]]
"""Capture time, score and threshold of frames."""


class EventSpan(NamedTuple):
    """An event, and how much of it its clip shows, in capture times."""

    event: Event
    from_ms: int
    until_ms: int
    ended_at_ms: int
    """When the part of the event that is shown ends."""


class EvidenceWriter:
    """Writes to the store. Its methods raise BrokerUnavailable, StoreUnavailable or OSError: try again later."""

    def __init__(self, areas: KnownAreas, store: EvidenceStore, footage: EventFootage) -> None:
        self._areas, self._store, self._footage = areas, store, footage

    def write_picture(self, event: Event, heatmap: EventHeatmap | None, usual: Picture | None) -> dict[str, Any]:
        """Write the picture of the event with its heat map, and what is usual there; what the manifest says of them.

        ``heatmap``: the highest so far; without one the picture is that of the event's first entry.
        """
        masks = self._areas.masks(event.camera_id)
        where = Partition(event.topic, event.partition), event.offset
        captured_at_ms = event.captured_at_ms
        if heatmap is not None:
            where, captured_at_ms = (heatmap.partition, heatmap.offset), heatmap.captured_at_ms
        encoded, missing = self._footage.frame(*where), {}
        about: dict[str, Any] = {"captured_at_ms": captured_at_ms}
        try:
            picture = decode_picture(encoded or b"", PICTURE_PX, masks)
        except BadFrame as error:
            missing["picture.jpg"] = "Kafka no longer has the frame" if encoded is None else str(error)
        else:
            region = None if heatmap is None else _region(heatmap.png, picture)
            about |= {"width_px": picture.shape[1], "height_px": picture.shape[0], "region": region}
            self._write(event, "picture.jpg", encode_picture(picture))
            if usual is not None:
                # Masked again: it was made of pictures from before a mask was drawn, too.
                shown = masked(_resized(usual, picture.shape[1], picture.shape[0]), masks)
                self._write(event, "usual.jpg", encode_picture(shown))
        if heatmap is None:
            missing["heatmap.png"] = "the engine gave no heat map"
        else:
            with suppress(BadFrame):  # of another version
                self._write(event, "heatmap.png", overlay(heatmap.png, masks))
        return {**about, "missing": missing}

    def write_clip(self, span: EventSpan) -> dict[str, Any]:
        """Write the clip of an event; what the manifest says of it."""
        frames = self._footage.clip(span.event, span.from_ms, span.until_ms)
        path = self._store.files.scratch(f"{span.event.event_id}.mp4")
        try:
            written = _write_mp4(path, frames, self._areas.masks(span.event.camera_id))
            if written:
                self._store.move(path, span.event.event_id, span.event.started_at_ms, "clip.mp4")
        finally:
            path.unlink(missing_ok=True)
        if not written:
            return {"clip": None, "missing": {"clip.mp4": "Kafka no longer has the frames"}}
        times = {"from_ms": frames[0].captured_at_ms, "to_ms": frames[-1].captured_at_ms}
        return {"clip": {**times, **written._asdict()}}

    def write_manifest(self, event: Event, content: dict[str, Any], scores: Scores) -> None:
        """Write what there is, and what is missing, last of all."""
        origin = {"event_id": event.event_id, "camera_id": event.camera_id, "started_at_ms": event.started_at_ms}
        about = {"schema": 1, **origin, **content, "scores": scores}
        self._write(event, MANIFEST, json.dumps(about).encode())

    def _write(self, event: Event, name: str, content: bytes) -> None:
        self._store.write(event.event_id, event.started_at_ms, name, content)


class _Written(NamedTuple):
    """A clip that was written."""

    frames: int
    width_px: int
    height_px: int


def _write_mp4(path: Path, frames: Sequence[SentFrame], masks: Sequence[Polygon]) -> _Written | None:
    """Frames that cannot be decoded, or do not follow in time, are left out; None if none is left."""
    pictures = _decoded(frames, masks)
    first = next(pictures, None)
    if first is None:
        return None
    height_px, width_px = first[1].shape[:2]
    written = 0
    with closing(Mp4Writer(path, width_px, height_px)) as writer:
        for time_ms, picture in chain([first], pictures):
            writer.add(_resized(picture, width_px, height_px), time_ms)
            written += 1
    return _Written(written, width_px, height_px)


def _region(heatmap_png: bytes, picture: Picture) -> list[int] | None:
    """``x, y, width, height`` of the hottest part in pixels of the picture; None for a heat map of another version."""
    try:
        image_size(heatmap_png)
        levels = imdecode(heatmap_png, cv2.IMREAD_GRAYSCALE)
    except BadFrame:
        return None
    return [int(text) for text in hot_region(levels.astype(np.float32), picture.shape[1], picture.shape[0]).split(",")]


def _decoded(frames: Sequence[SentFrame], masks: Sequence[Polygon]) -> Iterator[tuple[int, Picture]]:
    """Pictures with the time since the first, which increases."""
    begin_ms = last_ms = None
    for captured_at_ms, encoded in frames:
        if last_ms is None or captured_at_ms > last_ms:
            with suppress(BadFrame):
                picture = decode_picture(encoded, CLIP_PX, masks)
                begin_ms, last_ms = captured_at_ms if begin_ms is None else begin_ms, captured_at_ms
                yield captured_at_ms - begin_ms, picture


def _resized(picture: Picture, width_px: int, height_px: int) -> Picture:
    if picture.shape[:2] == (height_px, width_px):
        return picture
    return np.asarray(cv2.resize(picture, (width_px, height_px), interpolation=cv2.INTER_AREA), np.uint8)
