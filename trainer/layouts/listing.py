"""The known layouts in words."""

from collections.abc import Sequence

from trainer.layouts.layout import Layout

_HEAD = "--data takes any of these folders; which one it is, is seen from what lies in it. The first line in each is its name."


def listing(layouts: Sequence[Layout]) -> str:
    """One paragraph a layout: its name, the files that it needs, where it can be had and on what terms."""
    return "\n\n".join([_HEAD, *(_paragraph(layout) for layout in layouts)])


def _paragraph(layout: Layout) -> str:
    lines = [layout.name, *(f"    {line}" for line in layout.files), f"    from: {layout.origin}", f"    terms: {layout.terms}"]
    return "\n".join(lines)
