"""The layout for users' own footage, with or without labels; every path that is no known data set is read as this."""

from pathlib import Path

from trainer.data.footage import Source, find_sources
from trainer.data.labels import CSV_NAME, NPZ_NAME, LabelledClip, Layout, find_image_masks, find_label_file, read_labels
from trainer.errors import BadLabels, NoFootage


def _training(root: Path) -> list[Source]:
    if (root / "training").is_dir():
        return find_sources(root / "training")
    labels = find_label_file(root)
    if labels is not None:
        raise NoFootage(f"{root} has labels ({labels.name}), so it is test footage; put footage to train on into {root}/training")
    return find_sources(root)


def _testing(root: Path) -> list[LabelledClip]:
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


LAYOUT = Layout(
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
    training=_training,
    testing=_testing,
)
