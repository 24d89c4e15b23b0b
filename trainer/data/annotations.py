"""Operators' feedback on footage: which intervals of a clip are anomalies, and which were false alarms.

A CSV with one line per interval: ``video,first_frame,last_frame,mark``. ``video`` is a video or a folder of images, relative to
the CSV; frames count from 0, both ends included; ``mark`` is ``anomaly`` or ``normal``. ``x,y,width,height`` may follow: the
region of the event in pixels of the original image; then ``camera``, the id of the camera. A folder that holds such a file as
``marks.csv`` stands for it. Or a folder with subfolders ``anomaly/`` and ``normal/`` of clips.
"""

import csv
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from deploy.spec import ClipSpec
from deploy.video import VideoInfo
from trainer.data.footage import VIDEO_SUFFIXES, Footage, LoadFootage, Source, find_sources, footage_info, list_images
from trainer.errors import BadFeedback, NoFootage

ANOMALY, NORMAL = "anomaly", "normal"
COLUMNS = ("video", "first_frame", "last_frame", "mark")
REGION_COLUMNS = ("x", "y", "width", "height")
CAMERA_COLUMNS = ("camera",)
CSV_NAME = "marks.csv"

_MAX_BYTES = 1 << 24


class Region(NamedTuple):
    """A box in pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Annotation:
    """One interval of a clip on disk and its label."""

    source: Source
    first_frame: int
    last_frame: int | None
    """Included; None for the clip's last frame."""
    anomalous: bool
    region: Region | None
    """In pixels of the original image; None for the whole image."""
    where: str
    """File and line of the annotation, for messages."""
    camera_id: str | None = None
    """Empty if it is one that is not known; None where no cameras are named."""


@dataclass(frozen=True, slots=True)
class AnnotatedClip:
    """An annotation and its decoded clip, fitted to a spec."""

    footage: Footage
    """The whole clip."""
    first: int
    last: int
    """Positions in ``footage.frames``, both included."""
    anomalous: bool
    region: Region | None
    """In pixels of the fitted frames; None for the whole frame."""
    where: str


def read_annotations(path: Path) -> list[Annotation]:
    """The annotations in a CSV or a folder.

    Raises:
        BadFeedback: there are none, a line is invalid, or its clip does not exist; names file, line, value and rule.
        NoFootage: ``anomaly/`` or ``normal/`` holds no clip.
    """
    if path.is_dir() and not (path / CSV_NAME).is_file():
        sources = [(name, find_sources(path / name)) for name in (ANOMALY, NORMAL) if (path / name).is_dir()]
        annotations = [
            Annotation(clip, 0, None, name == ANOMALY, None, str(clip.path)) for name, clips in sources for clip in clips
        ]
    else:
        file = path / CSV_NAME if path.is_dir() else path
        annotations = parse_annotations(_read_text(file).splitlines(), file)
    if not annotations:
        raise BadFeedback(f"{path} has no annotation; write a line per interval, or put clips into {ANOMALY}/ or {NORMAL}/")
    for annotation in annotations:
        clip = annotation.source.path
        try:
            is_clip = clip.suffix.lower() in VIDEO_SUFFIXES if clip.is_file() else clip.is_dir() and bool(list_images(clip))
        except OSError as error:
            raise BadFeedback(f"{annotation.where}: {annotation.source.name[:80]!r} cannot be read: {error.strerror}") from error
        if not is_clip:
            raise BadFeedback(f"{annotation.where}: {clip} is no video and no folder of images; video is relative to the CSV")
    return annotations


def _read_text(path: Path) -> str:
    try:
        size_bytes = path.stat().st_size
        if size_bytes > _MAX_BYTES:
            raise BadFeedback(f"{path} has {size_bytes} bytes; at most {_MAX_BYTES} are accepted")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadFeedback(f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}); give a CSV") from error
    except OSError as error:
        raise BadFeedback(f"{path} cannot be read: {error.strerror}; give a CSV, or a folder of clips") from error


def parse_annotations(lines: Iterable[str], path: Path) -> list[Annotation]:
    """The annotations in the lines of a CSV at ``path``; clips are not looked for. Raises BadFeedback if a line is invalid."""
    reader = csv.reader(lines, strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise BadFeedback(f"{path}: line {reader.line_num} is not valid CSV: {error}") from error
    header = tuple(rows[0][1]) if rows else ()
    if header not in (COLUMNS, COLUMNS + REGION_COLUMNS, COLUMNS + REGION_COLUMNS + CAMERA_COLUMNS):
        raise BadFeedback(
            f"{path}: line 1 must be {','.join(COLUMNS)!r}, or the same and {','.join(REGION_COLUMNS)!r}, "
            f"then {','.join(CAMERA_COLUMNS)!r} if you like, got {','.join(header)[:80]!r}"
        )
    return [_parse_row(f"{path}: line {number}", row, header, path.parent) for number, row in rows[1:] if any(row)]


def _parse_row(where: str, row: list[str], header: tuple[str, ...], folder: Path) -> Annotation:
    if len(row) != len(header):
        raise BadFeedback(f"{where} must have the {len(header)} values {','.join(header)}, got {','.join(row)[:80]!r}")
    video, first, last, mark = row[: len(COLUMNS)]
    if not video or "\0" in video:
        raise BadFeedback(f"{where}: video must be a file or a folder of images, got {video[:80]!r}")
    if mark not in (ANOMALY, NORMAL):
        raise BadFeedback(f"{where}: mark must be {ANOMALY!r} or {NORMAL!r}, got {mark[:80]!r}")
    first_frame, last_frame = _parse_number(where, "first_frame", first), _parse_number(where, "last_frame", last)
    if last_frame < first_frame:
        raise BadFeedback(f"{where}: last_frame {last_frame} must not come before first_frame {first_frame}")
    region = _parse_region(where, row[len(COLUMNS) : len(COLUMNS + REGION_COLUMNS)])
    camera_id = row[-1] if header[-1:] == CAMERA_COLUMNS else None
    return Annotation(Source(video, folder / video), first_frame, last_frame, mark == ANOMALY, region, where, camera_id)


def _parse_region(where: str, cells: list[str]) -> Region | None:
    if not any(cells):
        return None
    region = Region(*(_parse_number(where, name, cell) for name, cell in zip(REGION_COLUMNS, cells, strict=True)))
    if not region.width or not region.height:
        raise BadFeedback(f"{where}: width and height must be 1 pixel or more, got {region.width} x {region.height}")
    return region


def _parse_number(where: str, name: str, cell: str) -> int:
    # int() would also accept 1_000, and digits of other scripts.
    if not (cell.isascii() and cell.isdigit() and len(cell) <= 9):
        raise BadFeedback(f"{where}: {name} must be a whole number from 0 on, got {cell[:80]!r}")
    return int(cell)


def require_apart(annotations: Iterable[Annotation], normal: Iterable[Source]) -> None:
    """Raise BadFeedback if an anomaly lies in one of the ``normal`` sources."""
    normal_paths = {source.path.resolve() for source in normal}
    for annotation in annotations:
        if annotation.anomalous and annotation.source.path.resolve() in normal_paths:
            raise BadFeedback(
                f"{annotation.where} marks an anomaly in {annotation.source.path}, which --data also gives as normal footage; "
                "take the clip out of --data"
            )


def load_annotated_clips(
    annotations: Sequence[Annotation], normal: Iterable[Source], spec: ClipSpec, load: LoadFootage
) -> tuple[AnnotatedClip, ...]:
    """Decode the annotated clips, each once, and fit intervals and regions to them.

    Raises:
        BadFeedback: an interval or a region lies outside its clip, or an anomaly in one of the ``normal`` sources.
    """
    require_apart(annotations, normal)
    clips: dict[Path, tuple[Footage, VideoInfo]] = {}
    for annotation in annotations:
        source = annotation.source
        if source.path not in clips:
            try:
                clips[source.path] = load(source, spec), footage_info([source])
            except NoFootage as error:
                raise BadFeedback(f"{annotation.where}: {error}") from error
    return tuple(_fitted(annotation, *clips[annotation.source.path], spec) for annotation in annotations)


def _fitted(annotation: Annotation, footage: Footage, info: VideoInfo, spec: ClipSpec) -> AnnotatedClip:
    where, video = annotation.where, annotation.source.name
    last_frame = footage.total - 1 if annotation.last_frame is None else annotation.last_frame
    if last_frame >= footage.total:
        raise BadFeedback(f"{where}: {video!r} has frames 0 to {footage.total - 1}, the interval ends at {last_frame}")
    first, end = footage.index.searchsorted([annotation.first_frame, last_frame + 1]).tolist()
    if first == end:
        raise BadFeedback(f"{where}: none of frames {annotation.first_frame} to {last_frame} of {video!r} can be read")
    region = annotation.region and _fitted_region(annotation.region, where, info, spec)
    return AnnotatedClip(footage, first, end - 1, annotation.anomalous, region, where)


def _fitted_region(region: Region, where: str, info: VideoInfo, spec: ClipSpec) -> Region:
    right, bottom = region.x + region.width, region.y + region.height
    if right > info.width_px or bottom > info.height_px:
        raise BadFeedback(
            f"{where}: the region {','.join(map(str, region))} reaches to {right},{bottom}, outside the image of "
            f"{info.width_px} x {info.height_px} pixels"
        )
    # Grown to whole pixels of the spec's frames.
    left, top = region.x * spec.width_px // info.width_px, region.y * spec.height_px // info.height_px
    right, bottom = -(-right * spec.width_px // info.width_px), -(-bottom * spec.height_px // info.height_px)
    return Region(left, top, right - left, bottom - top)


def annotations_hash(clips: Sequence[AnnotatedClip]) -> str | None:
    """A hash of all annotations, None if there are none."""
    if not clips:
        return None
    content = [[c.footage.name, c.footage.total, c.first, c.last, c.anomalous, c.region] for c in clips]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
