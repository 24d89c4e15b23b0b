import numpy as np
import pytest
import torch
from scipy.io import savemat
from scipy.sparse import csc_array

from tests.harness.replay import DATA
from trainer.benchmark.data import Augmentation, DataSplit, MixedSamples, image_split, read_images, read_table, table_split
from trainer.benchmark.protocols import TABLES, OddsTable, RowLabels, SplitRows
from trainer.errors import BadDataset

# Files

IMAGES, CLASSES = np.arange(20, dtype=np.uint8).repeat(28 * 28).reshape(20, 28, 28), np.arange(20, dtype=np.uint8) % 10
ARRAYS = {"x_train": IMAGES, "y_train": CLASSES, "x_test": IMAGES[10:], "y_test": CLASSES[10:]}
TABLE_LABELS = RowLabels(np.repeat([0, 1], [100, 20]), np.zeros(120, np.bool_))
VALUES, LABELS = np.arange(24.0).reshape(12, 2), np.repeat([0, 1], [9, 3])[:, None]


def test_reads_images(tmp_path):
    np.savez_compressed(tmp_path / "mnist.npz", **ARRAYS)
    images, labels = read_images(tmp_path, "mnist")
    assert np.array_equal(images[:, 0, 0], [*range(20), *range(10, 20)])
    assert np.array_equal(labels.classes, [*range(10), *range(10), *range(10)])
    assert labels.from_test_file.tolist() == [False] * 20 + [True] * 10


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"x_train": IMAGES.astype(np.float32)}, "x_train must be uint8"),
        ({"x_train": IMAGES[:, :27]}, "x_train must be uint8"),
        ({"x_test": IMAGES[10:19]}, "y_test must be integers, one for each image"),
        ({"y_test": CLASSES[10:].astype(float)}, "y_test must be integers"),
        ({"y_train": CLASSES % 9}, "y_train must contain each class"),
        ({"y_train": CLASSES + 1}, "y_train must contain each class"),
        ({"y_test": np.array([None] * 10)}, "allow_pickle"),
    ],
)
def test_rejects_invalid_arrays(tmp_path, changes, named):
    np.savez(tmp_path / "fashion_mnist.npz", **{**ARRAYS, **changes})
    with pytest.raises(BadDataset, match=f"fashion_mnist.npz.*{named}"):
        read_images(tmp_path, "fashion-mnist")


def test_rejects_missing_array(tmp_path):
    np.savez(tmp_path / "mnist.npz", **{name: array for name, array in ARRAYS.items() if name != "y_test"})
    with pytest.raises(BadDataset, match="has no y_test"):
        read_images(tmp_path, "mnist")


def test_rejects_huge_array_before_unpacking(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "mnist.npz", **ARRAYS)
    monkeypatch.setattr("trainer.benchmark.data._MAX_BYTES", 1000)
    monkeypatch.setattr(np, "load", pytest.fail)
    with pytest.raises(BadDataset, match="must not have more than 1000"):
        read_images(tmp_path, "mnist")


@pytest.mark.parametrize("size", [0, 30, 500])
def test_rejects_truncated_npz(tmp_path, size):
    np.savez_compressed(tmp_path / "mnist.npz", **ARRAYS)
    whole = (tmp_path / "mnist.npz").read_bytes()
    (tmp_path / "mnist.npz").write_bytes(whole[:size])
    with pytest.raises(BadDataset, match=r"must be an \.npz file"):
        read_images(tmp_path, "mnist")


def test_rejects_corrupt_npz(tmp_path):
    np.savez_compressed(tmp_path / "mnist.npz", **ARRAYS)
    content = bytearray((tmp_path / "mnist.npz").read_bytes())
    content[100:110] = bytes(10)
    (tmp_path / "mnist.npz").write_bytes(content)
    with pytest.raises(BadDataset, match=r"must be an \.npz file"):
        read_images(tmp_path, "mnist")


def test_rejects_missing_files(tmp_path):
    with pytest.raises(BadDataset, match=r"mnist\.npz is no file; --data must be the folder"):
        read_images(tmp_path, "mnist")
    with pytest.raises(BadDataset, match=r"cardio\.mat is no file; --data must be the folder"):
        read_table(tmp_path, "cardio")


def test_reads_table(tmp_path):
    savemat(tmp_path / "own.mat", {"X": VALUES.astype(np.int16), "y": LABELS})
    values, labels = read_table(tmp_path, "own")
    assert values.dtype == np.float64
    assert np.array_equal(values, VALUES)
    assert np.array_equal(labels.classes, LABELS[:, 0])
    assert not labels.from_test_file.any()


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
        ({"y": LABELS * 2}, "y must be 0 or 1"),
        ({"y": LABELS * 0}, "0 of 12 rows are outliers"),
        ({"y": LABELS * 0 + 1}, "12 of 12 rows are outliers"),
        ({"y": {"a": 1}}, "y must be a matrix of real numbers"),
        ({"y": None}, "y must be a matrix of real numbers, got nothing"),
    ],
)
def test_rejects_invalid_table(tmp_path, changes, named):
    arrays = {"X": VALUES, "y": LABELS, **changes}
    savemat(tmp_path / "own.mat", {name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(BadDataset, match=f"own.mat: .*{named}"):
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
def test_rejects_file_that_is_no_table(tmp_path, content):
    (tmp_path / "own.mat").write_bytes(content)
    with pytest.raises(BadDataset, match="must be a MATLAB file of version 5 to 7"):
        read_table(tmp_path, "own")


@pytest.mark.parametrize("size", [100, 129, 200])
def test_rejects_truncated_table(tmp_path, size):
    savemat(tmp_path / "own.mat", {"X": VALUES, "y": LABELS}, do_compression=True)
    whole = (tmp_path / "own.mat").read_bytes()
    assert len(whole) > size
    (tmp_path / "own.mat").write_bytes(whole[:size])
    with pytest.raises(BadDataset, match=r"own\.mat"):
        read_table(tmp_path, "own")


@pytest.mark.parametrize("name", ["../own", "/etc/passwd", ""])
def test_rejects_path_as_name(tmp_path, name):
    with pytest.raises(BadDataset):
        read_table(tmp_path, name)


@pytest.mark.data
@pytest.mark.parametrize(("dataset", "folder"), [("mnist", "mnist"), ("fashion-mnist", "fashion_mnist")])
def test_real_images(dataset, folder):
    if not (DATA / folder).is_dir():
        pytest.skip(f"no {folder} in {DATA}: set ODDSIGHT_DATA")
    images, labels = read_images(DATA / folder, dataset)
    assert images.shape == (70000, 28, 28)
    assert labels.from_test_file.sum() == 10000
    assert labels.classes.min() == 0
    assert labels.classes.max() == 9


@pytest.mark.data
def test_real_tables():
    if not (DATA / "odds").is_dir():
        pytest.skip(f"no odds in {DATA}: set ODDSIGHT_DATA")
    sizes = {
        name: (*table.values.shape, table.labels.classes.sum()) for name in TABLES if (table := read_table(DATA / "odds", name))
    }
    assert sizes == {
        "arrhythmia": (452, 274, 66),
        "cardio": (1831, 21, 176),
        "satellite": (6435, 36, 2036),
        "satimage-2": (5803, 36, 71),
        "shuttle": (49097, 9, 3511),
        "thyroid_derived": (3772, 6, 93),
    }


# Samples


def test_images_are_padded_and_scaled():
    images = np.arange(3, dtype=np.uint8).repeat(28 * 28).reshape(3, 28, 28)
    images[2] = 255
    split = image_split(images, SplitRows(np.array([0, 1]), np.array([2]), np.array([0]), np.array([], np.int64)))
    (normals, anomalies), test = split.train, split.test
    assert (normals.shape, anomalies.shape) == ((2, 1, 32, 32), (1, 1, 32, 32))
    assert normals.dtype == torch.float32
    assert torch.equal(normals[0], torch.full((1, 32, 32), -1.0))
    assert normals[1, 0, 5, 5] == pytest.approx(1 / 127.5 - 1)
    assert torch.equal(anomalies[0, 0, 2:-2, 2:-2], torch.ones(28, 28))
    assert anomalies.sum() == 28 * 28 - (32 * 32 - 28 * 28)
    assert [len(part) for part in test] == [1, 0]


SCALES = pytest.mark.parametrize("scale", ["range", "deviation"])


def scaled_table(values: np.ndarray, ratio: float = 0.2, scale: str = "range") -> DataSplit:
    return table_split(values, OddsTable("cardio", ratio).rows(TABLE_LABELS, 0), scale)


def test_scale_by_range():
    values = np.random.default_rng(0).normal(50, [1.0, 1e3, 1e-3], (120, 3))
    normals = scaled_table(values).train.normals
    assert torch.allclose(normals.amin(0), -torch.ones(3), atol=1e-5)
    assert torch.allclose(normals.amax(0), torch.ones(3), atol=1e-5)


def test_scale_by_deviation():
    values = np.random.default_rng(0).normal(50, [1.0, 1e3, 1e-3], (120, 3))
    normals = scaled_table(values, scale="deviation").train.normals
    assert torch.allclose(normals.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(normals.std(0, correction=0), torch.ones(3), atol=1e-5)


def test_deviations_are_clipped_at_ten():
    values = np.random.default_rng(0).normal(size=(120, 3))
    values[100:] *= 1e6
    assert scaled_table(values, scale="deviation").test.anomalies.abs().amax() == 10.0


@SCALES
def test_constant_column_becomes_zero(scale):
    assert not torch.cat(scaled_table(np.full((120, 1), 0.1), scale=scale).train).any()


@SCALES
def test_scale_uses_normal_training_rows_only(scale):
    values = np.random.default_rng(0).normal(size=(120, 3))
    rows = scaled_table(values).rows
    spoiled = np.full_like(values, 1e9)
    spoiled[rows.normals] = values[rows.normals]
    assert torch.equal(scaled_table(spoiled, scale=scale).train.normals, scaled_table(values, scale=scale).train.normals)
    assert all(map(torch.equal, scaled_table(values, 0.0, scale).test, scaled_table(values, 0.2, scale).test))


# Batches


def bars(count: int) -> torch.Tensor:
    """An upright bar, a little left of the middle."""
    pictures = torch.full((count, 1, 16, 16), -1.0)
    pictures[:, :, 2:14, 5:8] = 1.0
    return pictures


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_share_of_anomalies_in_batches():
    samples = MixedSamples(torch.zeros(100, 3), torch.ones(2, 3), 0.25, None)
    batch = samples.draw(torch.arange(30))
    assert len(samples) == 100
    assert batch.samples.shape == (40, 3)
    assert batch.labels.tolist() == [1.0] * 30 + [-1.0] * 10
    assert batch.samples[:, 0].tolist() == [0.0] * 30 + [1.0] * 10


def test_batch_without_labelled_anomalies():
    batch = MixedSamples(torch.zeros(100, 3), torch.empty(0, 3), 0.25, None).draw(torch.arange(30))
    assert batch.samples.shape == (30, 3)
    assert set(batch.labels.tolist()) == {1.0}


def test_augmentation_is_random_and_in_range():
    augmentation = Augmentation(1.0, "turned")
    first, second = augmentation.augment_normals(bars(8)), augmentation.augment_normals(bars(8))
    assert not torch.equal(first, second)
    assert float(first.min()) == pytest.approx(-1.0)
    assert float(first.max()) <= 1.0 + 1e-5
    assert float(first[:, :, :, 12:].mean()) < -0.95  # a bar still stands where it stood
    assert (first[:, :, 6:10, 4:9].amax(dim=(1, 2, 3)) > 0.5).all()


def test_augmentation_without_strength():
    assert torch.allclose(Augmentation(0.0, "turned").augment_normals(bars(3)), bars(3), atol=1e-5)


def test_half_of_turned_anomalies_are_turned():
    turned = Augmentation(0.0, "turned").augment_anomalies(bars(40), bars(1))
    assert torch.equal(turned[:20], bars(20))
    lying = (turned[20:, 0, :, 10:].amax(dim=(1, 2)) > 0).float().mean()  # where no upright bar can be
    assert float(lying) > 0.3


def test_third_of_mixed_anomalies_are_mixed():
    normal = torch.full((5, 1, 16, 16), 0.25)
    mixed = Augmentation(0.0, "mixed").augment_anomalies(torch.full((9, 1, 16, 16), -1.0), normal)
    assert [int((picture == 0.25).sum()) for picture in mixed] == [128] * 3 + [0] * 6


@pytest.mark.parametrize("anomalies", ["turned", "mixed"])
def test_augments_a_single_anomaly(anomalies):
    batch = MixedSamples(bars(20), bars(1), 0.1, Augmentation(0.5, anomalies)).draw(torch.arange(9))
    assert batch.samples.shape == (10, 1, 16, 16)
    assert torch.isfinite(batch.samples).all()
