import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score
from torch import Tensor

from trainer.benchmark.data import MixedSamples
from trainer.errors import BadShape
from trainer.models.esad import RECIPE, Coded, Esad, EsadConfig, EsadLearner, assistant_loss, entropy_loss, information_loss
from trainer.models.layers import BatchNorm
from trainer.training.distributed import DistributedContext
from trainer.training.interfaces import ANOMALY, NORMAL, Batch
from trainer.training.loop import Callback, LoopSettings, TrainingData, run_loop

SMALL = EsadConfig(widths=(4, 6), hidden=(8, 6), latent=3)
IMAGE, ROW = (1, 16, 16), (5,)
BASIS = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 2)))[0]


def detector(config: EsadConfig, shape: tuple[int, ...]) -> Esad:
    torch.manual_seed(0)
    return Esad(config, shape)


def test_information_loss_sums_squares():
    reconstruction = torch.tensor([[[[1.0, 0.0], [0.0, 0.5]]], [[[0.0, 0.0], [0.0, 2.0]]]])
    assert information_loss(torch.zeros(2, 1, 2, 2), reconstruction).tolist() == [1.25, 4.0]


def test_entropy_loss_by_label():
    codes = torch.tensor([[3.0, 4.0], [3.0, 4.0], [0.0, 0.0]])
    found = entropy_loss(codes, torch.tensor([True, False, False])).tolist()
    assert found == pytest.approx([5.0, 1 / (5.0 + 1e-6), 1 / (1e-6 + 1e-6)], rel=1e-5)


def test_assistant_loss_is_mean_square():
    coded = Coded(torch.tensor([[1.0, 2.0]]), torch.zeros(1), torch.tensor([[0.0, 4.0]]))
    assert assistant_loss(coded).tolist() == [(1 + 4) / 2]


def test_target_of_anomalies_is_noise(alone):
    model = detector(SMALL, ROW)
    learner, samples = EsadLearner(model, SMALL), torch.randn(6, *ROW)
    labels = torch.tensor([NORMAL, ANOMALY, NORMAL, ANOMALY, NORMAL, NORMAL])
    torch.manual_seed(7)
    noise = 3.0 * torch.randn(6, *ROW)
    model.train()
    coded = model.code(samples)
    targets = torch.where((labels == NORMAL)[:, None], samples, noise)
    expected = {
        "information": information_loss(targets, coded.reconstruction).mean(),
        "entropy": entropy_loss(coded.latent_again, labels == NORMAL).mean(),
        "assistant": assistant_loss(coded).mean(),
    }
    torch.manual_seed(7)
    found = learner.learn(Batch(samples, labels), 0.0, alone)
    assert {name: float(term) for name, term in found.items()} == pytest.approx(
        {name: float(term.detach()) for name, term in expected.items()}, rel=1e-5
    )


def test_networks_cannot_collapse():
    """A bias or an affine normalisation would let every code be the same."""
    for shape in (IMAGE, ROW):
        model = detector(SMALL, shape)
        assert not [name for name, _ in model.named_parameters() if name.endswith("bias")]
        norms = [layer for layer in model.modules() if isinstance(layer, BatchNorm)]
        assert norms
        assert not any(layer.affine for layer in norms)
        assert not set(map(id, model.encoder.parameters())) & set(map(id, model.encoder_again.parameters()))


def test_sum_score_is_error_plus_length():
    model = detector(SMALL, IMAGE).eval()
    samples = torch.rand(3, *IMAGE) * 2 - 1
    coded = model.code((samples + 1) / 2)
    error = (coded.reconstruction - (samples + 1) / 2).square().mean(dim=(1, 2, 3))
    scores = model.scores(samples)
    assert torch.allclose(scores["reconstruction"], error)
    assert torch.allclose(scores["entropy"], coded.latent_again.norm(dim=1))
    assert torch.allclose(scores["sum"], error + coded.latent_again.norm(dim=1))
    assert torch.equal(model(samples), scores["sum"])
    assert next(iter(scores)) == "sum"
    assert next(iter(detector(SMALL.model_copy(update={"score": "relative"}), IMAGE).eval().scores(samples))) == "relative"


def test_relative_score_is_standardised():
    config = SMALL.model_copy(update={"score": "relative"})
    model, normals = detector(config, IMAGE).eval(), torch.rand(200, *IMAGE) * 2 - 1
    model.fit_scale(normals)
    with torch.inference_mode():
        found = model(normals)
        inputs = (normals + 1) / 2
        error = (model.code(inputs).reconstruction - inputs).square().mean(dim=(1, 2, 3))
        energy = inputs.square().mean(dim=(1, 2, 3))
    assert float(found.mean()) == pytest.approx(0.0, abs=1e-3)
    parts = error / (energy + 0.25 * energy.mean()), model.scores(normals)["entropy"]
    expected = sum((part - part.mean()) / part.std() for part in parts)
    assert torch.allclose(found, expected, atol=1e-3)


def test_learning_rate_schedule():
    learner = EsadLearner(detector(SMALL, ROW), SMALL)
    factors = [learner.rate_factor(share) for share in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert factors == pytest.approx([0.04, 0.52, 1.0, 0.5, 0.0], abs=1e-6)


def plane(count: int, seed: int) -> Tensor:
    """Normal rows: points of a plane in six dimensions, with a little noise."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(count, 2)) @ BASIS.T * 2 + 0.1 * rng.normal(size=(count, 6))).float()


def trained(changes: dict, anomalies: Tensor, alone: DistributedContext) -> Esad:
    config = EsadConfig(hidden=(16,), latent=2, **changes)
    torch.manual_seed(0)
    model = Esad(config, (6,))
    data = TrainingData(MixedSamples(plane(500, 2), anomalies, 0.3, None))
    run_loop(EsadLearner(model, config), data, LoopSettings(seed=0, batch=50, steps=300), alone, Callback())
    return model.eval()


def area(model: Esad, anomalies: Tensor, score: str) -> float:
    normals = plane(300, 3)
    with torch.inference_mode():
        scores = model.scores(torch.cat([normals, anomalies]))[score]
    return float(roc_auc_score([0] * len(normals) + [1] * len(anomalies), scores))


def off_the_plane(count: int, seed: int) -> Tensor:
    """As long as normal rows are, in any direction."""
    directions = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return directions / directions.norm(dim=1, keepdim=True) * plane(count, seed).norm(dim=1, keepdim=True)


def test_information_loss_separates_anomalies(alone):
    anomalies, none = off_the_plane(300, 4), torch.empty(0, 6)
    assert area(trained({}, none, alone), anomalies, "sum") > 0.9
    assert area(trained({"information_weight": 0.0}, none, alone), anomalies, "sum") < 0.75


def spot_on_the_plane(count: int, seed: int) -> Tensor:
    """Where normal rows are rare but no stranger than elsewhere: only labels tell that it is bad to be there."""
    rng = np.random.default_rng(seed)
    points = np.array([3.0, -3.0]) + 0.4 * rng.normal(size=(count, 2))
    return torch.from_numpy(points @ BASIS.T + 0.1 * rng.normal(size=(count, 6))).float()


def test_entropy_loss_learns_from_labels(alone):
    labelled, like_them = spot_on_the_plane(100, 5), spot_on_the_plane(300, 6)
    assert area(trained({}, torch.empty(0, 6), alone), like_them, "entropy") < 0.9
    assert area(trained({}, labelled, alone), like_them, "entropy") > 0.97
    assert area(trained({"entropy_weight": 0.0}, labelled, alone), like_them, "entropy") < 0.5


def test_rejects_bad_settings_and_shapes():
    with pytest.raises(ValidationError, match="widths"):
        RECIPE.configure({"widths": []})
    with pytest.raises(BadShape, match=r"\(1, 18, 18\).*multiple of 4"):
        detector(SMALL, (1, 18, 18))
