"""The known layouts in words.

What every layout of a data set tells.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.data.footage import Source
from trainer.data.labels import LabelledClip


@dataclass(frozen=True, slots=True)
class Layout:
    """How one kind of data set lies on disk, and where it comes from."""

    name: str
    files: tuple[str, ...]
    """What must be there, a line each; a remark may follow after two spaces."""
    origin: str
    """Where it can be had."""
    terms: str
    find: Callable[[Path], Path | None]
    """The data set's own folder in or at a path that looks like this layout, else None. It may still lack something."""
    training: Callable[[Path], list[Source]]
    """The clips to learn from, given the data set's folder. Raises NoFootage: there are none."""
    testing: Callable[[Path], list[LabelledClip]]
    """The test clips, likewise. Raises NoFootage and BadLabels: clips, labels or masks are missing or damaged."""


_HEAD = "--data takes any of these folders; which one it is, is seen from what lies in it. The first line in each is its name."


def describe_layouts(layouts: Sequence[Layout]) -> str:
    """One paragraph a layout: its name, the files that it needs, where it can be had and on what terms."""
    return "\n\n".join([_HEAD, *(_paragraph(layout) for layout in layouts)])


def _paragraph(layout: Layout) -> str:
    lines = [layout.name, *(f"    {line}" for line in layout.files), f"    from: {layout.origin}", f"    terms: {layout.terms}"]
    return "\n".join(lines)
