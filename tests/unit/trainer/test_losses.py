import math

import pytest
import torch

from trainer.losses import MARGIN, Reconstruction, discriminator_loss, generator_loss, margin_loss


def test_the_generators_terms_and_their_weights_are_the_papers():
    pictures = torch.tensor([[1.0, 0.0], [0.5, -1.0]])
    made = Reconstruction(
        latent=torch.tensor([1.0, 2.0]), picture=torch.tensor([[0.5, 0.0], [0.5, 0.0]]), latent_again=torch.tensor([0.0, 4.0])
    )
    loss = generator_loss(pictures, made, features=torch.tensor([1.0, 1.0]), features_made=torch.tensor([1.0, 4.0]))
    assert loss.adversarial == pytest.approx(9 / 2)
    assert loss.contextual == pytest.approx(1.5 / 4)
    assert loss.encoder == pytest.approx((1 + 4) / 2)
    assert loss.total == pytest.approx(1 * 4.5 + 50 * 0.375 + 1 * 2.5)


def test_the_latent_distance_teaches_both_encoders():
    latent, again = torch.ones(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    picture = torch.zeros(2)
    generator_loss(picture, Reconstruction(latent, picture, again), picture, picture).encoder.backward()
    assert latent.grad is not None
    assert torch.equal(latent.grad, -again.grad)


def test_the_discriminators_loss_is_half_the_sum_of_both_cross_entropies():
    loss = discriminator_loss(torch.tensor([2.0]), torch.tensor([-1.0]))
    assert float(loss) == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2)
    assert float(discriminator_loss(torch.zeros(3), torch.zeros(3))) == pytest.approx(math.log(2))


def test_the_margin_counts_only_latents_of_cells_that_are_too_fast_and_how_far_they_fall_short():
    latent = torch.zeros(1, 2, 1, 3)
    again = torch.zeros(1, 2, 1, 3)
    again[..., 1] = (MARGIN / 4) ** 0.5
    again[..., 2] = (MARGIN * 2) ** 0.5
    too_fast = torch.zeros(1, 1, 2, 6, dtype=torch.bool)
    made = Reconstruction(latent, torch.zeros(1), again)
    assert float(margin_loss(made, too_fast)) == 0.0
    too_fast[..., 2] = True  # half of the middle cell
    assert float(margin_loss(made, too_fast)) == pytest.approx(0.75)
    too_fast[..., 4:] = True
    assert float(margin_loss(made, too_fast)) == pytest.approx((0.75 + 0.0) / 2)
