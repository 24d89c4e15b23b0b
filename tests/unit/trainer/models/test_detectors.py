"""What GANomaly, AMA and ESAD have in common, on images and on table rows."""

import math

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from deploy.export.onnx import save_weights
from trainer.errors import BadShape, TrainingDiverged
from trainer.models.registry import RECIPES, recipe
from trainer.training.interfaces import ANOMALY, NORMAL, Batch, Learner

IMAGE, ROW = (1, 16, 16), (5,)
SETTINGS = {
    "ganomaly": {"width": 4, "hidden": (8, 6), "latent": 3},
    "ama": {
        "latent": 3,
        "encoder_width": 4,
        "generator_width": 4,
        "critic_width": 4,
        "hidden": (8, 6),
        "interpolation_weight": 0.2,
    },
    "esad": {"widths": (4, 6), "hidden": (8, 6), "latent": 3},
}
LOSSES = {
    "ganomaly": ["adversarial", "contextual", "encoder", "discriminator"],
    "ama": ["critic mirrored", "critic interpolation", "critic penalty", "mirrored", "interpolation", "latent"],
    "esad": ["information", "entropy", "assistant"],
}
SCORES = {
    "ganomaly": ["latent", "reconstruction"],
    "ama": ["feature_distance", "reconstruction"],
    "esad": ["sum", "relative", "reconstruction", "entropy"],
}
kinds = pytest.mark.parametrize("kind", RECIPES)
shapes = pytest.mark.parametrize("shape", [IMAGE, ROW])


def learner_of(kind: str, shape: tuple[int, ...]) -> Learner:
    torch.manual_seed(0)
    model = recipe(kind)
    config = model.configure(SETTINGS[kind])
    return model.learner(model.detector(config, shape), config)


def batch_of(shape: tuple[int, ...]) -> Batch:
    return Batch(torch.rand(8, *shape) * 2 - 1, torch.tensor([NORMAL] * 6 + [ANOMALY] * 2))


@kinds
@pytest.mark.parametrize("shape", [IMAGE, ROW, (3, 32, 32)])
def test_step_trains_every_weight(kind, shape, alone):
    learner = learner_of(kind, shape)
    weights = {f"{player} {name}": w for player, module in learner.modules.items() for name, w in module.named_parameters()}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    losses = learner.learn(batch_of(shape), 0.0, alone)
    assert [name for name, weight in weights.items() if torch.equal(weight, before[name])] == []
    assert list(losses) == LOSSES[kind]
    assert not any(loss.requires_grad for loss in losses.values())


@kinds
@shapes
def test_scores_ignore_batch_and_order(kind, shape, alone):
    learner, samples, order = learner_of(kind, shape), batch_of(shape).samples, torch.randperm(8)
    learner.learn(Batch(samples, torch.ones(8)), 0.0, alone)
    detector = learner.modules["detector"].eval()
    with torch.inference_mode():
        whole, shuffled = detector.scores(samples), detector.scores(samples[order])
        single = [detector.scores(sample[None]) for sample in samples]
        assert torch.equal(detector(samples), whole[SCORES[kind][0]])
    assert list(whole) == SCORES[kind]
    for name, scores in whole.items():
        assert torch.allclose(scores, torch.cat([part[name] for part in single]), rtol=1e-3, atol=1e-6)
        assert torch.allclose(scores[order], shuffled[name], rtol=1e-3, atol=1e-6)


@kinds
@shapes
def test_saved_weights_give_same_scores(kind, shape, alone):
    learner, batch = learner_of(kind, shape), batch_of(shape)
    learner.learn(batch, 0.0, alone)
    saved = learner.modules["detector"].eval()
    loaded = learner_of(kind, shape).modules["detector"].eval()
    loaded.load_state_dict(load(save_weights(saved)))
    assert torch.equal(loaded(batch.samples), saved(batch.samples))


@torch.no_grad()
@kinds
def test_validation_loss_ignores_batch(kind):
    learner, samples = learner_of(kind, IMAGE), batch_of(IMAGE).samples
    before = save_weights(learner.modules["detector"])
    single: list[Tensor] = [learner.validation_loss(sample[None]) for sample in samples]
    assert float(learner.validation_loss(samples)) == pytest.approx(float(torch.stack(single).mean()), rel=1e-5)
    assert save_weights(learner.modules["detector"]) == before


@pytest.mark.parametrize(
    ("kind", "message"),
    [("ganomaly", "generator: the term adversarial is nan"), ("ama", "critic: the term critic mirrored is nan")],
)
def test_nan_samples_stop_training(kind, message, alone):
    with pytest.raises(TrainingDiverged, match=message):
        learner_of(kind, ROW).learn(Batch(torch.full((4, *ROW), math.nan), torch.ones(4)), 0.0, alone)


@pytest.mark.parametrize("kind", ["ganomaly", "ama"])
@pytest.mark.parametrize("shape", [(1, 48, 48), (1, 8, 8), (1, 32, 64), (32, 32)])
def test_rejects_unsupported_shapes(kind, shape):
    with pytest.raises(BadShape, match=r"power of two from 16 on; scale or pad"):
        learner_of(kind, shape)
