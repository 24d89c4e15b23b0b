"""Our own layout: ``training/``, ``testing/``, ``frame_labels.npz`` and, if there are any, ``testing/masks/CLIP/*.png``."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.errors import BadLabels, NoFootage
from trainer.footage import Source, split_sources
from trainer.labelled import LabelledClip
from trainer.masks import picture_masks

LABELS_NAME = "frame_labels.npz"


def testing(path: Path) -> list[LabelledClip]:
    """The test clips and their labels.

    Raises:
        NoFootage: there is no ``testing`` split.
        BadLabels: the labels are missing, or name other clips; or a clip has masks, but not one a frame.
    """
    if not (path / "testing").is_dir():
        raise NoFootage(f"{path}: no testing/ folder; evaluate needs testing/frames/CLIP or testing/videos/CLIP.*")
    sources = split_sources(path / "testing")
    labels = _read_labels(path / LABELS_NAME)
    missing = [source.name for source in sources if source.name not in labels]
    if missing:
        raise BadLabels(f"{path / LABELS_NAME}: no labels for clip {missing[0]!r}; it has {', '.join(sorted(labels))}")
    masks = path / "testing" / "masks"
    return [_labelled(source, labels[source.name], masks / source.name) for source in sources]


def _labelled(source: Source, labels: NDArray[np.uint8], masks_folder: Path) -> LabelledClip:
    masks = picture_masks(masks_folder)
    if masks is not None and len(masks) != len(labels):
        raise BadLabels(f"{masks_folder}: {len(masks)} masks for {len(labels)} labels; give one PNG a frame, or none at all")
    return LabelledClip(source, labels, masks)


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
