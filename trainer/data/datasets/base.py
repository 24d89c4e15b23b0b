"""How a data set is laid out on disk. A new data set is a module here with a ``LAYOUT``, and its line in ``registry.LAYOUTS``."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainer.data.footage import Source
from trainer.data.labels import LabelledClip


@dataclass(frozen=True, slots=True)
class Layout:
    """How one data set is laid out, how to recognise and read it, and where to get it."""

    name: str
    files: tuple[str, ...]
    """Required files, one line each; a remark may follow after two spaces."""
    origin: str
    """Where to download it."""
    terms: str
    find: Callable[[Path], Path | None]
    """The data set's root in or at a path, None where this is another data set. Files may still be missing.

    Raises NoFootage where the path is ambiguous."""
    training: Callable[[Path], list[Source]]
    """The clips to train on, given the root. Raises NoFootage."""
    testing: Callable[[Path], list[LabelledClip]]
    """The test clips with their labels, given the root. Raises NoFootage and BadLabels."""

    def describe(self) -> str:
        """A paragraph for users: name, required files, origin and terms."""
        files = "".join(f"\n    {line}" for line in self.files)
        return f"{self.name}{files}\n    from: {self.origin}\n    terms: {self.terms}"
