import math

import pytest
import torch

from trainer.models.ganomaly import WEIGHTS, Reconstruction, discriminator_loss, encoder_loss, generator_terms, weighted


def test_the_generators_terms_and_their_weights_are_the_papers():
    samples = torch.tensor([[1.0, 0.0], [0.5, -1.0]])
    made = Reconstruction(
        latent=torch.tensor([1.0, 2.0]), picture=torch.tensor([[0.5, 0.0], [0.5, 0.0]]), latent_again=torch.tensor([0.0, 4.0])
    )
    terms = generator_terms(samples, made, features=torch.tensor([1.0, 1.0]), features_made=torch.tensor([1.0, 4.0]))
    assert terms == {"adversarial": 9 / 2, "contextual": 1.5 / 4, "encoder": (1 + 4) / 2}
    assert weighted(terms, WEIGHTS) == {"adversarial": 1 * 4.5, "contextual": 50 * 0.375, "encoder": 1 * 2.5}


def test_the_latent_distance_teaches_both_encoders():
    latent, again = torch.ones(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    encoder_loss(Reconstruction(latent, torch.zeros(2), again)).backward()
    assert latent.grad is not None
    assert torch.equal(latent.grad, torch.ones(2))
    assert torch.equal(latent.grad, -again.grad)


def test_the_discriminators_loss_is_half_the_sum_of_both_cross_entropies():
    loss = discriminator_loss(torch.tensor([2.0]), torch.tensor([-1.0]))
    assert float(loss) == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2)
    assert float(discriminator_loss(torch.zeros(3), torch.zeros(3))) == pytest.approx(math.log(2))
