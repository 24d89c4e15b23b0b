"""Stretches that operators marked, decoded and fitted to a spec like all footage."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.spec import ClipSpec
from trainer.errors import BadFeedback, NoFootage
from trainer.feedback import Mark, MarkedSource, Region
from trainer.footage import Footage, FootageShape, Source, footage_shape

Load = Callable[[Source, ClipSpec], Footage]


@dataclass(frozen=True, slots=True)
class Marked:
    """A stretch of a clip and what was said of it."""

    footage: Footage
    """The whole clip."""
    first: int
    last: int
    """Numbers of readable frames, from 0, both ends included."""
    anomalous: bool
    region: Region | None
    """In pixels of the fitted frames; None: somewhere in them."""
    where: str
    """Where the mark is written, for messages."""


def load_marked(marks: Sequence[MarkedSource], learned: Iterable[Source], spec: ClipSpec, load: Load) -> tuple[Marked, ...]:
    """Decode the clips, each of them once.

    Raises:
        BadFeedback: a stretch or a region lies outside its clip, or an anomaly in one of the ``learned`` clips, which count as
            normal.
    """
    _refuse_contradictions(marks, learned)
    clips: dict[Path, tuple[Footage, FootageShape]] = {}
    for marked in marks:
        if marked.source.path not in clips:
            clips[marked.source.path] = _clip(marked, spec, load)
    return tuple(_fitted(marked.mark, *clips[marked.source.path], spec) for marked in marks)


def fingerprint(marked: Sequence[Marked]) -> str | None:
    """A hash of all that was said; None where nothing was."""
    if not marked:
        return None
    said: list[Any] = [[m.footage.name, m.footage.total, m.first, m.last, m.anomalous, m.region] for m in marked]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _refuse_contradictions(marks: Sequence[MarkedSource], learned: Iterable[Source]) -> None:
    normal = {source.path.resolve() for source in learned}
    for marked in marks:
        if marked.mark.anomalous and marked.source.path.resolve() in normal:
            raise BadFeedback(
                f"{marked.mark.where} marks an anomaly in {marked.source.path}, which is also learned from as normal footage; "
                "take the clip out of --data"
            )


def _clip(marked: MarkedSource, spec: ClipSpec, load: Load) -> tuple[Footage, FootageShape]:
    try:
        return load(marked.source, spec), footage_shape([marked.source])
    except NoFootage as error:
        raise BadFeedback(f"{marked.mark.where}: {error}") from error


def _fitted(mark: Mark, footage: Footage, shape: FootageShape, spec: ClipSpec) -> Marked:
    last_frame = footage.total - 1 if mark.last_frame is None else mark.last_frame
    if last_frame >= footage.total:
        raise BadFeedback(f"{mark.where}: {mark.video!r} has frames 0 to {footage.total - 1}, the stretch ends at {last_frame}")
    first, after = footage.index.searchsorted([mark.first_frame, last_frame + 1]).tolist()
    if first == after:
        raise BadFeedback(f"{mark.where}: none of frames {mark.first_frame} to {last_frame} of {mark.video!r} can be read")
    region = None if mark.region is None else _fitted_region(mark.region, mark, shape, spec)
    return Marked(footage, first, after - 1, mark.anomalous, region, mark.where)


def _fitted_region(region: Region, mark: Mark, shape: FootageShape, spec: ClipSpec) -> Region:
    """The region in frames of the spec, grown to whole pixels."""
    right, bottom = region.x + region.width, region.y + region.height
    if right > shape.width_px or bottom > shape.height_px:
        raise BadFeedback(
            f"{mark.where}: the region {','.join(map(str, region))} reaches to {right},{bottom}, outside the picture of "
            f"{shape.width_px} x {shape.height_px} pixels"
        )
    left, top = region.x * spec.width_px // shape.width_px, region.y * spec.height_px // shape.height_px
    right, bottom = -(-right * spec.width_px // shape.width_px), -(-bottom * spec.height_px // shape.height_px)
    return Region(left, top, right - left, bottom - top)
