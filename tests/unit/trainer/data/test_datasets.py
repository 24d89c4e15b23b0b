"""Tiny data sets in exactly the layouts in which the real ones are distributed."""

import shutil

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from deploy.spec import ClipSpec
from trainer.data.datasets import describe_layouts, detect_layout, is_plain_footage, labelled_clips, training_sources
from trainer.data.footage import load_footage
from trainer.errors import BadLabels, NoFootage

SPEC = ClipSpec(length=1, height_px=64, width_px=96)
UCSD_SCRIPT = """%% frame level ground truth
TestVideoFile = {};
TestVideoFile{end+1}.gt_frame = [2:3, 5];
TestVideoFile{end+1}.gt_frame = [1:6];
"""


def still(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture)


def masks_for(labels):
    """bool (frames, 64, 96): one anomalous pixel in the column of the frame's number."""
    masks = np.zeros((len(labels), 64, 96), np.uint8)
    for frame in np.flatnonzero(labels):
        masks[frame, 3, frame] = 1
    return masks


@pytest.fixture
def ucsd(tmp_path, street):
    root = tmp_path / "UCSD_Anomaly_Dataset.v1p2" / "UCSDped2"
    for split, clips in (("Train", 3), ("Test", 2)):
        for clip in range(1, clips + 1):
            for number, frame in enumerate(street(6, 1.0, seed=clip), 1):
                still(root / split / f"{split}{clip:03d}" / f"{number:03d}.tif", frame)
    for number, mask in enumerate(masks_for([0, 1, 1, 0, 1, 0]), 1):
        still(root / "Test" / "Test001_gt" / f"{number:03d}.bmp", mask * 255)
    (root / "Test" / "UCSDped2.m").write_text(UCSD_SCRIPT)
    (root / "Train" / "Train001" / "._001.tif").write_bytes(b"left by another system")
    return root


@pytest.fixture
def avenue(tmp_path, street, video):
    for split, clips in (("training", 3), ("testing", 2)):
        for clip in range(1, clips + 1):
            written = video(tmp_path / "Avenue Dataset" / f"{split}_videos" / f"{clip:02d}.mkv", street(6, 1.0, seed=clip))
            written.rename(written.with_suffix(".avi"))
    folder = tmp_path / "ground_truth_demo" / "testing_label_mask"
    folder.mkdir(parents=True)
    for clip, labels in ((1, [0, 0, 1, 1, 0, 0]), (2, [0, 0, 0, 0, 0, 0])):
        cells = np.empty((1, 6), object)
        for frame, mask in enumerate(masks_for(labels)):
            cells[0, frame] = mask
        savemat(folder / f"{clip}_label.mat", {"volLabel": cells}, do_compression=True)
    return tmp_path


@pytest.fixture
def shanghaitech(tmp_path, street, pictures, video):
    for name in ("01_001", "02_001"):
        video(tmp_path / "training" / "videos" / f"{name}.mkv", street(6, 1.0)).rename(
            tmp_path / "training" / "videos" / f"{name}.avi"
        )
    pictures(tmp_path / "testing" / "frames" / "01_0014", street(6, 1.0))
    labels = np.array([0, 1, 1, 0, 0, 1])
    for kind, array in (("frame", labels), ("pixel", masks_for(labels))):
        (tmp_path / "testing" / f"test_{kind}_mask").mkdir()
        np.save(tmp_path / "testing" / f"test_{kind}_mask" / "01_0014.npy", array)
    return tmp_path


def test_describes_every_layout():
    paragraphs = describe_layouts().split("\n\n")[1:]
    assert [paragraph.splitlines()[0] for paragraph in paragraphs] == [
        "UCSD Ped1, UCSD Ped2",
        "CUHK Avenue",
        "ShanghaiTech Campus",
        "your own",
    ]
    assert all("    from: " in paragraph and "    terms: " in paragraph for paragraph in paragraphs)
    assert "Test/UCSDped2.m" in paragraphs[0]


def test_finds_ucsd(ucsd):
    for path in (ucsd, ucsd.parent):
        assert detect_layout(path)[0].name.startswith("UCSD")
        assert [source.name for source in training_sources(path)] == ["Train001", "Train002", "Train003"]
        assert [clip.source.name for clip in labelled_clips(path)] == ["Test001", "Test002"]


def test_ucsd_ranges_include_both_ends(ucsd):
    first, second = labelled_clips(ucsd)
    assert first.labels.tolist() == [0, 1, 1, 0, 1, 0]
    assert second.labels.tolist() == [1] * 6


def test_ucsd_masks_are_optional(ucsd):
    first, second = labelled_clips(ucsd)
    assert second.masks is None
    assert [bool(first.masks[frame].any()) for frame in range(6)] == first.labels.astype(bool).tolist()
    assert (first.masks[4].shape, first.masks[4].dtype) == ((64, 96), np.bool_)
    assert np.argwhere(first.masks[4]).tolist() == [[3, 4]]


def test_ucsd_tiffs_are_exact(ucsd, street):
    footage = load_footage(training_sources(ucsd)[0], SPEC)
    assert footage.problems == ()
    assert np.array_equal(footage.frames[..., 0], street(6, 1.0, seed=1))


def test_ucsd_clips_keep_their_labels(ucsd):
    shutil.rmtree(ucsd / "Test" / "Test001")
    (clip,) = labelled_clips(ucsd)
    assert (clip.source.name, clip.labels.tolist()) == ("Test002", [1] * 6)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("Test/UCSDped2.m", r"Test/UCSDped2\.m, the frame labels, is missing; extract the archive again from http"),
        ("Test/Test001_gt/003.bmp", r"'Test001' has 6 labels and 5 masks"),
        ("Test/Test002/006.tif", r"Test002 has 5 frames, its anomalous ones reach to 6"),
    ],
)
def test_names_missing_ucsd_files(ucsd, lost, message):
    (ucsd / lost).unlink()
    with pytest.raises(BadLabels, match=message):
        labelled_clips(ucsd)


def test_names_a_missing_ucsd_split(ucsd):
    shutil.rmtree(ucsd / "Train")
    with pytest.raises(NoFootage, match=r"Train with Train001/001\.tif \.\.\. is missing"):
        training_sources(ucsd)


def test_rejects_two_ucsd_sets_at_once(ucsd):
    shutil.copytree(ucsd, ucsd.with_name("UCSDped1"))
    with pytest.raises(NoFootage, match=r"two cameras; give one of them: .*UCSDped2"):
        training_sources(ucsd.parent)


def test_rejects_the_ucsd_test_split(ucsd):
    with pytest.raises(NoFootage, match=r"Test is the test split of a UCSD set, .* give its parent folder"):
        training_sources(ucsd / "Test")


def test_rejects_unlabelled_ucsd_clips(ucsd):
    (ucsd / "Test" / "Test002").rename(ucsd / "Test" / "Test003")
    with pytest.raises(BadLabels, match=r"labels 2 clips, none of them Test003"):
        labelled_clips(ucsd)


def test_finds_avenue_and_its_masks(avenue):
    inside = avenue / "Avenue Dataset"
    for path in (avenue, inside):
        assert [source.name for source in training_sources(path)] == ["01", "02", "03"]
        first, second = labelled_clips(path)
        assert (first.labels.tolist(), second.labels.tolist()) == ([0, 0, 1, 1, 0, 0], [0] * 6)
    (avenue / "ground_truth_demo").rename(inside / "ground_truth_demo")
    assert np.argwhere(labelled_clips(inside)[0].masks[3]).tolist() == [[3, 3]]


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("ground_truth_demo", r"testing_label_mask, the masks of the test frames, is missing; extract ground_truth_demo\.zip"),
        ("ground_truth_demo/testing_label_mask/2_label.mat", r"2_label\.mat, the masks of 02\.avi, is missing"),
    ],
)
def test_names_missing_avenue_masks(avenue, lost, message):
    shutil.rmtree(avenue / lost) if (avenue / lost).is_dir() else (avenue / lost).unlink()
    with pytest.raises(BadLabels, match=message):
        labelled_clips(avenue)


def test_names_missing_avenue_videos(avenue):
    shutil.rmtree(avenue / "Avenue Dataset" / "testing_videos")
    with pytest.raises(NoFootage, match=r"testing_videos with 01\.avi \.\.\. is missing; extract Avenue_Dataset\.zip"):
        labelled_clips(avenue)


def test_reads_shanghaitech(shanghaitech):
    assert [source.name for source in training_sources(shanghaitech)] == ["01_001", "02_001"]
    (clip,) = labelled_clips(shanghaitech)
    assert (clip.source.name, clip.labels.tolist()) == ("01_0014", [0, 1, 1, 0, 0, 1])
    assert (clip.labels.dtype, clip.masks[5].dtype) == (np.uint8, np.bool_)
    assert np.argwhere(clip.masks[5]).tolist() == [[3, 5]]


def test_shanghaitech_masks_are_optional(shanghaitech):
    shutil.rmtree(shanghaitech / "testing" / "test_pixel_mask")
    assert labelled_clips(shanghaitech)[0].masks is None
    (shanghaitech / "testing" / "test_frame_mask" / "01_0014.npy").unlink()
    with pytest.raises(BadLabels, match=r"01_0014\.npy, the frame labels of 01_0014, is missing; extract shanghaitech"):
        labelled_clips(shanghaitech)


def test_names_missing_shanghaitech_videos(shanghaitech):
    shutil.rmtree(shanghaitech / "training")
    with pytest.raises(NoFootage, match=r"training with videos/01_001\.avi \.\.\. is missing"):
        training_sources(shanghaitech)


@pytest.mark.parametrize(
    ("place", "wrong"), [("frame", np.zeros((6, 2), int)), ("pixel", np.zeros((6, 64), int)), ("frame", np.zeros(6))]
)
def test_rejects_arrays_of_other_shapes(shanghaitech, place, wrong):
    np.save(shanghaitech / "testing" / f"test_{place}_mask" / "01_0014.npy", wrong)
    with pytest.raises(BadLabels, match=r"01_0014\.npy: expected integers in \d dimensions"):
        labelled_clips(shanghaitech)


def test_footage_with_test_clips_is_not_plain(tmp_path, street, pictures, ucsd):
    own = tmp_path / "own"
    pictures(own / "training" / "frames" / "a", street(2, 1.0))
    assert is_plain_footage(own)
    assert is_plain_footage(own / "training")
    pictures(own / "testing" / "frames" / "b", street(2, 1.0))
    assert not is_plain_footage(own)
    assert not is_plain_footage(ucsd)


def test_labelled_videos_are_test_clips_only(tmp_path, street, video):
    for name in ("gate", "yard"):
        video(tmp_path / f"{name}.mkv", street(8, 1.0))
    (tmp_path / "frame_labels.csv").write_text("clip,first_frame,last_frame\ngate,2,3\ngate.mkv,7,7\n")
    gate, yard = labelled_clips(tmp_path)
    assert (gate.labels.tolist(), yard.labels.tolist()) == ([0, 0, 1, 1, 0, 0, 0, 1], [0] * 8)
    with pytest.raises(NoFootage, match=r"has labels \(frame_labels\.csv\), so it is test footage"):
        training_sources(tmp_path)


def test_names_missing_labels(tmp_path, street, pictures):
    with pytest.raises(NoFootage, match=r"no testing/ folder and no labels; evaluate needs testing/frames/CLIP"):
        labelled_clips(tmp_path)
    pictures(tmp_path / "testing" / "frames" / "01", street(3, 1.0))
    with pytest.raises(BadLabels, match=r"frame_labels\.npz is missing: give one uint8 array .* or frame_labels\.csv"):
        labelled_clips(tmp_path)


def test_labels_and_masks_belong_to_clips_by_name(tmp_path, street, pictures):
    for name in ("01", "02"):
        pictures(tmp_path / "testing" / "frames" / name, street(3, 1.0))
    np.savez(tmp_path / "frame_labels.npz", **{"01": np.array([0, 1, 1], np.uint8), "02": np.array([1, 0, 0], np.uint8)})
    for number in range(3):
        still(tmp_path / "testing" / "masks" / "01" / f"{number}.png", np.zeros((64, 96), np.uint8))
    clips = labelled_clips(tmp_path)
    assert [(clip.source.name, clip.labels.tolist()) for clip in clips] == [("01", [0, 1, 1]), ("02", [1, 0, 0])]
    assert [None if clip.masks is None else len(clip.masks) for clip in clips] == [3, None]
    (tmp_path / "testing" / "masks" / "01" / "2.png").unlink()
    with pytest.raises(BadLabels, match=r"clip '01' has 3 labels and 2 masks"):
        labelled_clips(tmp_path)
