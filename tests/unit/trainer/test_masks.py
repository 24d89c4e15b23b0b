import cv2
import numpy as np
import pytest

from trainer.data.datasets.registry import labelled_clips
from trainer.data.masks import find_image_masks
from trainer.errors import BadLabels


def write_masks(folder, masks):
    folder.mkdir(parents=True)
    for number, mask in enumerate(masks):
        cv2.imwrite(str(folder / f"{number}.png"), mask)
    return folder


def test_masks_are_read_in_natural_order_and_every_value_but_0_is_anomalous(tmp_path):
    pictures = np.zeros((12, 6, 8), np.uint8)
    pictures[10, 2, 3], pictures[11, 5, 7] = 1, 255
    masks = find_image_masks(write_masks(tmp_path / "01", pictures))
    assert masks is not None
    assert len(masks) == 12
    assert (masks[10].dtype, masks[10].shape, masks[10].sum()) == (np.bool_, (6, 8), 1)
    assert masks[11][5, 7]
    assert not masks[2].any()


def test_no_folder_and_no_picture_are_no_masks(tmp_path):
    (tmp_path / "empty").mkdir()
    assert find_image_masks(tmp_path / "missing") is None
    assert find_image_masks(tmp_path / "empty") is None


@pytest.mark.parametrize("encoded", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_bytes_that_are_no_picture_are_told_with_the_file(tmp_path, encoded):
    folder = write_masks(tmp_path / "01", np.zeros((2, 6, 8), np.uint8))
    (folder / "1.png").write_bytes(encoded)
    masks = find_image_masks(folder)
    with pytest.raises(BadLabels, match=r"1\.png: "):
        masks[1]


def test_a_truncated_picture_is_told_with_the_file(tmp_path):
    folder = write_masks(tmp_path / "01", np.random.default_rng(0).integers(0, 255, (1, 64, 64), np.uint8))
    whole = (folder / "0.png").read_bytes()
    (folder / "0.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadLabels, match=r"0\.png: "):
        find_image_masks(folder)[0]


def test_test_clips_carry_their_masks_and_there_must_be_one_a_frame(tmp_path, street, pictures):
    for name in ("01", "02"):
        pictures(tmp_path / "testing" / "frames" / name, street(3, 1.0))
    np.savez(tmp_path / "frame_labels.npz", **{name: np.array([0, 1, 1], np.uint8) for name in ("01", "02")})
    folder = write_masks(tmp_path / "testing" / "masks" / "01", np.zeros((3, 64, 96), np.uint8))
    assert [None if clip.masks is None else len(clip.masks) for clip in labelled_clips(tmp_path)] == [3, None]
    (folder / "2.png").unlink()
    with pytest.raises(BadLabels, match=r"clip '01' has 3 labels and 2 masks"):
        labelled_clips(tmp_path)
