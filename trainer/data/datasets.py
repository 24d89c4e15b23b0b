"""The data set at a path, recognised by its files: the clips to train on, and the test clips with their labels.

A path that is no public data set (:mod:`trainer.data.public_datasets`) is read as a user's own footage, with or without labels.
"""

from pathlib import Path

from trainer.data.footage import Source, find_sources
from trainer.data.labels import CSV_NAME, NPZ_NAME, LabelledClip, Layout, find_image_masks, find_label_file, read_labels
from trainer.data.public_datasets import AVENUE, SHANGHAITECH, UCSD
from trainer.errors import BadLabels, NoFootage


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
