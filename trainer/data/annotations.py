"""Stretches that operators marked, decoded and fitted to a spec like all footage.

What operators said of footage: which stretches are anomalies, and which were false alarms.

A CSV with a line for every stretch: ``video,first_frame,last_frame,mark``. ``video`` is a video or a folder of frames, relative
to the CSV; frames are counted from 0, both ends included; ``mark`` is ``anomaly`` or ``normal``. ``x,y,width,height`` may follow,
the region of the event in pixels of the original picture. Or a folder with ``anomaly/`` and ``normal/`` in it, which hold clips.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from deploy.spec import ClipSpec
from deploy.video import VideoInfo
from trainer.data.footage import VIDEO_SUFFIXES, Footage, Source, find_sources, footage_info, list_images
from trainer.errors import BadFeedback, NoFootage

ANOMALY, NORMAL = "anomaly", "normal"
COLUMNS = ("video", "first_frame", "last_frame", "mark")
REGION_COLUMNS = ("x", "y", "width", "height")

_HEADERS = (COLUMNS, (*COLUMNS, *REGION_COLUMNS))
_MOST_BYTES = 1 << 24
_MOST_DIGITS = 9


class Region(NamedTuple):
    """A box in pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Annotation:
    """What was said of one stretch of a clip."""

    video: str
    first_frame: int
    last_frame: int | None
    """Included; None: to the clip's end."""
    anomalous: bool
    region: Region | None
    """In pixels of the original picture; None: somewhere in it."""
    where: str
    """Where it is written, for messages: file and line."""


@dataclass(frozen=True, slots=True)
class AnnotatedSource:
    """A mark and the clip on disk that it speaks of."""

    mark: Annotation
    source: Source


def read_annotations(path: Path) -> list[AnnotatedSource]:
    """The marks of a CSV or a folder.

    Raises:
        BadFeedback: nothing is there, a line breaks its rule, or there is no such clip; names file, line, value and rule.
        NoFootage: ``anomaly/`` or ``normal/`` holds no clip.
    """
    found = list(_from_folder(path) if path.is_dir() else _from_csv(path))
    if not found:
        raise BadFeedback(f"{path} marks nothing; write a line for every stretch, or put clips into {ANOMALY}/ or {NORMAL}/")
    return found


def annotated_sources(said: Iterable[AnnotatedSource]) -> list[Source]:
    """Every clip that was spoken of, once."""
    return list({marked.source.path: marked.source for marked in said}.values())


def parse_annotations(lines: Iterable[str], name: str) -> list[Annotation]:
    """The marks of a CSV that is called ``name`` in messages.

    Raises:
        BadFeedback: a line breaks its rule; names line, value and rule.
    """
    reader = csv.reader(lines, strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise BadFeedback(f"{name}: line {reader.line_num} is no line of a table: {error}") from error
    header = tuple(rows[0][1]) if rows else ()
    if header not in _HEADERS:
        raise BadFeedback(
            f"{name}: line 1 must be {','.join(COLUMNS)!r}, or the same and {','.join(REGION_COLUMNS)!r}, "
            f"got {','.join(header)[:80]!r}"
        )
    return [_mark(f"{name}: line {number}", row, header) for number, row in rows[1:] if any(row)]


def _mark(where: str, row: list[str], header: tuple[str, ...]) -> Annotation:
    if len(row) != len(header):
        raise BadFeedback(f"{where} must have the {len(header)} values {','.join(header)}, got {','.join(row)[:80]!r}")
    video, first, last, mark = row[: len(COLUMNS)]
    if not video or "\0" in video:
        raise BadFeedback(f"{where}: video must be a file or a folder of frames, got {video[:80]!r}")
    if mark not in (ANOMALY, NORMAL):
        raise BadFeedback(f"{where}: mark must be {ANOMALY!r} or {NORMAL!r}, got {mark[:80]!r}")
    first_frame, last_frame = _number(where, "first_frame", first), _number(where, "last_frame", last)
    if last_frame < first_frame:
        raise BadFeedback(f"{where}: last_frame {last_frame} must not come before first_frame {first_frame}")
    return Annotation(video, first_frame, last_frame, mark == ANOMALY, _region(where, row[len(COLUMNS) :]), where)


def _region(where: str, cells: list[str]) -> Region | None:
    if not any(cells):
        return None
    region = Region(*(_number(where, name, cell) for name, cell in zip(REGION_COLUMNS, cells, strict=True)))
    if not region.width or not region.height:
        raise BadFeedback(f"{where}: width and height must be 1 pixel or more, got {region.width} x {region.height}")
    return region


def _number(where: str, name: str, cell: str) -> int:
    # int() would also take 1_000, and digits of other scripts.
    if not (cell.isascii() and cell.isdigit() and len(cell) <= _MOST_DIGITS):
        raise BadFeedback(f"{where}: {name} must be a whole number from 0 on, got {cell[:80]!r}")
    return int(cell)


def _from_csv(path: Path) -> Iterator[AnnotatedSource]:
    for mark in parse_annotations(_text(path).splitlines(), str(path)):
        yield AnnotatedSource(mark, _source(path.parent / mark.video, mark))


def _text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise BadFeedback(f"{path} has {size} bytes, more than {_MOST_BYTES}; give a table of marks")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadFeedback(f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}); give a table of marks") from error
    except OSError as error:
        raise BadFeedback(f"{path} cannot be read: {error.strerror}; give a CSV of marks, or a folder") from error


def _source(path: Path, mark: Annotation) -> Source:
    try:
        usable = path.suffix.lower() in VIDEO_SUFFIXES if path.is_file() else path.is_dir() and bool(list_images(path))
    except OSError as error:
        raise BadFeedback(f"{mark.where}: {mark.video[:80]!r} cannot be looked at: {error.strerror}") from error
    if not usable:
        raise BadFeedback(f"{mark.where}: {path} is no video and no folder of frames; video is relative to the CSV")
    return Source(mark.video, path)


def _from_folder(path: Path) -> Iterator[AnnotatedSource]:
    for name in (ANOMALY, NORMAL):
        folder = path / name
        for source in find_sources(folder) if folder.is_dir() else ():
            video = f"{name}/{source.path.name}"
            yield AnnotatedSource(Annotation(video, 0, None, name == ANOMALY, None, str(source.path)), source)


Load = Callable[[Source, ClipSpec], Footage]


@dataclass(frozen=True, slots=True)
class AnnotatedClip:
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


def load_annotated_clips(
    marks: Sequence[AnnotatedSource], learned: Iterable[Source], spec: ClipSpec, load: Load
) -> tuple[AnnotatedClip, ...]:
    """Decode the clips, each of them once.

    Raises:
        BadFeedback: a stretch or a region lies outside its clip, or an anomaly in one of the ``learned`` clips, which count as
            normal.
    """
    _refuse_contradictions(marks, learned)
    clips: dict[Path, tuple[Footage, VideoInfo]] = {}
    for marked in marks:
        if marked.source.path not in clips:
            clips[marked.source.path] = _clip(marked, spec, load)
    return tuple(_fitted(marked.mark, *clips[marked.source.path], spec) for marked in marks)


def annotations_hash(marked: Sequence[AnnotatedClip]) -> str | None:
    """A hash of all that was said; None where nothing was."""
    if not marked:
        return None
    said: list[Any] = [[m.footage.name, m.footage.total, m.first, m.last, m.anomalous, m.region] for m in marked]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _refuse_contradictions(marks: Sequence[AnnotatedSource], learned: Iterable[Source]) -> None:
    normal = {source.path.resolve() for source in learned}
    for marked in marks:
        if marked.mark.anomalous and marked.source.path.resolve() in normal:
            raise BadFeedback(
                f"{marked.mark.where} marks an anomaly in {marked.source.path}, which is also learned from as normal footage; "
                "take the clip out of --data"
            )


def _clip(marked: AnnotatedSource, spec: ClipSpec, load: Load) -> tuple[Footage, VideoInfo]:
    try:
        return load(marked.source, spec), footage_info([marked.source])
    except NoFootage as error:
        raise BadFeedback(f"{marked.mark.where}: {error}") from error


def _fitted(mark: Annotation, footage: Footage, shape: VideoInfo, spec: ClipSpec) -> AnnotatedClip:
    last_frame = footage.total - 1 if mark.last_frame is None else mark.last_frame
    if last_frame >= footage.total:
        raise BadFeedback(f"{mark.where}: {mark.video!r} has frames 0 to {footage.total - 1}, the stretch ends at {last_frame}")
    first, after = footage.index.searchsorted([mark.first_frame, last_frame + 1]).tolist()
    if first == after:
        raise BadFeedback(f"{mark.where}: none of frames {mark.first_frame} to {last_frame} of {mark.video!r} can be read")
    region = None if mark.region is None else _fitted_region(mark.region, mark, shape, spec)
    return AnnotatedClip(footage, first, after - 1, mark.anomalous, region, mark.where)


def _fitted_region(region: Region, mark: Annotation, shape: VideoInfo, spec: ClipSpec) -> Region:
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
