"""Tiny data sets in exactly the layouts in which the real ones are distributed."""

import shutil

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from deploy.spec import ClipSpec
from trainer.data.datasets.base import describe_layouts
from trainer.data.datasets.registry import (
    LAYOUTS,
    detect_layout,
    is_plain_footage,
    labelled_clips,
    training_sources,
    training_sources_if_any,
)
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


def test_the_list_names_every_layout_its_files_where_it_is_and_on_what_terms():
    paragraphs = describe_layouts(LAYOUTS).split("\n\n")[1:]
    assert [paragraph.splitlines()[0] for paragraph in paragraphs] == [
        "UCSD Ped1, UCSD Ped2",
        "CUHK Avenue",
        "ShanghaiTech Campus",
        "your own",
    ]
    assert all("    from: " in paragraph and "    terms: " in paragraph for paragraph in paragraphs)
    assert "Test/UCSDped2.m" in paragraphs[0]


def test_ucsd_is_found_in_the_archives_folder_and_in_its_own(ucsd):
    for path in (ucsd, ucsd.parent):
        assert detect_layout(path)[0].name.startswith("UCSD")
        assert [source.name for source in training_sources(path)] == ["Train001", "Train002", "Train003"]
        assert [clip.source.name for clip in labelled_clips(path)] == ["Test001", "Test002"]


def test_ucsds_ranges_count_from_1_and_include_both_ends(ucsd):
    first, second = labelled_clips(ucsd)
    assert first.labels.tolist() == [0, 1, 1, 0, 1, 0]
    assert second.labels.tolist() == [1] * 6


def test_ucsds_masks_are_read_where_there_are_some(ucsd):
    first, second = labelled_clips(ucsd)
    assert second.masks is None
    assert [bool(first.masks[frame].any()) for frame in range(6)] == first.labels.astype(bool).tolist()
    assert (first.masks[4].shape, first.masks[4].dtype) == ((64, 96), np.bool_)
    assert np.argwhere(first.masks[4]).tolist() == [[3, 4]]


def test_ucsds_tiff_frames_are_decoded_bit_for_bit_and_hidden_files_are_none(ucsd, street):
    footage = load_footage(training_sources(ucsd)[0], SPEC)
    assert footage.problems == ()
    assert np.array_equal(footage.frames[..., 0], street(6, 1.0, seed=1))


def test_a_part_of_ucsd_keeps_the_labels_of_its_clips(ucsd):
    shutil.rmtree(ucsd / "Test" / "Test001")
    (clip,) = labelled_clips(ucsd)
    assert (clip.source.name, clip.labels.tolist()) == ("Test002", [1] * 6)


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("Test/UCSDped2.m", r"Test/UCSDped2\.m, the frame labels, is missing; extract the archive again from http"),
        ("Test/Test001_gt/003.bmp", r"'Test001' has 6 labels and 5 masks"),
        ("Test/Test002/006.tif", r"Test002 has 5 frames, its anomalous ones reach to 6"),
    ],
)
def test_what_ucsd_lacks_is_named(ucsd, lost, told):
    (ucsd / lost).unlink()
    with pytest.raises(BadLabels, match=told):
        labelled_clips(ucsd)


def test_ucsd_without_a_split_says_what_is_missing(ucsd):
    shutil.rmtree(ucsd / "Train")
    with pytest.raises(NoFootage, match=r"Train/Train001/001\.tif and its like are missing"):
        training_sources(ucsd)
    assert training_sources_if_any(ucsd) == []


def test_of_both_ucsd_sets_one_has_to_be_chosen(ucsd):
    shutil.copytree(ucsd, ucsd.with_name("UCSDped1"))
    with pytest.raises(NoFootage, match=r"two cameras; give one of them: .*UCSDped2"):
        training_sources(ucsd.parent)


def test_ucsds_masks_are_never_taken_for_clips(ucsd):
    with pytest.raises(NoFootage, match=r"Test is the test split of a UCSD set, .* give the folder that it lies in"):
        training_sources(ucsd / "Test")


def test_more_ucsd_clips_than_labels_is_told(ucsd):
    (ucsd / "Test" / "Test002").rename(ucsd / "Test" / "Test003")
    with pytest.raises(BadLabels, match=r"labels 2 clips, none of them Test003"):
        labelled_clips(ucsd)


def test_avenues_two_archives_may_lie_side_by_side_or_one_in_the_other(avenue):
    inside = avenue / "Avenue Dataset"
    for path in (avenue, inside):
        assert [source.name for source in training_sources(path)] == ["01", "02", "03"]
        first, second = labelled_clips(path)
        assert (first.labels.tolist(), second.labels.tolist()) == ([0, 0, 1, 1, 0, 0], [0] * 6)
    (avenue / "ground_truth_demo").rename(inside / "ground_truth_demo")
    assert np.argwhere(labelled_clips(inside)[0].masks[3]).tolist() == [[3, 3]]


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("ground_truth_demo", r"testing_label_mask, the masks of the test frames, is missing; extract ground_truth_demo\.zip"),
        ("ground_truth_demo/testing_label_mask/2_label.mat", r"2_label\.mat, the masks of 02\.avi, is missing"),
    ],
)
def test_masks_that_avenue_lacks_are_named(avenue, lost, told):
    shutil.rmtree(avenue / lost) if (avenue / lost).is_dir() else (avenue / lost).unlink()
    with pytest.raises(BadLabels, match=told):
        labelled_clips(avenue)


def test_videos_that_avenue_lacks_are_named(avenue):
    shutil.rmtree(avenue / "Avenue Dataset" / "testing_videos")
    with pytest.raises(NoFootage, match=r"testing_videos/01\.avi and its like are missing; extract Avenue_Dataset\.zip"):
        labelled_clips(avenue)


def test_shanghaitech_has_videos_to_learn_from_and_labelled_frames(shanghaitech):
    assert [source.name for source in training_sources(shanghaitech)] == ["01_001", "02_001"]
    (clip,) = labelled_clips(shanghaitech)
    assert (clip.source.name, clip.labels.tolist()) == ("01_0014", [0, 1, 1, 0, 0, 1])
    assert (clip.labels.dtype, clip.masks[5].dtype) == (np.uint8, np.bool_)
    assert np.argwhere(clip.masks[5]).tolist() == [[3, 5]]


def test_shanghaitech_may_come_without_masks_but_not_without_labels(shanghaitech):
    shutil.rmtree(shanghaitech / "testing" / "test_pixel_mask")
    assert labelled_clips(shanghaitech)[0].masks is None
    (shanghaitech / "testing" / "test_frame_mask" / "01_0014.npy").unlink()
    with pytest.raises(BadLabels, match=r"01_0014\.npy, the frame labels of 01_0014, is missing; extract shanghaitech"):
        labelled_clips(shanghaitech)


def test_shanghaitech_without_its_training_videos_is_told(shanghaitech):
    shutil.rmtree(shanghaitech / "training")
    with pytest.raises(NoFootage, match=r"training/videos/01_001\.avi and its like are missing"):
        training_sources(shanghaitech)


@pytest.mark.parametrize(
    ("place", "wrong"), [("frame", np.zeros((6, 2), int)), ("pixel", np.zeros((6, 64), int)), ("frame", np.zeros(6))]
)
def test_arrays_of_another_kind_are_refused(shanghaitech, place, wrong):
    np.save(shanghaitech / "testing" / f"test_{place}_mask" / "01_0014.npy", wrong)
    with pytest.raises(BadLabels, match=r"01_0014\.npy: expected integers in \d dimensions"):
        labelled_clips(shanghaitech)


def test_only_what_has_no_test_clips_is_plain_footage(tmp_path, street, pictures, ucsd):
    own = tmp_path / "own"
    pictures(own / "training" / "frames" / "a", street(2, 1.0))
    assert is_plain_footage(own)
    assert is_plain_footage(own / "training")
    pictures(own / "testing" / "frames" / "b", street(2, 1.0))
    assert not is_plain_footage(own)
    assert not is_plain_footage(ucsd)


def test_a_folder_of_videos_with_a_label_file_is_for_tests_alone(tmp_path, street, video):
    for name in ("gate", "yard"):
        video(tmp_path / f"{name}.mkv", street(8, 1.0))
    (tmp_path / "frame_labels.csv").write_text("clip,first_frame,last_frame\ngate,2,3\ngate.mkv,7,7\n")
    gate, yard = labelled_clips(tmp_path)
    assert (gate.labels.tolist(), yard.labels.tolist()) == ([0, 0, 1, 1, 0, 0, 0, 1], [0] * 8)
    with pytest.raises(NoFootage, match=r"has labels \(frame_labels\.csv\), so it is for tests"):
        training_sources(tmp_path)
