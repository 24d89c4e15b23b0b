import numpy as np
import pytest
from scipy.io import savemat
from scipy.sparse import csc_array

from tests.harness.replay import DATA
from trainer.benchmark.data import read_pictures, read_table
from trainer.benchmark.protocols import TABLES
from trainer.errors import BadDataset

IMAGES, CLASSES = np.arange(20, dtype=np.uint8).repeat(28 * 28).reshape(20, 28, 28), np.arange(20, dtype=np.uint8) % 10
ARRAYS = {"x_train": IMAGES, "y_train": CLASSES, "x_test": IMAGES[10:], "y_test": CLASSES[10:]}
VALUES, LABELS = np.arange(24.0).reshape(12, 2), np.repeat([0, 1], [9, 3])[:, None]


def test_pictures_are_read_training_file_first(tmp_path):
    np.savez_compressed(tmp_path / "mnist.npz", **ARRAYS)
    images, known = read_pictures(tmp_path, "mnist")
    assert np.array_equal(images[:, 0, 0], [*range(20), *range(10, 20)])
    assert np.array_equal(known.classes, [*range(10), *range(10), *range(10)])
    assert known.from_test_file.tolist() == [False] * 20 + [True] * 10


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"x_train": IMAGES.astype(np.float32)}, "x_train must be uint8"),
        ({"x_train": IMAGES[:, :27]}, "x_train must be uint8"),
        ({"x_test": IMAGES[10:19]}, "y_test must be integers, one a picture"),
        ({"y_test": CLASSES[10:].astype(float)}, "y_test must be integers"),
        ({"y_train": CLASSES % 9}, "y_train must hold each class"),
        ({"y_train": CLASSES + 1}, "y_train must hold each class"),
        ({"y_test": np.array([None] * 10)}, "allow_pickle"),
    ],
)
def test_arrays_that_are_something_else_are_refused_by_name(tmp_path, changes, named):
    np.savez(tmp_path / "fashion_mnist.npz", **{**ARRAYS, **changes})
    with pytest.raises(BadDataset, match=f"fashion_mnist.npz.*{named}"):
        read_pictures(tmp_path, "fashion-mnist")


def test_a_missing_array_is_named(tmp_path):
    np.savez(tmp_path / "mnist.npz", **{name: array for name, array in ARRAYS.items() if name != "y_test"})
    with pytest.raises(BadDataset, match="has no y_test"):
        read_pictures(tmp_path, "mnist")


def test_an_array_that_would_fill_the_memory_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "mnist.npz", **ARRAYS)
    monkeypatch.setattr("trainer.benchmark.data._MOST_BYTES", 1000)
    monkeypatch.setattr(np, "load", pytest.fail)
    with pytest.raises(BadDataset, match="must not have more than 1000"):
        read_pictures(tmp_path, "mnist")


@pytest.mark.parametrize("kept", [0, 30, 500])
def test_a_file_cut_short_is_refused(tmp_path, kept):
    np.savez_compressed(tmp_path / "mnist.npz", **ARRAYS)
    whole = (tmp_path / "mnist.npz").read_bytes()
    (tmp_path / "mnist.npz").write_bytes(whole[:kept])
    with pytest.raises(BadDataset, match=r"must be an \.npz file"):
        read_pictures(tmp_path, "mnist")


def test_a_file_with_flipped_bytes_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "mnist.npz", **ARRAYS)
    content = bytearray((tmp_path / "mnist.npz").read_bytes())
    content[100:110] = bytes(10)
    (tmp_path / "mnist.npz").write_bytes(content)
    with pytest.raises(BadDataset, match=r"must be an \.npz file"):
        read_pictures(tmp_path, "mnist")


def test_what_is_not_there_is_named_with_what_data_should_be(tmp_path):
    with pytest.raises(BadDataset, match=r"mnist\.npz is no file; --data must be the folder"):
        read_pictures(tmp_path, "mnist")
    with pytest.raises(BadDataset, match=r"cardio\.mat is no file; --data must be the folder"):
        read_table(tmp_path, "cardio")


def test_a_table_is_read_with_its_labels(tmp_path):
    savemat(tmp_path / "own.mat", {"X": VALUES.astype(np.int16), "y": LABELS})
    values, known = read_table(tmp_path, "own")
    assert values.dtype == np.float64
    assert np.array_equal(values, VALUES)
    assert np.array_equal(known.classes, LABELS[:, 0])
    assert not known.from_test_file.any()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"X": "text"}, "X must be a matrix of real numbers"),
        ({"X": VALUES + 1j}, "X must be a matrix of real numbers"),
        ({"X": csc_array(VALUES)}, "X must be a matrix of real numbers"),
        ({"X": np.zeros((12, 0))}, "X must be a matrix of real numbers"),
        ({"X": np.zeros((3, 2, 2))}, "X must be a matrix of real numbers"),
        ({"X": np.where(VALUES == 3, np.nan, VALUES)}, "X must be finite, 1 of its values"),
        ({"y": LABELS[:-1]}, "11 values for 12 rows"),
        ({"y": LABELS * 2}, "y must be one 0 or 1"),
        ({"y": LABELS * 0}, "0 of 12 rows are outliers"),
        ({"y": LABELS * 0 + 1}, "12 of 12 rows are outliers"),
        ({"y": {"a": 1}}, "y must be a matrix of real numbers"),
    ],
)
def test_a_table_that_is_something_else_is_refused_by_name(tmp_path, changes, named):
    savemat(tmp_path / "own.mat", {"X": VALUES, "y": LABELS, **changes})
    with pytest.raises(BadDataset, match=f"own.mat: .*{named}"):
        read_table(tmp_path, "own")


def test_a_table_without_labels_is_refused(tmp_path):
    savemat(tmp_path / "own.mat", {"X": VALUES})
    with pytest.raises(BadDataset, match=r"y must be a matrix of real numbers, got nothing"):
        read_table(tmp_path, "own")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no table at all, but long enough to be taken for a header" * 9,
        b"MATLAB 7.3 MAT-file" + b" " * 105 + b"\0\2IM" + bytes(9),
    ],
    ids=["empty", "text", "version 7.3"],
)
def test_what_is_no_table_is_refused(tmp_path, content):
    (tmp_path / "own.mat").write_bytes(content)
    with pytest.raises(BadDataset, match="must be a MATLAB file of version 5 to 7"):
        read_table(tmp_path, "own")


@pytest.mark.parametrize("kept", [100, 129, 200])
def test_a_table_cut_short_is_refused(tmp_path, kept):
    savemat(tmp_path / "own.mat", {"X": VALUES, "y": LABELS}, do_compression=True)
    whole = (tmp_path / "own.mat").read_bytes()
    assert len(whole) > kept
    (tmp_path / "own.mat").write_bytes(whole[:kept])
    with pytest.raises(BadDataset, match=r"own\.mat"):
        read_table(tmp_path, "own")


@pytest.mark.parametrize("name", ["../own", "/etc/passwd", ""])
def test_a_name_does_not_lead_out_of_the_folder(tmp_path, name):
    with pytest.raises(BadDataset):
        read_table(tmp_path, name)


@pytest.mark.data
@pytest.mark.parametrize(("dataset", "folder"), [("mnist", "mnist"), ("fashion-mnist", "fashion_mnist")])
def test_the_real_pictures_are_70000_with_a_test_file_of_10000(dataset, folder):
    if not (DATA / folder).is_dir():
        pytest.skip(f"no {folder} in {DATA}: set ODDSIGHT_DATA")
    images, known = read_pictures(DATA / folder, dataset)
    assert images.shape == (70000, 28, 28)
    assert known.from_test_file.sum() == 10000
    assert known.classes.min() == 0
    assert known.classes.max() == 9


@pytest.mark.data
def test_the_real_tables_have_their_published_sizes():
    if not (DATA / "odds").is_dir():
        pytest.skip(f"no odds in {DATA}: set ODDSIGHT_DATA")
    sizes = {
        name: (*table.values.shape, table.known.classes.sum()) for name in TABLES if (table := read_table(DATA / "odds", name))
    }
    assert sizes == {
        "arrhythmia": (452, 274, 66),
        "cardio": (1831, 21, 176),
        "satellite": (6435, 36, 2036),
        "satimage-2": (5803, 36, 71),
        "shuttle": (49097, 9, 3511),
        "thyroid_derived": (3772, 6, 93),
    }
