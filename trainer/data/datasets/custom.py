"""Our own layout, and plain footage: what anybody can make by hand."""

from pathlib import Path

from trainer.data.datasets.base import Layout
from trainer.data.footage import Source, find_sources
from trainer.data.labels import CSV_NAME, NPZ_NAME, LabelledClip, find_label_file, read_labels
from trainer.data.masks import find_image_masks
from trainer.errors import BadLabels, NoFootage


def find(path: Path) -> Path:
    """See :attr:`trainer.data.datasets.base.Layout.find`: whatever is nothing else is taken for this."""
    return path


def training(root: Path) -> list[Source]:
    """See :attr:`trainer.data.datasets.base.Layout.training`: ``training/``, or all of some footage without labels."""
    if (root / "training").is_dir():
        return find_sources(root / "training")
    labels = find_label_file(root)
    if labels is not None:
        raise NoFootage(f"{root} has labels ({labels.name}), so it is for tests; what is learned from goes to {root}/training")
    return find_sources(root)


def testing(root: Path) -> list[LabelledClip]:
    """See :attr:`trainer.data.datasets.base.Layout.testing`: ``testing/``, or all of some footage with labels."""
    split = root / "testing" if (root / "testing").is_dir() else root
    labels = find_label_file(root)
    if labels is None and split is root:
        raise NoFootage(
            f"{root}: no testing/ folder and no labels; evaluate needs testing/frames/CLIP or testing/videos/CLIP.* and "
            f"{NPZ_NAME} or {CSV_NAME}; oddsight-train datasets lists what else is understood"
        )
    if labels is None:
        raise BadLabels(
            f"{root / NPZ_NAME} is missing: give one uint8 array of 0 and 1 a test clip, keyed by clip name, or {CSV_NAME} with "
            "the columns clip,first_frame,last_frame; if this is ShanghaiTech, testing/test_frame_mask is missing"
        )
    sources = find_sources(split)
    rows = read_labels(labels, sources)
    masks = [find_image_masks(split / "masks" / source.name) for source in sources]
    return [LabelledClip(*parts) for parts in zip(sources, rows, masks, strict=True)]


LAYOUT = Layout(
    name="your own",
    files=(
        "training/frames/CLIP/*.jpg|png|tif|bmp ... or training/videos/CLIP.mp4|avi|mkv|... (or both)",
        "testing/frames/CLIP/... or testing/videos/CLIP.*  only for evaluate",
        "frame_labels.npz  a row of 0 and 1 for each test clip, by clip name; or",
        "frame_labels.csv  clip,first_frame,last_frame of anomalous stretches, counted from 0, both included",
        "testing/masks/CLIP/*.png  masks, one a frame; may be left out",
        "Without labels also: one video, a folder of videos, a folder of frames, a folder of such folders.",
        "With labels also: a folder of videos or of folders of frames with frame_labels.csv or .npz in it.",
    ),
    origin="your cameras",
    terms="yours",
    find=find,
    training=training,
    testing=testing,
)
