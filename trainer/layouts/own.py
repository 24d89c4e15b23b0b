"""Our own layout: ``training/``, ``testing/`` and ``frame_labels.npz``."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.errors import BadLabels, NoFootage
from trainer.footage import split_sources
from trainer.labelled import LabelledClip

LABELS_NAME = "frame_labels.npz"


def testing(path: Path) -> list[LabelledClip]:
    """The test clips and their labels.

    Raises:
        NoFootage: there is no ``testing`` split.
        BadLabels: the labels are missing, or name other clips.
    """
    if not (path / "testing").is_dir():
        raise NoFootage(f"{path}: no testing/ folder; evaluate needs testing/frames/CLIP or testing/videos/CLIP.*")
    sources = split_sources(path / "testing")
    labels = _read_labels(path / LABELS_NAME)
    missing = [source.name for source in sources if source.name not in labels]
    if missing:
        raise BadLabels(f"{path / LABELS_NAME}: no labels for clip {missing[0]!r}; it has {', '.join(sorted(labels))}")
    return [LabelledClip(source, labels[source.name]) for source in sources]


def _read_labels(path: Path) -> dict[str, NDArray[np.uint8]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            labels = {name: np.asarray(archive[name]) for name in archive.files}
    except (OSError, ValueError) as error:
        raise BadLabels(f"{path}: {error}; give one uint8 array of 0 and 1 a test clip, keyed by clip name") from error
    for name, values in labels.items():
        if values.ndim != 1 or not np.isin(values, (0, 1)).all():
            raise BadLabels(f"{path}: {name!r} must be a row of 0 and 1, got shape {values.shape} of {values.dtype}")
    return {name: values.astype(np.uint8) for name, values in labels.items()}
