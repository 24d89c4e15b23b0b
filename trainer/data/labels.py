"""Frame labels in a file beside the clips: ``frame_labels.npz``, or ``frame_labels.csv`` for those who write it by hand.

The .npz has one row of 0 and 1 a clip, keyed by clip name. The .csv has a line ``clip,first_frame,last_frame`` for every
anomalous stretch, frames counted from 0, both ends included; a clip without a line is normal throughout.

Test clips on disk with their labels: what evaluation compares scores with.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipInfo

import numpy as np
from numpy.typing import NDArray

from trainer.data.footage import Footage, Source, count_frames
from trainer.data.masks import Masks
from trainer.errors import BadLabels


@dataclass(frozen=True, slots=True)
class LabelledClip:
    """A test clip on disk and its labels."""

    source: Source
    labels: NDArray[np.uint8]
    """uint8 (frames,), 1 = anomalous."""
    masks: Masks | None = None
    """As many as ``labels``; None where the data set has none for this clip."""


def check_labels(clip: LabelledClip, footage: Footage) -> None:
    """Make sure that there is one label a frame.

    Raises:
        BadLabels: the numbers differ.
    """
    if len(clip.labels) != footage.total:
        raise BadLabels(
            f"clip {clip.source.name!r} has {footage.total} frames and {len(clip.labels)} labels; give one label a frame"
        )


NPZ_NAME, CSV_NAME = "frame_labels.npz", "frame_labels.csv"
COLUMNS = ["clip", "first_frame", "last_frame"]

Labels = NDArray[np.uint8]
"""uint8 (frames,), 1 = anomalous."""

_MOST_BYTES = 1 << 26  # of one clip's labels: a month of video


class AnomalyInterval(NamedTuple):
    """Consecutive anomalous frames of one clip, both ends included."""

    clip: str
    first_frame: int
    last_frame: int


def find_label_file(folder: Path) -> Path | None:
    """The file with the labels, the .npz if there are both; None if there is none."""
    return next((path for path in (folder / NPZ_NAME, folder / CSV_NAME) if path.is_file()), None)


def read_labels(path: Path, sources: list[Source]) -> list[Labels]:
    """The labels of every one of ``sources``, in their order. Counting the frames of videos for a .csv takes a decoding of each.

    Raises:
        BadLabels: the file is damaged, names other clips, or frames that there are not.
    """
    return _from_npz(path, sources) if path.suffix == ".npz" else _from_csv(path, sources)


def parse_intervals(lines: Iterable[str]) -> list[AnomalyInterval]:
    """The stretches of a .csv.

    Raises:
        BadLabels: a line breaks the rule; names line and rule, not the file.
    """
    try:
        rows = list(csv.reader(lines, strict=True))
    except csv.Error as error:
        raise BadLabels(f"no table of commas and lines: {error}") from error
    if not rows or [cell.strip() for cell in rows[0]] != COLUMNS:
        raise BadLabels(f"line 1 must be {','.join(COLUMNS)!r}")
    return [_stretch(number, row) for number, row in enumerate(rows[1:], 2) if any(cell.strip() for cell in row)]


def _stretch(number: int, row: list[str]) -> AnomalyInterval:
    cells = [cell.strip() for cell in row]
    # int() would also take 1_000, and digits of other scripts.
    if len(cells) != len(COLUMNS) or not all(cell.isascii() and cell.isdigit() and len(cell) <= 12 for cell in cells[1:]):
        raise BadLabels(f"row {number} must be a clip and two frame numbers, got {','.join(cells)[:80]!r}")
    stretch = AnomalyInterval(cells[0], int(cells[1]), int(cells[2]))
    if stretch.last_frame < stretch.first_frame:
        raise BadLabels(f"row {number}: the last frame must not come before the first, got {','.join(cells)[:80]!r}")
    return stretch


def _from_csv(path: Path, sources: list[Source]) -> list[Labels]:
    try:
        stretches = parse_intervals(path.read_text(encoding="utf-8-sig").splitlines())
        return list(_rows(stretches, sources))
    except (OSError, UnicodeDecodeError, BadLabels) as error:
        raise BadLabels(f"{path}: {error}") from error


def _rows(stretches: list[AnomalyInterval], sources: list[Source]) -> Iterator[Labels]:
    known = {name for source in sources for name in (source.name, source.path.name)}
    strange = next((stretch.clip for stretch in stretches if stretch.clip not in known), None)
    if strange is not None:
        raise BadLabels(f"there is no clip {strange!r}; the clips are {', '.join(source.name for source in sources[:20])}")
    for source in sources:
        row = np.zeros(count_frames(source), np.uint8)
        for stretch in stretches:
            if stretch.clip in (source.name, source.path.name):
                _mark(row, stretch)
        yield row


def _mark(row: Labels, stretch: AnomalyInterval) -> None:
    if stretch.last_frame >= len(row):
        raise BadLabels(f"clip {stretch.clip!r} has frames 0 to {len(row) - 1}, a stretch ends at {stretch.last_frame}")
    row[stretch.first_frame : stretch.last_frame + 1] = 1


def _from_npz(path: Path, sources: list[Source]) -> list[Labels]:
    rows = _read_npz(path)
    missing = next((source.name for source in sources if source.name not in rows), None)
    if missing is not None:
        raise BadLabels(f"{path}: no labels for clip {missing!r}; it has {', '.join(sorted(rows))}")
    return [rows[source.name] for source in sources]


def _check_sizes(entries: list[ZipInfo]) -> None:
    largest = max((entry.file_size for entry in entries), default=0)
    if largest > _MOST_BYTES:
        raise BadLabels(f"a row of {largest} bytes, more than {_MOST_BYTES}")


def _read_npz(path: Path) -> dict[str, Labels]:
    try:
        # np.load() itself leaves a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            _check_sizes(archive.zip.infolist())
            rows = {name: np.asarray(archive[name]) for name in archive.files}
    except Exception as error:  # its parser raises whatever it trips over
        raise BadLabels(f"{path}: {error}; give one uint8 array of 0 and 1 a test clip, keyed by clip name") from error
    for name, values in rows.items():
        if values.ndim != 1 or values.dtype.kind not in "buif" or not np.isin(values, (0, 1)).all():
            raise BadLabels(f"{path}: {name!r} must be a row of 0 and 1, got shape {values.shape} of {values.dtype}")
    return {name: values.astype(np.uint8) for name, values in rows.items()}
