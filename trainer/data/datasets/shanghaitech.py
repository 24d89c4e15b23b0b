"""ShanghaiTech Campus as distributed: training videos and test frames of 13 cameras, labels and masks in NumPy files."""

from pathlib import Path

import numpy as np

from trainer.data.footage import Source, find_sources
from trainer.data.labels import ArrayMasks, LabelledClip, Layout, read_npy
from trainer.errors import BadLabels, NoFootage

_PAGE = "https://svip-lab.github.io/dataset/campus_dataset.html"
_GET = f"extract shanghaitech.tar.gz again from {_PAGE}"
_LABELS, _MASKS = "test_frame_mask", "test_pixel_mask"


def _training(root: Path) -> list[Source]:
    if not (root / "training").is_dir():
        raise NoFootage(f"{root}/training with videos/01_001.avi ... is missing; {_GET}")
    return find_sources(root / "training")


def _labelled(source: Source, split: Path) -> LabelledClip:
    labels = _existing(split / _LABELS / f"{source.name}.npy", "the frame labels", source)
    masks = _existing(split / _MASKS / f"{source.name}.npy", "the masks", source) if (split / _MASKS).is_dir() else None
    row = (read_npy(labels, 1) != 0).astype(np.uint8)
    return LabelledClip(source, row, ArrayMasks(read_npy(masks, 3)) if masks else None)


def _existing(path: Path, what: str, source: Source) -> Path:
    if not path.is_file():
        raise BadLabels(f"{path}, {what} of {source.name}, is missing; {_GET}")
    return path


LAYOUT = Layout(
    name="ShanghaiTech Campus",
    files=(
        "training/videos/01_001.avi ...",
        "testing/frames/01_0014/000.jpg ...",
        "testing/test_frame_mask/01_0014.npy ...  frame labels",
        "testing/test_pixel_mask/01_0014.npy ...  masks, may be left out",
    ),
    origin=f"{_PAGE} (shanghaitech.tar.gz)",
    terms="for research, see its page; cite Liu, Luo, Lian, Gao: Future Frame Prediction for Anomaly Detection, CVPR 2018",
    find=lambda path: path if any((path / "testing" / name).is_dir() for name in (_LABELS, _MASKS)) else None,
    training=_training,
    testing=lambda root: [_labelled(source, root / "testing") for source in find_sources(root / "testing")],
)
