import math
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

import onnxruntime
import pytest
import torch
from safetensors.torch import load
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from deploy.export.onnx import save_weights
from trainer.errors import BadShape, TrainingDiverged
from trainer.models.ama import (
    RECIPE,
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
PICTURE, ROW = (1, 16, 16), (5,)


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


def test_normal_samples_weigh_one_and_anomalies_minus_their_weight():
    assert label_weights(torch.tensor([NORMAL, ANOMALY]), 5.0).tolist() == [1.0, -5.0]


def test_the_mirrored_distance_is_the_mean_difference_of_the_marks_of_normal_samples():
    pairs = Pairs(samples=torch.tensor([[1.0], [2.0]]), made=torch.tensor([[0.0], [4.0]]), weights=torch.tensor([2.0, -5.0]))
    # Marks 2a + 3b: of (1, 1) and (1, 0) 5 and 2.
    assert float(mirrored_distance(linear(2, 3), pairs).detach()) == pytest.approx(2 * (5 - 2) / 2)


def test_the_autoencoder_makes_the_weighted_marks_of_its_own_pairs_large():
    made = torch.tensor([[0.0], [4.0]], requires_grad=True)
    loss = autoencoder_loss(linear(2, 3), Pairs(torch.tensor([[1.0], [2.0]]), made, torch.tensor([1.0, -5.0])))
    assert float(loss.detach()) == pytest.approx(-(1 * 2 - 5 * 16) / 2)
    loss.backward()
    assert made.grad is not None
    assert made.grad.flatten().tolist() == [-1.5, 7.5]


def test_the_penalty_is_of_the_norm_of_each_samples_whole_gradient():
    pairs = Pairs(torch.zeros(2, 2), torch.ones(2, 2), torch.ones(2))
    assert gradient_penalty(linear(2, 2, 2, 2), pairs, torch.zeros(2, 1)).item() == pytest.approx((4 - 1) ** 2)
    # Over the two channels of each of four places it would be (1 - 1)², over the whole it is (2 - 1)².
    pictures = Pairs(torch.full((3, 1, 2, 2), math.sqrt(0.5)), torch.full((3, 1, 2, 2), math.sqrt(0.5)), torch.ones(3))
    assert gradient_penalty(HalfSquare(), pictures, torch.zeros(3, 1, 1, 1)).item() == pytest.approx((2 - 1) ** 2)


def test_the_penalty_is_taken_between_the_sample_and_what_was_made_of_it():
    pairs = Pairs(torch.tensor([[3.0], [3.0]]), torch.tensor([[-1.0], [-1.0]]), torch.ones(2))
    # The pairs are (3, 3) and (3, 0).
    expected = ((math.sqrt(18) - 1) ** 2 + (3 - 1) ** 2) / 2
    assert gradient_penalty(HalfSquare(), pairs, torch.tensor([[1.0], [0.25]])).item() == pytest.approx(expected)


def test_the_penalty_teaches_the_critic_even_where_its_gradient_is_none():
    critic = linear(0, 0)
    gradient_penalty(critic, Pairs(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1)), torch.ones(1, 1)).backward()
    assert critic.weight.grad is not None
    assert torch.isfinite(critic.weight.grad).all()


def test_the_latent_loss_is_the_norm_of_normal_codes_over_the_whole_batch():
    latents = torch.tensor([[3.0, 4.0], [6.0, 8.0]])
    assert float(latent_loss(latents, torch.tensor([NORMAL, ANOMALY]))) == pytest.approx(5 / 2)
    assert float(latent_loss(latents, torch.tensor([NORMAL, NORMAL]))) == pytest.approx((5 + 10) / 2)


def test_interpolated_codes_lie_between_three_neighbours_and_teach_the_encoder():
    latents = torch.tensor([[1.0], [10.0], [100.0], [1000.0]], requires_grad=True)
    draws = torch.tensor([[1.0, 0.5], [0.0, 0.0], [1.0, 1.0], [0.2, 0.0]])
    thirds, codes = simplex(latents, draws)
    assert [third.tolist() for third in thirds] == [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1]]
    assert codes.flatten().tolist() == pytest.approx([0.5 * 1 + 0.25 * 10 + 0.25 * 100, 1000, 50 + 500, 100 + 0.9 * 10])
    assert codes.requires_grad


def test_interpolation_takes_batches_of_any_size():
    thirds, _ = simplex(torch.rand(5, 2), torch.rand(5, 2))
    assert [third.tolist() for third in thirds] == [[0, 1, 2, 3, 4], [1, 0, 3, 2, 4], [2, 3, 0, 1, 4]]


def test_atypical_codes_are_at_most_half_as_far_out():
    assert inward(torch.tensor([[4.0, -8.0], [2.0, 2.0]]), torch.tensor([[1.0], [0.5]])).tolist() == [[2.0, -4.0], [0.5, 0.5]]


def test_the_feature_distance_is_the_sum_over_features():
    critic = nn.Sequential()
    critic.features = nn.Linear(2, 2, bias=False)
    critic.features.weight.data = torch.tensor([[1.0, 2.0], [0.0, -3.0]])
    # The pairs (1, 1) and (1, 3) differ by 2 at the second place: by 4 and -6 in the features.
    assert feature_distance(critic, torch.tensor([[1.0]]), torch.tensor([[3.0]])).tolist() == [10.0]


def test_a_critic_is_bounded_by_its_largest_singular_values():
    torch.manual_seed(0)
    critic = Ama(SMALL, ROW).critic
    for _ in range(100):
        critic(torch.rand(2, 10))
    for layer in critic.modules():
        if isinstance(layer, nn.Linear):
            assert float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) == pytest.approx(1.0, abs=1e-3)


def test_at_the_codes_widths_the_networks_are_as_large_as_the_codes():
    detector = Ama(AmaConfig(encoder_width=64, generator_width=256, critic_width=128), (3, 32, 32))
    sizes = [[tuple(weight.shape) for weight in part.parameters() if weight.ndim == 4] for part in detector.children()]
    up = [(256, 256, 3, 3), (256, 256, 3, 3), (256, 256, 1, 1)]
    assert sizes[0] == [(64, 3, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (128, 256, 4, 4)]
    assert sizes[1] == [*up * 3, (3, 256, 3, 3)]
    block = [(128, 128, 3, 3), (128, 128, 3, 3)]
    assert sizes[2] == [(128, 6, 3, 3), (128, 128, 3, 3), (128, 6, 1, 1), *block, (128, 128, 1, 1), *block * 2]


def test_what_training_does_to_the_critic_beside_its_steps_does_not_depend_on_the_samples():
    # Else processes that see different parts of a batch would end with different critics.
    critics = [learner(SMALL, PICTURE).modules["detector"].critic.train() for _ in range(2)]
    for critic in critics:
        critic(torch.rand(2, 2, 16, 16))
    for first, second in zip(*(critic.buffers() for critic in critics), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("shape", [PICTURE, ROW, (3, 32, 32)])
def test_a_step_teaches_every_weight_of_both_players_and_names_its_terms(shape, alone):
    config = changed(SMALL, interpolation_weight=0.2)
    trained = learner(config, shape)
    before = weights(trained.modules["detector"])
    losses = trained.learn(normals(torch.rand(8, *shape) * 2 - 1), 0.0, alone)
    assert list(losses) == ["critic mirrored", "critic interpolation", "critic penalty", "mirrored", "interpolation", "latent"]
    assert not any(value.requires_grad for value in losses.values())
    assert sorted(unlike(trained.modules["detector"], before)) == sorted(before)


def test_each_player_learns_in_its_own_turn_and_the_critic_five_times_as_often(alone, monkeypatch):
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


def test_a_step_returns_its_weighted_terms(alone):
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


def test_anomalies_are_made_after_the_warm_up_alone_and_never_of_labelled_ones(alone):
    config = changed(SMALL, atypical_share=1.0, warm_up_share=0.1, critic_steps=1)
    samples = torch.rand(8, *ROW)
    latents = [float(learner(config, ROW).learn(normals(samples), share, alone)["latent"]) for share in (0.0, 0.09, 0.1, 1.0)]
    # The size of codes is that of normal samples, of which none are left where all became anomalies.
    assert latents[0] == latents[1] > 0
    assert latents[2] == latents[3] == 0
    labelled = Batch(samples, torch.full((8,), ANOMALY))
    early, late = (learner(config, ROW).learn(labelled, share, alone) for share in (0.0, 1.0))
    assert early["critic mirrored"] == late["critic mirrored"]


def test_about_the_given_part_of_a_batch_becomes_anomalies(alone):
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


def test_rates_fall_to_a_tenth_at_three_tenths_six_tenths_and_nine_tenths():
    trained = learner(SMALL, ROW)
    assert [trained.rate_factor(share) for share in (0, 0.29, 0.3, 0.6, 0.95)] == pytest.approx([1, 1, 0.1, 0.01, 0.001])
    groups = [group for optimiser in trained.optimisers.values() for group in optimiser.param_groups]
    assert [(group["lr"], group["betas"]) for group in groups] == [(3e-4, (0.0, 0.9)), (3e-4, (0.0, 0.9)), (3e-4, (0.5, 0.9))]


@pytest.mark.parametrize("shape", [PICTURE, ROW])
def test_scores_do_not_depend_on_the_other_samples_of_a_batch_nor_on_their_order_nor_on_chance(shape, alone):
    trained = learner(SMALL, shape)
    samples = torch.rand(8, *shape) * 2 - 1
    trained.learn(normals(samples), 0.0, alone)
    detector = trained.modules["detector"].eval()
    order = torch.randperm(8)
    with torch.inference_mode():
        whole, again, shuffled = detector.scores(samples), detector.scores(samples), detector.scores(samples[order])
        single = [detector.scores(sample[None]) for sample in samples]
        assert torch.equal(detector(samples), whole["feature_distance"])
    assert list(whole) == ["feature_distance", "reconstruction"]
    for name, scores in whole.items():
        assert torch.equal(scores, again[name])
        assert torch.allclose(scores, torch.cat([part[name] for part in single]), rtol=1e-3, atol=1e-6)
        assert torch.allclose(scores[order], shuffled[name], rtol=1e-3, atol=1e-6)


def test_the_reconstruction_score_is_the_mean_difference(monkeypatch):
    detector = Ama(SMALL, (2,)).eval()
    monkeypatch.setattr(detector, "reconstruct", lambda _: torch.tensor([[0.0, 0.0], [0.5, 1.0]]))
    scores = detector.scores(torch.tensor([[1.0, 0.0], [0.5, -1.0]]))
    assert scores["reconstruction"].tolist() == [0.5, 1.0]


def test_the_validation_loss_is_the_mean_difference_and_changes_nothing():
    trained = learner(SMALL, PICTURE)
    samples = torch.rand(4, *PICTURE)
    before = save_weights(trained.modules["detector"])
    with torch.no_grad():
        loss = trained.validation_loss(samples)
        single = torch.stack([trained.validation_loss(sample[None]) for sample in samples])
    assert float(loss) == pytest.approx(float(single.mean()), rel=1e-5)
    assert float(loss) == pytest.approx(trained.modules["detector"].scores(samples)["reconstruction"].mean().item())
    assert save_weights(trained.modules["detector"]) == before


def test_samples_that_are_no_numbers_stop_the_step_and_name_the_critics_term(alone):
    with pytest.raises(TrainingDiverged, match=r"critic: the term critic mirrored is nan"):
        learner(SMALL, ROW).learn(normals(torch.full((4, *ROW), math.nan)), 0.0, alone)


@pytest.mark.parametrize("shape", [PICTURE, ROW])
def test_a_step_in_bfloat16_stays_near_one_in_float32(shape, alone):
    samples = normals(torch.rand(8, *shape) * 2 - 1)
    to_float32 = learner(SMALL, shape).learn(samples, 1.0, alone)
    with torch.autocast("cpu", torch.bfloat16):
        rough = learner(SMALL, shape).learn(samples, 1.0, alone)
    assert float(rough["latent"]) == pytest.approx(float(to_float32["latent"]), rel=0.1)


@pytest.mark.parametrize("shape", [(1, 48, 48), (1, 8, 8), (32, 32)])
def test_pictures_that_no_pyramid_fits_are_refused(shape):
    with pytest.raises(BadShape, match="power of two from 16 on"):
        Ama(SMALL, shape)


@pytest.mark.parametrize("shape", [PICTURE, ROW])
def test_weights_that_were_saved_give_the_same_scores(shape, alone):
    trained = learner(SMALL, shape)
    samples = torch.rand(4, *shape)
    trained.learn(normals(samples), 0.0, alone)
    saved = trained.modules["detector"].eval()
    loaded = RECIPE.detector(RECIPE.configure(SMALL.model_dump()), shape).eval()
    loaded.load_state_dict(load(save_weights(saved)))
    assert torch.equal(loaded(samples), saved(samples))


# The exporter warns of its own deprecated calls.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("shape", [PICTURE, ROW])
def test_an_exported_detector_scores_batches_of_any_size_as_torch_does(shape, alone, tmp_path: Path):
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


def found(config: AmaConfig, alone: DistributedContext, label: float | None = None) -> float:
    """Area under the ROC curve of strange rows against normal ones, after learning.

    Without ``label`` normal rows alone are shown, and those are strange whose halves have nothing to do with each other. With
    it half of what is shown has opposite halves and that label, and such rows are strange.
    """
    trained = learner(config, (4,))
    for step in range(60):
        samples, labels = halves(128), torch.full((128,), NORMAL)
        if label is not None:
            samples[:64], labels[:64] = opposite(samples[:64]), label
        trained.learn(Batch(samples, labels), step / 60, alone)
    detector = trained.modules["detector"].eval()
    strange = torch.cat([halves(300)[:, :2], halves(300)[:, 2:]], dim=1) if label is None else opposite(halves(300))
    with torch.no_grad():
        scores = detector(torch.cat([halves(300), strange]))
    return float(roc_auc_score([0] * 300 + [1] * 300, scores))


# Codes need not be small and no anomalies are made, so that all comes from the one term.
SEPARATING = AmaConfig(latent=2, hidden=(32,), learning_rate=1e-2, critic_steps=2, latent_weight=0.0, atypical_share=0.0)


def test_rows_of_another_kind_are_found_and_not_without_the_mirrored_distance(alone):
    assert found(SEPARATING, alone) > 0.9
    assert found(changed(SEPARATING, mirrored_weight=0.0), alone) < 0.8


def test_labelled_anomalies_are_found_and_not_where_they_are_called_normal(alone):
    assert found(SEPARATING, alone, ANOMALY) > 0.95
    assert found(SEPARATING, alone, NORMAL) < 0.7


def test_labelled_anomalies_teach_nothing_where_they_weigh_nothing(alone):
    batch = Batch(torch.rand(8, *ROW), torch.full((8,), ANOMALY))
    losses = learner(changed(SMALL, negative_weight=0.0), ROW).learn(batch, 0.0, alone)
    assert [float(losses[name]) for name in ("critic mirrored", "mirrored", "latent")] == [0, 0, 0]
