"""UCSD Ped1 and Ped2 as distributed: frames in TIFF, anomalous frame ranges in a MATLAB script, masks in BMP."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.data.datasets.base import Layout
from trainer.data.footage import Source, find_sources, list_images
from trainer.data.labels import LabelledClip
from trainer.data.masks import find_image_masks
from trainer.errors import BadLabels, NoFootage

SETS = ("UCSDped1", "UCSDped2")
_ORIGIN = "http://www.svcl.ucsd.edu/projects/anomaly/dataset.htm (UCSD_Anomaly_Dataset.tar.gz, version 1p2)"
_GET = f"extract the archive again from {_ORIGIN}"
_MOST_BYTES = 1 << 20  # of the script; the real ones have 2 KB

_ENTRY = re.compile(r"gt_frame\s*=\s*\[([^\]]*)\]")
_RANGE = re.compile(r"(\d{1,9})(?::(\d{1,9}))?", re.ASCII)

Range = tuple[int, int]
"""First and last anomalous frame, counted from 1."""


def find(path: Path) -> Path | None:
    """See :attr:`trainer.data.datasets.base.Layout.find`.

    Raises:
        NoFootage: both sets are there, and they are of two cameras; or it is the test split alone, whose masks are no clips.
    """
    if any(path.glob("Test[0-9]*_gt")):
        raise NoFootage(f"{path} is the test split of a UCSD set, masks among the clips; give the folder that it lies in")
    if any(path.glob("Train/Train[0-9]*")) or any(path.glob("Test/Test[0-9]*")):
        return path
    inside = [path / name for name in SETS if (path / name).is_dir()]
    if len(inside) > 1:
        raise NoFootage(f"{path} holds {' and '.join(SETS)}, two cameras; give one of them: {inside[1]}")
    return inside[0] if inside else None


def training(root: Path) -> list[Source]:
    """See :attr:`trainer.data.datasets.base.Layout.training`."""
    return _clips(root / "Train")


def testing(root: Path) -> list[LabelledClip]:
    """See :attr:`trainer.data.datasets.base.Layout.testing`."""
    clips = _clips(root / "Test")
    script = next(root.glob("Test/*.m"), root / "Test" / f"{root.name}.m")
    ranges = _read_ranges(script)
    return [_labelled(clip, _ranges_of(clip, ranges, script), script) for clip in clips]


def parse_ranges(text: str) -> list[list[Range]]:
    """The anomalous ranges of every test clip, in the order of the clips' numbers, from a script's text.

    Raises:
        BadLabels: an entry breaks the rule; names the entry, not the file.
    """
    entries = [entry.group(1) for entry in _ENTRY.finditer(text)]
    if not entries:
        raise BadLabels("no line such as TestVideoFile{end+1}.gt_frame = [61:180];")
    return [list(_parse_entry(entry)) for entry in entries]


def _parse_entry(entry: str) -> Iterator[Range]:
    for part in entry.replace(",", " ").split():
        found = _RANGE.fullmatch(part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= first <= last:
            raise BadLabels(f"[{entry[:80]}] must hold ranges FIRST:LAST of frames counted from 1")
        yield first, last


def _clips(split: Path) -> list[Source]:
    """The clips of ``Train`` or ``Test``; beside a test clip lie its masks, in a folder that ends in ``_gt``."""
    name = re.compile(rf"{split.name}\d+", re.ASCII)
    clips = [source for source in find_sources(split) if name.fullmatch(source.name)] if split.is_dir() else []
    if not clips:
        raise NoFootage(f"{split}/{split.name}001/001.tif and its like are missing; {_GET}")
    return clips


def _read_ranges(script: Path) -> list[list[Range]]:
    if not script.is_file():
        raise BadLabels(f"{script}, the frame labels, is missing; {_GET}")
    if script.stat().st_size > _MOST_BYTES:
        raise BadLabels(f"{script} has more than {_MOST_BYTES} bytes, so it is something else; {_GET}")
    try:
        return parse_ranges(script.read_text(encoding="latin-1"))
    except (OSError, BadLabels) as error:
        raise BadLabels(f"{script}: {error}; {_GET}") from error


def _ranges_of(clip: Source, ranges: list[list[Range]], script: Path) -> list[Range]:
    number = int(clip.name.removeprefix("Test"))
    if not 1 <= number <= len(ranges):
        raise BadLabels(f"{script} labels {len(ranges)} clips, none of them {clip.name}; {_GET}")
    return ranges[number - 1]


def _labelled(clip: Source, ranges: list[Range], script: Path) -> LabelledClip:
    labels = _labels(len(list_images(clip.path)), ranges, f"{script}: {clip.name}")
    return LabelledClip(clip, labels, find_image_masks(clip.path.with_name(f"{clip.name}_gt")))


def _labels(frames: int, ranges: list[Range], where: str) -> NDArray[np.uint8]:
    labels = np.zeros(frames, np.uint8)
    for first, last in ranges:
        if last > frames:
            raise BadLabels(f"{where} has {frames} frames, its anomalous ones reach to {last}; {_GET}")
        labels[first - 1 : last] = 1
    return labels


LAYOUT = Layout(
    name="UCSD Ped1, UCSD Ped2",
    files=(
        "UCSDped2/Train/Train001/001.tif ...",
        "UCSDped2/Test/Test001/001.tif ...",
        "UCSDped2/Test/UCSDped2.m  frame labels",
        "UCSDped2/Test/Test001_gt/*.bmp  masks, of some clips of Ped1 only",
    ),
    origin=_ORIGIN,
    terms="for research; cite Mahadevan, Li, Bhalodia, Vasconcelos: Anomaly Detection in Crowded Scenes, CVPR 2010",
    find=find,
    training=training,
    testing=testing,
)
