"""UCSD Ped1 and Ped2 as distributed: frames in TIFF, anomalous frame ranges in a MATLAB script, masks in BMP."""

import re
from pathlib import Path

import numpy as np

from trainer.data.footage import Source, find_sources, list_images
from trainer.data.labels import LabelledClip, Layout, find_image_masks
from trainer.errors import BadLabels, NoFootage

SETS = ("UCSDped1", "UCSDped2")
_ORIGIN = "http://www.svcl.ucsd.edu/projects/anomaly/dataset.htm (UCSD_Anomaly_Dataset.tar.gz, version 1p2)"
_GET = f"extract the archive again from {_ORIGIN}"
_MAX_BYTES = 1 << 20  # of the label script; the real ones have 2 KB

_ENTRY = re.compile(r"gt_frame\s*=\s*\[([^\]]*)\]")
_RANGE = re.compile(r"(\d{1,9})(?::(\d{1,9}))?", re.ASCII)

Range = tuple[int, int]
"""First and last anomalous frame, counted from 1."""


def _find(path: Path) -> Path | None:
    if any(path.glob("Test[0-9]*_gt")):
        raise NoFootage(f"{path} is the test split of a UCSD set, with masks among the clips; give its parent folder")
    if any(path.glob("Train/Train[0-9]*")) or any(path.glob("Test/Test[0-9]*")):
        return path
    sets = [path / name for name in SETS if (path / name).is_dir()]
    if len(sets) > 1:
        raise NoFootage(f"{path} holds {' and '.join(SETS)}, two cameras; give one of them: {sets[1]}")
    return sets[0] if sets else None


def _testing(root: Path) -> list[LabelledClip]:
    clips = _clips(root / "Test")
    script = next(root.glob("Test/*.m"), root / "Test" / f"{root.name}.m")
    ranges = _read_ranges(script)
    return [_labelled(clip, ranges, script) for clip in clips]


def _clips(split: Path) -> list[Source]:
    # Beside a test clip lie its masks, in a folder that ends in _gt.
    name = re.compile(rf"{split.name}\d+", re.ASCII)
    clips = [source for source in find_sources(split) if name.fullmatch(source.name)] if split.is_dir() else []
    if not clips:
        raise NoFootage(f"{split} with {split.name}001/001.tif ... is missing; {_GET}")
    return clips


def _labelled(clip: Source, ranges: list[list[Range]], script: Path) -> LabelledClip:
    number = int(clip.name.removeprefix("Test"))
    if not 1 <= number <= len(ranges):
        raise BadLabels(f"{script} labels {len(ranges)} clips, none of them {clip.name}; {_GET}")
    labels = np.zeros(len(list_images(clip.path)), np.uint8)
    for first, last in ranges[number - 1]:
        if last > len(labels):
            raise BadLabels(f"{script}: {clip.name} has {len(labels)} frames, its anomalous ones reach to {last}; {_GET}")
        labels[first - 1 : last] = 1
    return LabelledClip(clip, labels, find_image_masks(clip.path.with_name(f"{clip.name}_gt")))


def _read_ranges(script: Path) -> list[list[Range]]:
    if not script.is_file():
        raise BadLabels(f"{script}, the frame labels, is missing; {_GET}")
    if script.stat().st_size > _MAX_BYTES:
        raise BadLabels(f"{script} has more than {_MAX_BYTES} bytes, so it is no label file; {_GET}")
    try:
        return parse_ranges(script.read_text(encoding="latin-1"))
    except (OSError, BadLabels) as error:
        raise BadLabels(f"{script}: {error}; {_GET}") from error


def parse_ranges(text: str) -> list[list[Range]]:
    """The anomalous ranges of every test clip, by number, in the text of the label script. Raises BadLabels if one is invalid."""
    entries = _ENTRY.findall(text)
    if not entries:
        raise BadLabels("no line such as TestVideoFile{end+1}.gt_frame = [61:180];")
    return [[_parse_range(part, entry) for part in entry.replace(",", " ").split()] for entry in entries]


def _parse_range(text: str, entry: str) -> Range:
    match = _RANGE.fullmatch(text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last:
        raise BadLabels(f"[{entry[:80]}] must hold ranges FIRST:LAST of frames counted from 1")
    return first, last


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
    find=_find,
    training=lambda root: _clips(root / "Train"),
    testing=_testing,
)
