import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.io import savemat

from trainer.data.labels import ArrayMasks, PackedMasks, find_image_masks, read_matlab_masks, read_npy
from trainer.errors import BadLabels


@given(
    arrays.arrays(np.uint8, arrays.array_shapes(min_dims=3, max_dims=3, max_side=9), elements=st.sampled_from([0, 0, 0, 1, 255]))
)
def test_packing_is_lossless(masks):
    packed = PackedMasks.pack(list(masks))
    assert len(packed) == len(masks)
    assert all(np.array_equal(packed[frame], mask != 0) for frame, mask in enumerate(masks))
    assert packed.labels.tolist() == [int(mask.any()) for mask in masks]
    with pytest.raises(IndexError):
        packed[len(masks)]


def test_masks_of_an_array_are_boolean(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[[0, 2], [0, 0]], [[0, 0], [1, 0]]], np.int64))
    masks = ArrayMasks(read_npy(tmp_path / "a.npy", 3))
    assert len(masks) == 2
    assert (masks[0].dtype, masks[0].tolist()) == (np.bool_, [[False, True], [False, False]])


def test_arrays_are_memory_mapped(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4), np.bool_))
    assert isinstance(read_npy(tmp_path / "a.npy", 3), np.memmap)


@settings(deadline=None)  # a busy disk is no failure
@given(st.data())
def test_damaged_array_is_read_or_rejected(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    good = io.BytesIO()
    np.save(good, np.zeros((2, 3, 4), np.uint8))
    content = bytearray(good.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        array = read_npy(path, 3)
    except BadLabels:
        return
    assert array.ndim == 3


def test_rejects_arrays_larger_than_the_file(tmp_path):
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 480, 856)})
    with pytest.raises(BadLabels, match=r"a\.npy: "):
        read_npy(path, 3)


def mat(path, **values):
    savemat(path, values)
    return path


def cells(*masks):
    row = np.empty((1, len(masks)), object)
    row[0, :] = masks
    return row


def test_reads_matlab_files_in_order(tmp_path):
    blank, marked = np.zeros((4, 5), np.uint8), np.zeros((4, 5), np.uint8)
    marked[1, 2] = 1
    first = mat(tmp_path / "1_label.mat", volLabel=cells(blank, marked))
    second = mat(tmp_path / "2_label.mat", volLabel=cells(marked.astype(float), blank.astype(float)))
    one, two = read_matlab_masks([first, second])
    assert (one.labels.tolist(), two.labels.tolist()) == ([0, 1], [1, 0])
    assert np.array_equal(two[0], marked != 0)


def crashing(path):
    """A type that SciPy's reader looks up beyond the end of its table."""
    mat(path, volLabel=cells(np.ones((4, 5), np.uint8)))
    content = bytearray(path.read_bytes())
    content[232] = 255  # the type of the one mask's numbers
    path.write_bytes(content)


WRONG = {
    "missing": lambda path: path.unlink(missing_ok=True),
    "empty": lambda path: path.write_bytes(b""),
    "no MATLAB": lambda path: path.write_bytes(b"volLabel" * 100),
    "HDF5": lambda path: path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF" * 99),
    "another name": lambda path: mat(path, labels=cells(np.ones((4, 5)))),
    "no cells": lambda path: mat(path, volLabel=np.ones((4, 5))),
    "two sizes": lambda path: mat(path, volLabel=cells(np.ones((4, 5)), np.ones((5, 4)))),
    "text": lambda path: mat(path, volLabel=cells("one", "two")),
    "crash": crashing,
}


@pytest.mark.parametrize("wrong", WRONG)
def test_rejects_other_matlab_files(tmp_path, wrong):
    WRONG[wrong](tmp_path / "1_label.mat")
    with pytest.raises(BadLabels, match=r"1_label\.mat"):
        list(read_matlab_masks([tmp_path / "1_label.mat"]))


def write_masks(folder, masks):
    folder.mkdir(parents=True)
    for number, mask in enumerate(masks):
        cv2.imwrite(str(folder / f"{number}.png"), mask)
    return folder


def test_reads_mask_images_in_natural_order(tmp_path):
    images = np.zeros((12, 6, 8), np.uint8)
    images[10, 2, 3], images[11, 5, 7] = 1, 255
    masks = find_image_masks(write_masks(tmp_path / "01", images))
    assert len(masks) == 12
    assert (masks[10].dtype, masks[10].shape, masks[10].sum()) == (np.bool_, (6, 8), 1)
    assert masks[11][5, 7]
    assert not masks[2].any()


def test_folders_without_images_have_no_masks(tmp_path):
    (tmp_path / "empty").mkdir()
    assert find_image_masks(tmp_path / "missing") is None
    assert find_image_masks(tmp_path / "empty") is None


def test_names_mask_images_that_do_not_decode(tmp_path):
    folder = write_masks(tmp_path / "01", np.random.default_rng(0).integers(0, 255, (1, 64, 64), np.uint8))
    whole = (folder / "0.png").read_bytes()
    for content in (b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, whole[: len(whole) // 2]):
        (folder / "0.png").write_bytes(content)
        with pytest.raises(BadLabels, match=r"0\.png: "):
            find_image_masks(folder)[0]
