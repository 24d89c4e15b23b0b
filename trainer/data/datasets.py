"""The data set at a path, recognised by its files: the clips to train on, and the test clips with their labels.

A ``Layout`` for each public set as distributed (UCSD Ped1 and Ped2, CUHK Avenue, ShanghaiTech Campus), and one for a user's own
footage, with or without labels.
"""

import re
from pathlib import Path

import numpy as np

from trainer.data.footage import Source, find_sources, list_images
from trainer.data.labels import (
    CSV_NAME,
    NPZ_NAME,
    ArrayMasks,
    LabelledClip,
    Layout,
    find_image_masks,
    find_label_file,
    read_labels,
    read_matlab_masks,
    read_npy,
)
from trainer.errors import BadLabels, NoFootage


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
    return layout is OWN and not (root / "testing").is_dir()


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


# --- UCSD: frames in TIFF, anomalous frame ranges in a MATLAB script, masks in BMP

UCSD_SETS = ("UCSDped1", "UCSDped2")
_UCSD_ORIGIN = "http://www.svcl.ucsd.edu/projects/anomaly/dataset.htm (UCSD_Anomaly_Dataset.tar.gz, version 1p2)"
_UCSD_GET = f"extract the archive again from {_UCSD_ORIGIN}"
_UCSD_SCRIPT_BYTES = 1 << 20  # of the label script; the real ones have 2 KB

_UCSD_ENTRY = re.compile(r"gt_frame\s*=\s*\[([^\]]*)\]")
_UCSD_RANGE = re.compile(r"(\d{1,9})(?::(\d{1,9}))?", re.ASCII)

Range = tuple[int, int]
"""First and last anomalous frame, counted from 1."""


def _find_ucsd(path: Path) -> Path | None:
    if any(path.glob("Test[0-9]*_gt")):
        raise NoFootage(f"{path} is the test split of a UCSD set, with masks among the clips; give its parent folder")
    if any(path.glob("Train/Train[0-9]*")) or any(path.glob("Test/Test[0-9]*")):
        return path
    sets = [path / name for name in UCSD_SETS if (path / name).is_dir()]
    if len(sets) > 1:
        raise NoFootage(f"{path} holds {' and '.join(UCSD_SETS)}, two cameras; give one of them: {sets[1]}")
    return sets[0] if sets else None


def _ucsd_testing(root: Path) -> list[LabelledClip]:
    clips = _ucsd_clips(root / "Test")
    script = next(root.glob("Test/*.m"), root / "Test" / f"{root.name}.m")
    ranges = _read_ranges(script)
    return [_ucsd_labelled(clip, ranges, script) for clip in clips]


def _ucsd_clips(split: Path) -> list[Source]:
    # Beside a test clip lie its masks, in a folder that ends in _gt.
    name = re.compile(rf"{split.name}\d+", re.ASCII)
    clips = [source for source in find_sources(split) if name.fullmatch(source.name)] if split.is_dir() else []
    if not clips:
        raise NoFootage(f"{split} with {split.name}001/001.tif ... is missing; {_UCSD_GET}")
    return clips


def _ucsd_labelled(clip: Source, ranges: list[list[Range]], script: Path) -> LabelledClip:
    number = int(clip.name.removeprefix("Test"))
    if not 1 <= number <= len(ranges):
        raise BadLabels(f"{script} labels {len(ranges)} clips, none of them {clip.name}; {_UCSD_GET}")
    labels = np.zeros(len(list_images(clip.path)), np.uint8)
    for first, last in ranges[number - 1]:
        if last > len(labels):
            raise BadLabels(f"{script}: {clip.name} has {len(labels)} frames, its anomalous ones reach to {last}; {_UCSD_GET}")
        labels[first - 1 : last] = 1
    return LabelledClip(clip, labels, find_image_masks(clip.path.with_name(f"{clip.name}_gt")))


def _read_ranges(script: Path) -> list[list[Range]]:
    if not script.is_file():
        raise BadLabels(f"{script}, the frame labels, is missing; {_UCSD_GET}")
    if script.stat().st_size > _UCSD_SCRIPT_BYTES:
        raise BadLabels(f"{script} has more than {_UCSD_SCRIPT_BYTES} bytes, so it is no label file; {_UCSD_GET}")
    try:
        return parse_ranges(script.read_text(encoding="latin-1"))
    except (OSError, BadLabels) as error:
        raise BadLabels(f"{script}: {error}; {_UCSD_GET}") from error


def parse_ranges(text: str) -> list[list[Range]]:
    """The anomalous ranges of every test clip, by number, in the text of the label script. Raises BadLabels if one is invalid."""
    entries = _UCSD_ENTRY.findall(text)
    if not entries:
        raise BadLabels("no line such as TestVideoFile{end+1}.gt_frame = [61:180];")
    return [[_parse_range(part, entry) for part in entry.replace(",", " ").split()] for entry in entries]


def _parse_range(text: str, entry: str) -> Range:
    match = _UCSD_RANGE.fullmatch(text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= first <= last:
        raise BadLabels(f"[{entry[:80]}] must hold ranges FIRST:LAST of frames counted from 1")
    return first, last


UCSD = Layout(
    name="UCSD Ped1, UCSD Ped2",
    files=(
        "UCSDped2/Train/Train001/001.tif ...",
        "UCSDped2/Test/Test001/001.tif ...",
        "UCSDped2/Test/UCSDped2.m  frame labels",
        "UCSDped2/Test/Test001_gt/*.bmp  masks, of some clips of Ped1 only",
    ),
    origin=_UCSD_ORIGIN,
    terms="for research; cite Mahadevan, Li, Bhalodia, Vasconcelos: Anomaly Detection in Crowded Scenes, CVPR 2010",
    find=_find_ucsd,
    training=lambda root: _ucsd_clips(root / "Train"),
    testing=_ucsd_testing,
)


# --- Avenue: two archives, one of videos, one of MATLAB files with a mask for every test frame

_AVENUE_PAGE = "http://www.cse.cuhk.edu.hk/leojia/projects/detectabnormal/dataset.html"
_AVENUE_VIDEOS = f"extract Avenue_Dataset.zip from {_AVENUE_PAGE}"
_AVENUE_MASKS = f"extract ground_truth_demo.zip from {_AVENUE_PAGE} beside the videos' folders"


def _find_avenue(path: Path) -> Path | None:
    splits = (root / name for root in (path, path / "Avenue Dataset") for name in ("training_videos", "testing_videos"))
    return next((split.parent for split in splits if split.is_dir()), None)


def _avenue_testing(root: Path) -> list[LabelledClip]:
    videos = _avenue_videos(root / "testing_videos")
    # The two archives may be extracted side by side, or the second one inside the folder of the first.
    folders = [base / "ground_truth_demo" / "testing_label_mask" for base in (root, root.parent)]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise BadLabels(f"{folders[0]}, the masks of the test frames, is missing; {_AVENUE_MASKS}")
    masks_of_videos = read_matlab_masks([_avenue_masks(video, folder) for video in videos])
    # A frame is anomalous where its mask is not empty.
    return [LabelledClip(video, masks.labels, masks) for video, masks in zip(videos, masks_of_videos, strict=True)]


def _avenue_videos(folder: Path) -> list[Source]:
    if not folder.is_dir():
        raise NoFootage(f"{folder} with 01.avi ... is missing; {_AVENUE_VIDEOS}")
    return find_sources(folder)


def _avenue_masks(video: Source, folder: Path) -> Path:
    # The masks of 01.avi are in 1_label.mat.
    path = folder / f"{video.name.lstrip('0')}_label.mat"
    if not path.is_file():
        raise BadLabels(f"{path}, the masks of {video.path.name}, is missing; {_AVENUE_MASKS}")
    return path


AVENUE = Layout(
    name="CUHK Avenue",
    files=(
        "training_videos/01.avi ...",
        "testing_videos/01.avi ...",
        "ground_truth_demo/testing_label_mask/1_label.mat ...  frame labels and masks",
    ),
    origin=f"{_AVENUE_PAGE} (Avenue_Dataset.zip and ground_truth_demo.zip)",
    terms="for research, see its page; cite Lu, Shi, Jia: Abnormal Event Detection at 150 FPS in MATLAB, ICCV 2013",
    find=_find_avenue,
    training=lambda root: _avenue_videos(root / "training_videos"),
    testing=_avenue_testing,
)


# --- ShanghaiTech Campus: training videos and test frames of 13 cameras, labels and masks in NumPy files

_CAMPUS_PAGE = "https://svip-lab.github.io/dataset/campus_dataset.html"
_CAMPUS_GET = f"extract shanghaitech.tar.gz again from {_CAMPUS_PAGE}"
_CAMPUS_LABELS, _CAMPUS_MASKS = "test_frame_mask", "test_pixel_mask"


def _campus_training(root: Path) -> list[Source]:
    if not (root / "training").is_dir():
        raise NoFootage(f"{root}/training with videos/01_001.avi ... is missing; {_CAMPUS_GET}")
    return find_sources(root / "training")


def _campus_labelled(source: Source, split: Path) -> LabelledClip:
    labels = _campus_file(split / _CAMPUS_LABELS / f"{source.name}.npy", "the frame labels", source)
    has_masks = (split / _CAMPUS_MASKS).is_dir()
    masks = _campus_file(split / _CAMPUS_MASKS / f"{source.name}.npy", "the masks", source) if has_masks else None
    row = (read_npy(labels, 1) != 0).astype(np.uint8)
    return LabelledClip(source, row, ArrayMasks(read_npy(masks, 3)) if masks else None)


def _campus_file(path: Path, what: str, source: Source) -> Path:
    if not path.is_file():
        raise BadLabels(f"{path}, {what} of {source.name}, is missing; {_CAMPUS_GET}")
    return path


SHANGHAITECH = Layout(
    name="ShanghaiTech Campus",
    files=(
        "training/videos/01_001.avi ...",
        "testing/frames/01_0014/000.jpg ...",
        "testing/test_frame_mask/01_0014.npy ...  frame labels",
        "testing/test_pixel_mask/01_0014.npy ...  masks, may be left out",
    ),
    origin=f"{_CAMPUS_PAGE} (shanghaitech.tar.gz)",
    terms="for research, see its page; cite Liu, Luo, Lian, Gao: Future Frame Prediction for Anomaly Detection, CVPR 2018",
    find=lambda path: path if any((path / "testing" / name).is_dir() for name in (_CAMPUS_LABELS, _CAMPUS_MASKS)) else None,
    training=_campus_training,
    testing=lambda root: [_campus_labelled(source, root / "testing") for source in find_sources(root / "testing")],
)


# --- A user's own footage


def _own_training(root: Path) -> list[Source]:
    if (root / "training").is_dir():
        return find_sources(root / "training")
    labels = find_label_file(root)
    if labels is not None:
        raise NoFootage(f"{root} has labels ({labels.name}), so it is test footage; put footage to train on into {root}/training")
    return find_sources(root)


def _own_testing(root: Path) -> list[LabelledClip]:
    split = root / "testing" if (root / "testing").is_dir() else root
    label_file = find_label_file(root)
    if label_file is None and split is root:
        raise NoFootage(
            f"{root}: no testing/ folder and no labels; evaluate needs testing/frames/CLIP or testing/videos/CLIP.* and "
            f"{NPZ_NAME} or {CSV_NAME}; `oddsight-train datasets` lists all supported layouts"
        )
    if label_file is None:
        raise BadLabels(
            f"{root / NPZ_NAME} is missing: give one uint8 array of 0 and 1 per test clip, keyed by clip name, or {CSV_NAME} "
            "with the columns clip,first_frame,last_frame; if this is ShanghaiTech, testing/test_frame_mask is missing"
        )
    sources = find_sources(split)
    labels = read_labels(label_file, sources)
    masks = [find_image_masks(split / "masks" / source.name) for source in sources]
    return [LabelledClip(*parts) for parts in zip(sources, labels, masks, strict=True)]


OWN = Layout(
    name="your own",
    files=(
        "training/frames/CLIP/*.jpg|png|tif|bmp ... or training/videos/CLIP.mp4|avi|mkv|... (or both)",
        "testing/frames/CLIP/... or testing/videos/CLIP.*  only for evaluate",
        "frame_labels.npz  an array of 0 and 1 for each test clip, by clip name; or",
        "frame_labels.csv  clip,first_frame,last_frame of anomalous intervals, counted from 0, both included",
        "testing/masks/CLIP/*.png  masks, one per frame; optional",
        "Without labels also: one video, a folder of videos, a folder of images, a folder of such folders.",
        "With labels also: a folder of videos or of folders of images with frame_labels.csv or .npz in it.",
    ),
    origin="your cameras",
    terms="yours",
    find=lambda path: path,
    training=_own_training,
    testing=_own_testing,
)

LAYOUTS = (UCSD, AVENUE, SHANGHAITECH, OWN)
"""The first that matches is used; the last matches everything."""
