"""Data sets on disk: the clips to learn from, and the test clips with their labels."""

from pathlib import Path

from trainer.footage import Source, split_sources
from trainer.labelled import LabelledClip
from trainer.layouts import own


def training_sources(path: Path) -> list[Source]:
    """The clips to learn from: the training split of a data set, or all of a folder or file of plain footage.

    Raises:
        NoFootage: nothing usable is there.
    """
    return split_sources(path / "training" if (path / "training").is_dir() else path)


def normal_sources(path: Path) -> list[Source]:
    """The training split of a data set that has test clips; empty where there are test clips alone."""
    return training_sources(path) if (path / "training").is_dir() else []


def labelled_clips(path: Path) -> list[LabelledClip]:
    """The test clips of a data set with their labels.

    Raises:
        NoFootage: there are no test clips.
        BadLabels: the labels are missing, or name other clips.
    """
    return own.testing(path)
