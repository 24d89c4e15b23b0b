"""All supported data sets, recognised by their files: the clips to train on, and the test clips with their labels."""

from pathlib import Path

from trainer.data.datasets import avenue, custom, shanghaitech, ucsd
from trainer.data.footage import Source
from trainer.data.labels import LabelledClip, Layout
from trainer.errors import BadLabels

LAYOUTS = (ucsd.LAYOUT, avenue.LAYOUT, shanghaitech.LAYOUT, custom.LAYOUT)
"""The first that matches is used; the last matches everything."""


def detect_layout(path: Path) -> tuple[Layout, Path]:
    """The layout of what is at ``path``, and the data set's root. Raises NoFootage if a path holds two data sets."""
    roots = ((layout, layout.find(path)) for layout in LAYOUTS)
    return next((layout, root) for layout, root in roots if root is not None)


def describe_layouts() -> str:
    """One paragraph per layout, for users."""
    head = "--data accepts any of these folders and recognises the data set by its files. Each paragraph begins with its name."
    paragraphs = [head]
    for layout in LAYOUTS:
        lines = (*layout.files, f"from: {layout.origin}", f"terms: {layout.terms}")
        paragraphs.append("\n    ".join((layout.name, *lines)))
    return "\n\n".join(paragraphs)


def training_sources(path: Path) -> list[Source]:
    """The training split of a data set, or all of a folder or file of plain footage. Raises NoFootage if there is none."""
    layout, root = detect_layout(path)
    return layout.training(root)


def is_plain_footage(path: Path) -> bool:
    """Whether ``path`` is a user's own footage without test clips."""
    layout, root = detect_layout(path)
    return layout is custom.LAYOUT and not (root / "testing").is_dir()


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
                f"clip {clip.source.name!r} has {len(clip.labels)} labels and {len(clip.masks)} masks; give one mask per frame"
            )
    return clips
