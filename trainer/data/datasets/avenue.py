"""CUHK Avenue as distributed: two archives, one of videos, one of MATLAB files with a mask for every test frame."""

from pathlib import Path

from trainer.data.footage import Source, find_sources
from trainer.data.labels import LabelledClip, Layout, read_matlab_masks
from trainer.errors import BadLabels, NoFootage

_PAGE = "http://www.cse.cuhk.edu.hk/leojia/projects/detectabnormal/dataset.html"
_VIDEOS = f"extract Avenue_Dataset.zip from {_PAGE}"
_MASKS = f"extract ground_truth_demo.zip from {_PAGE} beside the videos' folders"


def _find(path: Path) -> Path | None:
    splits = (root / name for root in (path, path / "Avenue Dataset") for name in ("training_videos", "testing_videos"))
    return next((split.parent for split in splits if split.is_dir()), None)


def _testing(root: Path) -> list[LabelledClip]:
    videos = _videos(root / "testing_videos")
    # The two archives may be extracted side by side, or the second one inside the folder of the first.
    folders = [base / "ground_truth_demo" / "testing_label_mask" for base in (root, root.parent)]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise BadLabels(f"{folders[0]}, the masks of the test frames, is missing; {_MASKS}")
    masks_of_videos = read_matlab_masks([_masks_of(video, folder) for video in videos])
    # A frame is anomalous where its mask is not empty.
    return [LabelledClip(video, masks.labels, masks) for video, masks in zip(videos, masks_of_videos, strict=True)]


def _videos(folder: Path) -> list[Source]:
    if not folder.is_dir():
        raise NoFootage(f"{folder} with 01.avi ... is missing; {_VIDEOS}")
    return find_sources(folder)


def _masks_of(video: Source, folder: Path) -> Path:
    # The masks of 01.avi are in 1_label.mat.
    path = folder / f"{video.name.lstrip('0')}_label.mat"
    if not path.is_file():
        raise BadLabels(f"{path}, the masks of {video.path.name}, is missing; {_MASKS}")
    return path


LAYOUT = Layout(
    name="CUHK Avenue",
    files=(
        "training_videos/01.avi ...",
        "testing_videos/01.avi ...",
        "ground_truth_demo/testing_label_mask/1_label.mat ...  frame labels and masks",
    ),
    origin=f"{_PAGE} (Avenue_Dataset.zip and ground_truth_demo.zip)",
    terms="for research, see its page; cite Lu, Shi, Jia: Abnormal Event Detection at 150 FPS in MATLAB, ICCV 2013",
    find=_find,
    training=lambda root: _videos(root / "training_videos"),
    testing=_testing,
)
