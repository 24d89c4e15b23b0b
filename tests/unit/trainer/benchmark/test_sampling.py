import pytest
import torch

from trainer.benchmark.data import Augmentation, MixedSamples


def bars(count: int) -> torch.Tensor:
    """An upright bar, a little left of the middle."""
    pictures = torch.full((count, 1, 16, 16), -1.0)
    pictures[:, :, 2:14, 5:8] = 1.0
    return pictures


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_every_batch_has_its_share_of_labelled_anomalies_and_an_epoch_is_one_of_normals():
    samples = MixedSamples(torch.zeros(100, 3), torch.ones(2, 3), 0.25, None)
    batch = samples.draw(torch.arange(30))
    assert len(samples) == 100
    assert batch.samples.shape == (40, 3)
    assert batch.labels.tolist() == [1.0] * 30 + [-1.0] * 10
    assert batch.samples[:, 0].tolist() == [0.0] * 30 + [1.0] * 10


def test_where_nothing_is_labelled_a_batch_is_normal():
    batch = MixedSamples(torch.zeros(100, 3), torch.empty(0, 3), 0.25, None).draw(torch.arange(30))
    assert batch.samples.shape == (30, 3)
    assert set(batch.labels.tolist()) == {1.0}


def test_augmented_pictures_differ_each_time_stay_in_range_and_keep_black_around_them():
    augmentation = Augmentation(1.0, "turned")
    first, second = augmentation.of_normals(bars(8)), augmentation.of_normals(bars(8))
    assert not torch.equal(first, second)
    assert float(first.min()) == pytest.approx(-1.0)
    assert float(first.max()) <= 1.0 + 1e-5
    assert float(first[:, :, :, 12:].mean()) < -0.95  # a bar still stands where it stood
    assert (first[:, :, 6:10, 4:9].amax(dim=(1, 2, 3)) > 0.5).all()


def test_without_strength_normal_pictures_stay_what_they_are():
    assert torch.allclose(Augmentation(0.0, "turned").of_normals(bars(3)), bars(3), atol=1e-5)


def test_half_of_turned_anomalies_are_left_alone_and_the_rest_is_turned_far():
    turned = Augmentation(0.0, "turned").of_anomalies(bars(40), bars(1))
    assert torch.equal(turned[:20], bars(20))
    lying = (turned[20:, 0, :, 10:].amax(dim=(1, 2)) > 0).float().mean()  # where no upright bar can be
    assert float(lying) > 0.3


def test_a_third_of_mixed_anomalies_have_one_half_of_a_normal_picture():
    normal = torch.full((5, 1, 16, 16), 0.25)
    mixed = Augmentation(0.0, "mixed").of_anomalies(torch.full((9, 1, 16, 16), -1.0), normal)
    assert [int((picture == 0.25).sum()) for picture in mixed] == [128] * 3 + [0] * 6


@pytest.mark.parametrize("anomalies", ["turned", "mixed"])
def test_one_anomaly_is_enough_to_augment(anomalies):
    batch = MixedSamples(bars(20), bars(1), 0.1, Augmentation(0.5, anomalies)).draw(torch.arange(9))
    assert batch.samples.shape == (10, 1, 16, 16)
    assert torch.isfinite(batch.samples).all()
