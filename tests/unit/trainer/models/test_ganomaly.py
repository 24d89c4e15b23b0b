import itertools
import math

import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score
from torch import Tensor

from trainer.models.ganomaly import (
    LOSS_WEIGHTS,
    RECIPE,
    Ganomaly,
    GanomalyConfig,
    GanomalyDiscriminator,
    GanomalyLearner,
    Reconstruction,
    discriminator_loss,
    encoder_loss,
    generator_losses,
    weighted,
)
from trainer.models.layers import PyramidEncoder
from trainer.training.distributed import DistributedContext
from trainer.training.interfaces import ANOMALY, NORMAL, Batch

SMALL = GanomalyConfig(width=4, hidden=(8, 6), latent=3)
IMAGE, ROW = (1, 16, 16), (5,)


def learner(config: GanomalyConfig, shape: tuple[int, ...]) -> GanomalyLearner:
    torch.manual_seed(0)
    return GanomalyLearner(Ganomaly(config, shape), config)


def normals(samples: Tensor) -> Batch:
    return Batch(samples, torch.full((len(samples),), NORMAL))


def weights(part: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in part.named_parameters()}


def test_generator_losses_and_weights():
    samples = torch.tensor([[1.0, 0.0], [0.5, -1.0]])
    outputs = Reconstruction(
        latent=torch.tensor([1.0, 2.0]), image=torch.tensor([[0.5, 0.0], [0.5, 0.0]]), latent_again=torch.tensor([0.0, 4.0])
    )
    terms = generator_losses(samples, outputs, features=torch.tensor([1.0, 1.0]), features_fake=torch.tensor([1.0, 4.0]))
    assert terms == {"adversarial": 9 / 2, "contextual": 1.5 / 4, "encoder": (1 + 4) / 2}
    assert weighted(terms, LOSS_WEIGHTS) == {"adversarial": 1 * 4.5, "contextual": 50 * 0.375, "encoder": 1 * 2.5}
    assert GanomalyConfig().weights == LOSS_WEIGHTS


def test_encoder_loss_trains_both_encoders():
    latent, again = torch.ones(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    encoder_loss(Reconstruction(latent, torch.zeros(2), again)).backward()
    assert latent.grad is not None
    assert torch.equal(latent.grad, torch.ones(2))
    assert torch.equal(latent.grad, -again.grad)


def test_discriminator_loss_is_halved():
    loss = discriminator_loss(torch.tensor([2.0]), torch.tensor([-1.0]))
    assert float(loss) == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2)
    assert float(discriminator_loss(torch.zeros(3), torch.zeros(3))) == pytest.approx(math.log(2))


def test_layer_sizes_match_reference():
    detector = Ganomaly(GanomalyConfig(), (1, 32, 32))
    sizes = [[tuple(weight.shape) for weight in part.parameters() if weight.ndim == 4] for part in detector.children()]
    down = [(64, 1, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (100, 256, 4, 4)]
    up = [(100, 256, 4, 4), (256, 128, 4, 4), (128, 64, 4, 4), (64, 1, 4, 4)]
    assert sizes == [down, up, down]
    first_layers = GanomalyDiscriminator(GanomalyConfig(), (1, 32, 32)).body.features[:3]
    assert [type(layer).__name__ for layer in first_layers] == ["Conv2d", "LeakyReLU", "Conv2d"]


def test_discriminator_features_precede_head():
    torch.manual_seed(0)
    discriminator = GanomalyDiscriminator(SMALL, IMAGE)
    features, logits = discriminator(torch.rand(2, *IMAGE))
    assert features.shape == (2, 8, 4, 4)
    assert logits.shape == (2, 1)
    assert torch.equal(logits, discriminator.body.head(features))


def test_step_follows_weighted_losses(alone):
    trained, batch = learner(SMALL, ROW), normals(torch.rand(6, *ROW))
    generator, discriminator = trained.modules["detector"].train(), trained.modules["discriminator"].train()
    outputs = generator.encode_decode(batch.samples)
    (features, logits), (features_fake, logits_fake) = discriminator(batch.samples), discriminator(outputs.image)
    expected = generator_losses(batch.samples, outputs, features, features_fake)
    total = torch.stack(list(weighted(expected, LOSS_WEIGHTS).values())).sum()
    gradients = torch.autograd.grad(total, list(generator.parameters()), retain_graph=True)
    expected["discriminator"] = discriminator_loss(logits, logits_fake)

    found = trained.learn(batch, 0.0, alone)
    assert {name: float(term) for name, term in found.items()} == pytest.approx(
        {name: float(term.detach()) for name, term in expected.items()}
    )
    for parameter, gradient in zip(generator.parameters(), gradients, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_labels_are_ignored(alone):
    samples = torch.rand(6, *ROW)
    runs = [learner(SMALL, ROW), learner(SMALL, ROW)]
    for trained, label in zip(runs, (NORMAL, ANOMALY), strict=True):
        trained.learn(Batch(samples, torch.full((6,), label)), 0.0, alone)
    first, second = (weights(trained.modules["detector"]) for trained in runs)
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())


@pytest.mark.parametrize("shape", [IMAGE, ROW])
def test_collapsed_discriminator_restarts(shape, alone):
    kept, restarted = (learner(SMALL.model_copy(update={"restart_below": limit}), shape) for limit in (0.0, 100.0))
    batch = normals(torch.rand(6, *shape))
    kept.learn(batch, 0.0, alone)
    before = weights(restarted.modules["discriminator"])
    restarted.learn(batch, 0.0, alone)
    after = weights(restarted.modules["discriminator"])
    assert len(kept.optimisers["discriminator"].state) == len(before)
    assert not restarted.optimisers["discriminator"].state
    assert restarted.optimisers["generator"].state
    # One step moves a weight by the learning rate at most; new ones are elsewhere.
    matrices = [name for name, weight in before.items() if weight.ndim > 1]
    assert all(float((after[name] - before[name]).abs().max()) > 10 * SMALL.learning_rate for name in matrices)


def test_scores_are_means(monkeypatch):
    detector = Ganomaly(SMALL, ROW)
    samples = torch.tensor([[1.0, 0.0], [0.5, -1.0]])
    outputs = Reconstruction(
        torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.5, 1.0]]), torch.tensor([[0.0, 4.0], [0.0, 1.0]])
    )
    monkeypatch.setattr(detector, "encode_decode", lambda _: outputs)
    assert {name: score.tolist() for name, score in detector.scores(samples).items()} == {
        "latent": [2.5, 0.5],
        "reconstruction": [0.5, 1.0],
    }
    assert detector(samples).tolist() == [2.5, 0.5]
    assert torch.equal(detector.reconstruct(samples), outputs.image)


@torch.no_grad()
def test_validation_loss_excludes_adversarial():
    trained = learner(SMALL, IMAGE)
    samples = torch.rand(4, *IMAGE)
    loss = trained.validation_loss(samples)
    detector = trained.modules["detector"].eval()
    scores = detector.scores(samples)
    assert float(loss) == pytest.approx(float(50 * scores["reconstruction"].mean() + scores["latent"].mean()), rel=1e-5)
    single = torch.stack([trained.validation_loss(sample[None]) for sample in samples])
    assert float(loss) == pytest.approx(float(single.mean()), rel=1e-5)


def test_recipe_builds_configured_model():
    with pytest.raises(ValidationError, match="latents"):
        RECIPE.configure({"latents": 3})
    config = RECIPE.configure({"width": 4, "latent": 3})
    detector = RECIPE.detector(config, IMAGE)
    built = RECIPE.learner(detector, config)
    assert built.modules["detector"] is detector
    assert built.rate_factor(0.9) == 1.0
    assert isinstance(detector.encoder, PyramidEncoder)
    assert detector(torch.zeros(2, *IMAGE)).shape == (2,)


@pytest.mark.parametrize(("shape", "beyond"), [(IMAGE, False), (ROW, True)])
def test_only_rows_may_leave_range(shape, beyond):
    torch.manual_seed(0)
    detector = Ganomaly(SMALL, shape).eval()
    with torch.no_grad():
        for weight in detector.decoder.parameters():
            weight.mul_(100.0)
        largest = float(detector.reconstruct(torch.rand(4, *shape)).abs().max())
    assert (largest > 1.0) == beyond


@pytest.mark.parametrize("shape", [IMAGE, ROW])
def test_export_takes_any_batch_size(shape):
    torch.manual_seed(0)
    detector = Ganomaly(SMALL, shape).eval()
    any_size = ({0: torch.export.Dim("samples_n", min=1)},)
    graph = torch.export.export(detector, (torch.zeros(2, *shape),), dynamic_shapes=any_size).module()
    samples = torch.rand(3, *shape)
    assert torch.allclose(graph(samples), detector(samples), rtol=1e-4)


def test_encoder_loss_separates_images(alone):
    torch.manual_seed(0)
    normal, anomalous = (stripes(512), stripes(100)), stripes(100).transpose(2, 3)
    whole, without = (GanomalyConfig(width=8, latent=8, encoder_weight=weight) for weight in (1.0, 0.0))
    assert separation(whole, 150, (*normal, anomalous), alone) > 0.95
    assert separation(without, 150, (*normal, anomalous), alone) < 0.6


def test_encoder_loss_separates_rows(alone):
    torch.manual_seed(0)
    samples = agreeing(512), agreeing(100), 1.6 * torch.rand(100, 6) - 0.8
    whole, without = (GanomalyConfig(hidden=(32,), latent=6, learning_rate=1e-3, encoder_weight=weight) for weight in (1.0, 0.0))
    assert separation(whole, 200, samples, alone) > 0.98
    assert separation(without, 200, samples, alone) < 0.9


def separation(config: GanomalyConfig, steps: int, samples: tuple[Tensor, Tensor, Tensor], alone: DistributedContext) -> float:
    """AUC after learning from the first samples, asked about normal and anomalous ones."""
    train, normal, anomalous = samples
    trained = learner(config, tuple(train.shape[1:]))
    for part in itertools.islice(itertools.cycle(train.split(32)), steps):
        trained.learn(normals(part), 0.0, alone)
    with torch.inference_mode():
        scores = trained.modules["detector"].eval()(torch.cat([normal, anomalous]))
    return float(roc_auc_score([0] * len(normal) + [1] * len(anomalous), scores.numpy()))


def stripes(count: int) -> Tensor:
    """Lying stripes of random width and place, (count, 1, 16, 16)."""
    frequency, phase = 6 + 6 * torch.rand(count, 1), 2 * math.pi * torch.rand(count, 1)
    return torch.sin(frequency * torch.linspace(0, 1, 16) + phase)[:, None, :, None].repeat(1, 1, 1, 16)


def agreeing(count: int) -> Tensor:
    """Rows of six columns that rise and fall together, or against each other, (count, 6)."""
    return (1.6 * torch.rand(count, 1) - 0.8) * torch.tensor([1.0, -1.0] * 3) + 0.05 * torch.randn(count, 6)
