import pytest
import torch
from torch import nn

from trainer.errors import TrainingDiverged
from trainer.models.blocks import initialise
from trainer.models.video_ganomaly import Discriminator, GanomalyConfig, Generator
from trainer.scramble import scramble
from trainer.step import Players, adam, check_finite, restart_collapsed, train_step

CONFIG = GanomalyConfig(height_px=32, width_px=32, width=4, latent_channels=4)


@pytest.fixture
def players() -> Players:
    torch.manual_seed(0)
    generator, discriminator = Generator(CONFIG).apply(initialise), Discriminator(CONFIG).apply(initialise)
    return Players(generator, discriminator, adam(generator, 2e-4), adam(discriminator, 2e-4))


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def test_a_step_teaches_every_weight_of_both_players(players):
    before = weights(players.generator), weights(players.discriminator)
    losses = train_step(players, torch.rand(4, 3, 16, 16) * 2 - 1)
    after = weights(players.generator), weights(players.discriminator)
    assert all(
        not torch.equal(old, new) for olds, news in zip(before, after, strict=True) for old, new in zip(olds, news, strict=True)
    )
    assert list(losses) == ["adversarial", "contextual", "encoder", "total", "margin", "discriminator"]


def test_steps_make_the_generator_draw_what_it_sees(players):
    pictures = torch.full((4, 3, 16, 16), 0.5)
    losses = [float(train_step(players, pictures)["contextual"]) for _ in range(200)]
    assert losses[-1] < losses[0] / 2


def test_the_initialisation_is_dcgans():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(64, 64, 4, bias=False), nn.BatchNorm2d(4096)).apply(initialise)
    convolution, normalisation, shift = weights(module)
    assert float(convolution.std()) == pytest.approx(0.02, rel=0.05)
    assert float(normalisation.mean()) == pytest.approx(1.0, abs=0.01)
    assert float(normalisation.std()) == pytest.approx(0.02, rel=0.1)
    assert torch.count_nonzero(shift) == 0


def test_a_loss_that_is_no_number_names_step_and_term():
    with pytest.raises(TrainingDiverged, match=r"step 12: the encoder loss is nan"):
        check_finite({"total": 1.0, "encoder": float("nan")}, 12)
    with pytest.raises(TrainingDiverged, match=r"the total loss is inf"):
        check_finite({"total": float("inf")}, 0)


def test_a_discriminator_that_has_won_starts_again_without_its_optimisers_memory(players):
    train_step(players, torch.rand(4, 3, 16, 16))
    before = weights(players.discriminator)
    assert players.discriminator_optimiser.state
    assert not restart_collapsed(players, 2e-5)
    assert restart_collapsed(players, 0.5e-5)
    assert not players.discriminator_optimiser.state
    assert all(not torch.equal(old, new) for old, new in zip(before, weights(players.discriminator), strict=True) if old.ndim > 1)


def test_scrambling_changes_speeds_in_places_and_leaves_brightness_and_still_things_alone():
    torch.manual_seed(0)
    pictures = torch.full((8, 3, 40, 60), 0.3)
    pictures[:, :, :20] = 0.0
    scrambled, too_fast = scramble(pictures)
    assert torch.equal(scrambled[:, 0], pictures[:, 0])
    assert torch.count_nonzero(scrambled[:, :, :20]) == 0
    changed = ((scrambled - pictures).abs() > 1e-5)[:, 1:, 20:].float().mean()
    assert 0.15 < float(changed) < 0.75
    assert float(scrambled.abs().max()) <= 1.0
    faster = scrambled[:, 1:].norm(dim=1, keepdim=True) > pictures[:, 1:].norm(dim=1, keepdim=True) + 0.1
    assert torch.equal(too_fast, faster)
    assert 0 < int(too_fast.sum()) < int(changed * too_fast.numel())
