"""Test clips on disk with their labels: what evaluation compares scores with."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.errors import BadLabels
from trainer.footage import Footage, Source
from trainer.masks import Masks


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
