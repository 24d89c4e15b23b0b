"""Data sets on disk, recognised by how they lie there: the clips to learn from, and the test clips with their labels."""

from pathlib import Path

from trainer.data.datasets import avenue, shanghaitech, ucsd
from trainer.data.datasets import custom as own
from trainer.data.datasets.base import Layout
from trainer.data.footage import Source
from trainer.data.labels import LabelledClip
from trainer.errors import BadLabels, NoFootage

LAYOUTS = (ucsd.LAYOUT, avenue.LAYOUT, shanghaitech.LAYOUT, own.LAYOUT)
"""The first one that fits is it; the last one fits everything."""


def detect_layout(path: Path) -> tuple[Layout, Path]:
    """The layout of what is at ``path``, and the data set's own folder there.

    Raises:
        NoFootage: two data sets are there.
    """
    found = ((layout, layout.find(path)) for layout in LAYOUTS)
    return next((layout, root) for layout, root in found if root is not None)


def training_sources(path: Path) -> list[Source]:
    """The clips to learn from: the training split of a data set, or all of a folder or file of plain footage.

    Raises:
        NoFootage: nothing usable is there; names the missing file, and where to get it.
    """
    layout, root = detect_layout(path)
    return layout.training(root)


def training_sources_if_any(path: Path) -> list[Source]:
    """The training split of a data set that has test clips; empty where there are test clips alone."""
    try:
        return training_sources(path)
    except NoFootage:
        return []


def is_plain_footage(path: Path) -> bool:
    """Whether ``path`` is somebody's footage and no data set with test clips beside it."""
    layout, root = detect_layout(path)
    return layout is own.LAYOUT and not (root / "testing").is_dir()


def labelled_clips(path: Path) -> list[LabelledClip]:
    """The test clips of a data set with their labels.

    Raises:
        NoFootage: there are no test clips; names the missing file, and where to get it.
        BadLabels: labels or masks are missing, damaged, or do not fit each other.
    """
    layout, root = detect_layout(path)
    clips = layout.testing(root)
    for clip in clips:
        if clip.masks is not None and len(clip.masks) != len(clip.labels):
            raise BadLabels(
                f"clip {clip.source.name!r} has {len(clip.labels)} labels and {len(clip.masks)} masks; give one mask a frame"
            )
    return clips
