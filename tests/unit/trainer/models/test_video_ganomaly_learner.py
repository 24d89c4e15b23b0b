import pytest
import torch
from torch import nn

from trainer.models.ganomaly import DISCRIMINATOR_COLLAPSED
from trainer.models.layers import BatchNorm, init_dcgan
from trainer.models.optical_flow import corrupt_motion
from trainer.models.video_ganomaly import VideoGanomalyConfig, VideoGanomalyLearner, VideoGenerator
from trainer.training.interfaces import Batch

CONFIG = VideoGanomalyConfig(height_px=32, width_px=32, width=4, latent_channels=4)


@pytest.fixture
def learner() -> VideoGanomalyLearner:
    torch.manual_seed(0)
    return VideoGanomalyLearner(VideoGenerator(CONFIG), CONFIG)


def weights(learner: VideoGanomalyLearner) -> list[torch.Tensor]:
    return [parameter.detach().clone() for module in learner.modules.values() for parameter in module.parameters()]


def normal(pictures: torch.Tensor) -> Batch:
    return Batch(pictures, torch.ones(len(pictures)))


def test_a_step_teaches_every_weight_of_both_players(learner, alone):
    before = weights(learner)
    losses = learner.learn(normal(torch.rand(4, 3, 16, 16) * 2 - 1), 0.0, alone)
    assert all(not torch.equal(old, new) for old, new in zip(before, weights(learner), strict=True))
    assert list(losses) == ["adversarial", "contextual", "encoder", "margin", "discriminator"]


def test_steps_make_the_generator_draw_what_it_sees_and_the_validation_loss_small(learner, alone):
    pictures = torch.full((4, 3, 16, 16), 0.5)
    before = float(learner.validation_loss(pictures).detach())
    losses = [float(learner.learn(normal(pictures), 0.0, alone)["contextual"]) for _ in range(200)]
    assert losses[-1] < losses[0] / 2
    assert float(learner.validation_loss(pictures).detach()) < before / 2


def test_the_initialisation_is_dcgans():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(64, 64, 4, bias=False), BatchNorm(4096)).apply(init_dcgan)
    convolution, normalisation, shift = (parameter.detach() for parameter in module.parameters())
    assert float(convolution.std()) == pytest.approx(0.02, rel=0.05)
    assert float(normalisation.mean()) == pytest.approx(1.0, abs=0.01)
    assert float(normalisation.std()) == pytest.approx(0.02, rel=0.1)
    assert torch.count_nonzero(shift) == 0


@pytest.mark.parametrize(("loss", "restarted"), [(0.5, False), (DISCRIMINATOR_COLLAPSED / 2, True)])
def test_a_discriminator_that_has_won_starts_again_without_its_optimisers_memory(learner, alone, monkeypatch, loss, restarted):
    """The loss is told by a stand-in: a real collapse takes long."""
    fixed = lambda logits, made: logits.mean() * 0 + made.mean() * 0 + loss  # noqa: E731  a name would say no more
    monkeypatch.setattr("trainer.models.video_ganomaly.discriminator_loss", fixed)
    learner.learn(normal(torch.rand(4, 3, 16, 16)), 0.0, alone)
    assert (not learner.optimisers["discriminator"].state) == restarted


def test_scrambling_changes_speeds_in_places_and_leaves_brightness_and_still_things_alone(alone):
    torch.manual_seed(0)
    pictures = torch.full((8, 3, 40, 60), 0.3)
    pictures[:, :, :20] = 0.0
    scrambled, too_fast = corrupt_motion(pictures, alone)
    assert torch.equal(scrambled[:, 0], pictures[:, 0])
    assert torch.count_nonzero(scrambled[:, :, :20]) == 0
    changed = ((scrambled - pictures).abs() > 1e-5)[:, 1:, 20:].float().mean()
    assert 0.15 < float(changed) < 0.75
    assert float(scrambled.abs().max()) <= 1.0
    faster = scrambled[:, 1:].norm(dim=1, keepdim=True) > pictures[:, 1:].norm(dim=1, keepdim=True) + 0.1
    assert torch.equal(too_fast, faster)
    assert 0 < int(too_fast.sum()) < int(changed * too_fast.numel())
