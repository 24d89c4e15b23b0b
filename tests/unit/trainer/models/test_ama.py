import math
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

import onnxruntime
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from trainer.models.ama import (
    Ama,
    AmaConfig,
    AmaLearner,
    Pairs,
    autoencoder_loss,
    feature_distance,
    gradient_penalty,
    inward,
    label_weights,
    latent_loss,
    mirrored_distance,
    simplex,
)
from trainer.training.distributed import DistributedContext
from trainer.training.interfaces import ANOMALY, NORMAL, Batch

SMALL = AmaConfig(latent=3, encoder_width=4, generator_width=4, critic_width=4, hidden=(8, 6))
IMAGE, ROW = (1, 16, 16), (5,)


def learner(config: AmaConfig, shape: tuple[int, ...]) -> AmaLearner:
    torch.manual_seed(0)
    return AmaLearner(Ama(config, shape), config)


def changed(config: AmaConfig, **values: float) -> AmaConfig:
    return config.model_copy(update=values)


def normals(samples: Tensor) -> Batch:
    return Batch(samples, torch.full((len(samples),), NORMAL))


def weights(part: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in part.named_parameters()}


def unlike(part: nn.Module, before: Mapping[str, Tensor]) -> list[str]:
    return [name for name, weight in part.named_parameters() if not torch.equal(weight, before[name])]


def linear(*factors: float) -> nn.Linear:
    """A critic of pairs of rows that marks them with the sum of their values times these factors."""
    critic = nn.Linear(len(factors), 1, bias=False)
    critic.weight.data = torch.tensor([factors], dtype=torch.float32)
    return critic


class HalfSquare(nn.Module):
    """A critic whose gradient is what it is shown."""

    def forward(self, pairs: Tensor) -> Tensor:
        return pairs.square().flatten(1).sum(dim=1, keepdim=True) / 2


def test_label_weights():
    assert label_weights(torch.tensor([NORMAL, ANOMALY]), 5.0).tolist() == [1.0, -5.0]


def test_mirrored_distance_of_normal_samples():
    pairs = Pairs(
        samples=torch.tensor([[1.0], [2.0]]), reconstructions=torch.tensor([[0.0], [4.0]]), weights=torch.tensor([2.0, -5.0])
    )
    # Marks 2a + 3b: of (1, 1) and (1, 0) 5 and 2.
    assert float(mirrored_distance(linear(2, 3), pairs).detach()) == pytest.approx(2 * (5 - 2) / 2)


def test_autoencoder_loss_is_weighted_marks():
    reconstructions = torch.tensor([[0.0], [4.0]], requires_grad=True)
    loss = autoencoder_loss(linear(2, 3), Pairs(torch.tensor([[1.0], [2.0]]), reconstructions, torch.tensor([1.0, -5.0])))
    assert float(loss.detach()) == pytest.approx(-(1 * 2 - 5 * 16) / 2)
    loss.backward()
    assert reconstructions.grad is not None
    assert reconstructions.grad.flatten().tolist() == [-1.5, 7.5]


def test_penalty_takes_whole_gradient():
    pairs = Pairs(torch.zeros(2, 2), torch.ones(2, 2), torch.ones(2))
    assert gradient_penalty(linear(2, 2, 2, 2), pairs, torch.zeros(2, 1)).item() == pytest.approx((4 - 1) ** 2)
    # Over the two channels of each of four places it would be (1 - 1)², over the whole it is (2 - 1)².
    images = Pairs(torch.full((3, 1, 2, 2), math.sqrt(0.5)), torch.full((3, 1, 2, 2), math.sqrt(0.5)), torch.ones(3))
    assert gradient_penalty(HalfSquare(), images, torch.zeros(3, 1, 1, 1)).item() == pytest.approx((2 - 1) ** 2)


def test_penalty_point_lies_between_pairs():
    pairs = Pairs(torch.tensor([[3.0], [3.0]]), torch.tensor([[-1.0], [-1.0]]), torch.ones(2))
    # The pairs are (3, 3) and (3, 0).
    expected = ((math.sqrt(18) - 1) ** 2 + (3 - 1) ** 2) / 2
    assert gradient_penalty(HalfSquare(), pairs, torch.tensor([[1.0], [0.25]])).item() == pytest.approx(expected)


def test_penalty_of_zero_gradient_is_finite():
    critic = linear(0, 0)
    gradient_penalty(critic, Pairs(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1)), torch.ones(1, 1)).backward()
    assert critic.weight.grad is not None
    assert torch.isfinite(critic.weight.grad).all()


def test_latent_loss_counts_normal_codes():
    latents = torch.tensor([[3.0, 4.0], [6.0, 8.0]])
    assert float(latent_loss(latents, torch.tensor([NORMAL, ANOMALY]))) == pytest.approx(5 / 2)
    assert float(latent_loss(latents, torch.tensor([NORMAL, NORMAL]))) == pytest.approx((5 + 10) / 2)


def test_simplex_mixes_three_neighbours():
    latents = torch.tensor([[1.0], [10.0], [100.0], [1000.0]], requires_grad=True)
    draws = torch.tensor([[1.0, 0.5], [0.0, 0.0], [1.0, 1.0], [0.2, 0.0]])
    thirds, codes = simplex(latents, draws)
    assert [third.tolist() for third in thirds] == [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1]]
    assert codes.flatten().tolist() == pytest.approx([0.5 * 1 + 0.25 * 10 + 0.25 * 100, 1000, 50 + 500, 100 + 0.9 * 10])
    assert codes.requires_grad


def test_simplex_takes_odd_batches():
    thirds, _ = simplex(torch.rand(5, 2), torch.rand(5, 2))
    assert [third.tolist() for third in thirds] == [[0, 1, 2, 3, 4], [1, 0, 3, 2, 4], [2, 3, 0, 1, 4]]


def test_inward_halves_codes():
    assert inward(torch.tensor([[4.0, -8.0], [2.0, 2.0]]), torch.tensor([[1.0], [0.5]])).tolist() == [[2.0, -4.0], [0.5, 0.5]]


def test_feature_distance_sums_features():
    critic = nn.Sequential()
    critic.features = nn.Linear(2, 2, bias=False)
    critic.features.weight.data = torch.tensor([[1.0, 2.0], [0.0, -3.0]])
    # The pairs (1, 1) and (1, 3) differ by 2 at the second place: by 4 and -6 in the features.
    assert feature_distance(critic, torch.tensor([[1.0]]), torch.tensor([[3.0]])).tolist() == [10.0]


def test_critic_layers_have_spectral_norm_one():
    torch.manual_seed(0)
    critic = Ama(SMALL, ROW).critic
    for _ in range(100):
        critic(torch.rand(2, 10))
    for layer in critic.modules():
        if isinstance(layer, nn.Linear):
            assert float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) == pytest.approx(1.0, abs=1e-3)


def test_layer_sizes_match_reference():
    detector = Ama(AmaConfig(encoder_width=64, generator_width=256, critic_width=128), (3, 32, 32))
    sizes = [[tuple(weight.shape) for weight in part.parameters() if weight.ndim == 4] for part in detector.children()]
    up = [(256, 256, 3, 3), (256, 256, 3, 3), (256, 256, 1, 1)]
    assert sizes[0] == [(64, 3, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (128, 256, 4, 4)]
    assert sizes[1] == [*up * 3, (3, 256, 3, 3)]
    block = [(128, 128, 3, 3), (128, 128, 3, 3)]
    assert sizes[2] == [(128, 6, 3, 3), (128, 128, 3, 3), (128, 6, 1, 1), *block, (128, 128, 1, 1), *block * 2]


def test_power_iteration_ignores_samples():
    # Else processes that see different parts of a batch would end with different critics.
    critics = [learner(SMALL, IMAGE).modules["detector"].critic.train() for _ in range(2)]
    for critic in critics:
        critic(torch.rand(2, 2, 16, 16))
    for first, second in zip(*(critic.buffers() for critic in critics), strict=True):
        assert torch.equal(first, second)


def test_five_critic_steps_per_autoencoder_step(alone, monkeypatch):
    trained = learner(SMALL, ROW)
    detector = trained.modules["detector"]
    update, touched = alone.update, []

    def compare(name, optimiser, terms, parameters):
        before = weights(detector)
        update(name, optimiser, terms, parameters)
        touched.append((name, {weight.split(".")[0] for weight in unlike(detector, before)}))

    monkeypatch.setattr(alone, "update", compare)
    trained.learn(normals(torch.rand(8, *ROW)), 0.0, alone)
    assert touched == [("critic", {"critic"})] * 5 + [("autoencoder", {"encoder", "generator"})]


def test_step_returns_weighted_losses(alone):
    config = changed(SMALL, critic_steps=1, mirrored_weight=2.0, latent_weight=3.0, penalty_weight=0.0)
    trained = learner(config, ROW)
    batch = Batch(torch.rand(6, *ROW), torch.tensor([NORMAL] * 4 + [ANOMALY] * 2))
    twin = learner(config, ROW).modules["detector"].train()
    latents = twin.encoder(batch.samples)
    pairs = Pairs(batch.samples, twin.generator(latents), 2 * label_weights(batch.labels, 5.0))
    losses = trained.learn(batch, 0.0, alone)
    assert float(losses["critic mirrored"]) == pytest.approx(-float(mirrored_distance(twin.critic, pairs).detach()), rel=1e-4)
    assert float(losses["latent"]) == pytest.approx(3 * float(latent_loss(latents, batch.labels).detach()), rel=1e-4)
    assert "critic penalty" not in losses


def test_negatives_start_after_warm_up(alone):
    config = changed(SMALL, atypical_share=1.0, warm_up_share=0.1, critic_steps=1)
    samples = torch.rand(8, *ROW)
    latents = [float(learner(config, ROW).learn(normals(samples), share, alone)["latent"]) for share in (0.0, 0.09, 0.1, 1.0)]
    # The size of codes is that of normal samples, of which none are left where all became anomalies.
    assert latents[0] == latents[1] > 0
    assert latents[2] == latents[3] == 0
    labelled = Batch(samples, torch.full((8,), ANOMALY))
    early, late = (learner(config, ROW).learn(labelled, share, alone) for share in (0.0, 1.0))
    assert early["critic mirrored"] == late["critic mirrored"]


def test_atypical_share_of_batch_is_replaced(alone):
    config = changed(SMALL, atypical_share=0.25, latent_weight=1.0)
    trained = learner(config, ROW)
    # Codes of equal samples are as long as each other, so the loss counts the normal ones.
    encoder = trained.modules["detector"].encoder
    torch.manual_seed(1)
    with constant_codes(encoder):
        loss = float(trained.learn(normals(torch.rand(4000, *ROW)), 1.0, alone)["latent"])
    assert loss == pytest.approx(0.75, abs=0.03)


@contextmanager
def constant_codes(encoder: nn.Module):
    code = torch.tensor([1.0, 0.0, 0.0])
    hook = encoder.register_forward_hook(lambda _module, _given, codes: codes * 0 + code)
    yield
    hook.remove()


def test_learning_rate_schedule():
    trained = learner(SMALL, ROW)
    assert [trained.rate_factor(share) for share in (0, 0.29, 0.3, 0.6, 0.95)] == pytest.approx([1, 1, 0.1, 0.01, 0.001])
    groups = [group for optimiser in trained.optimisers.values() for group in optimiser.param_groups]
    assert [(group["lr"], group["betas"]) for group in groups] == [(3e-4, (0.0, 0.9)), (3e-4, (0.0, 0.9)), (3e-4, (0.5, 0.9))]


def test_reconstruction_score_is_mean_error(monkeypatch):
    detector = Ama(SMALL, (2,)).eval()
    monkeypatch.setattr(detector, "reconstruct", lambda _: torch.tensor([[0.0, 0.0], [0.5, 1.0]]))
    scores = detector.scores(torch.tensor([[1.0, 0.0], [0.5, -1.0]]))
    assert scores["reconstruction"].tolist() == [0.5, 1.0]


@pytest.mark.parametrize("shape", [IMAGE, ROW])
def test_bfloat16_step_matches_float32(shape, alone):
    samples = normals(torch.rand(8, *shape) * 2 - 1)
    precise = learner(SMALL, shape).learn(samples, 1.0, alone)
    with torch.autocast("cpu", torch.bfloat16):
        rough = learner(SMALL, shape).learn(samples, 1.0, alone)
    assert float(rough["latent"]) == pytest.approx(float(precise["latent"]), rel=0.1)


# The exporter warns of its own deprecated calls.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("shape", [IMAGE, ROW])
def test_onnx_export_takes_any_batch_size(shape, alone, tmp_path: Path):
    trained = learner(SMALL, shape)
    samples = torch.rand(3, *shape) * 2 - 1
    trained.learn(normals(samples), 0.0, alone)
    detector, path = trained.modules["detector"].eval(), tmp_path / "model.onnx"
    torch.onnx.export(detector, (torch.zeros(2, *shape),), path, dynamo=True, dynamic_shapes=({0: torch.export.Dim("n", min=1)},))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: samples.numpy()})
    assert torch.allclose(torch.from_numpy(scores), detector(samples), rtol=1e-3, atol=1e-5)


def halves(count: int) -> Tensor:
    """Rows whose second half repeats the first."""
    half = torch.rand(count, 2) * 2 - 1
    return torch.cat([half, half], dim=1)


def opposite(rows: Tensor) -> Tensor:
    return rows * torch.tensor([1.0, 1.0, -1.0, -1.0])


def separation(config: AmaConfig, alone: DistributedContext, label: float | None = None) -> float:
    """Area under the ROC curve of anomalous rows against normal ones, after learning.

    Without ``label`` normal rows alone are shown, and those are anomalous whose halves have nothing to do with each other. With
    it half of what is shown has opposite halves and that label, and such rows are anomalous.
    """
    trained = learner(config, (4,))
    for step in range(60):
        samples, labels = halves(128), torch.full((128,), NORMAL)
        if label is not None:
            samples[:64], labels[:64] = opposite(samples[:64]), label
        trained.learn(Batch(samples, labels), step / 60, alone)
    detector = trained.modules["detector"].eval()
    anomalous = torch.cat([halves(300)[:, :2], halves(300)[:, 2:]], dim=1) if label is None else opposite(halves(300))
    with torch.no_grad():
        scores = detector(torch.cat([halves(300), anomalous]))
    return float(roc_auc_score([0] * 300 + [1] * 300, scores))


# Codes need not be small and no anomalies are reconstructions, so that all comes from the one term.
SEPARATING = AmaConfig(latent=2, hidden=(32,), learning_rate=1e-2, critic_steps=2, latent_weight=0.0, atypical_share=0.0)


def test_mirrored_distance_separates_anomalies(alone):
    assert separation(SEPARATING, alone) > 0.9
    assert separation(changed(SEPARATING, mirrored_weight=0.0), alone) < 0.8


def test_labels_separate_anomalies(alone):
    assert separation(SEPARATING, alone, ANOMALY) > 0.95
    assert separation(SEPARATING, alone, NORMAL) < 0.7


def test_zero_weight_ignores_anomalies(alone):
    batch = Batch(torch.rand(8, *ROW), torch.full((8,), ANOMALY))
    losses = learner(changed(SMALL, negative_weight=0.0), ROW).learn(batch, 0.0, alone)
    assert [float(losses[name]) for name in ("critic mirrored", "mirrored", "latent")] == [0, 0, 0]
