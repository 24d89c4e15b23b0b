"""GANomaly's losses; all are means over every element."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

ADVERSARIAL_WEIGHT = 1.0
CONTEXTUAL_WEIGHT = 50.0
ENCODER_WEIGHT = 1.0


class GeneratorLoss(NamedTuple):
    """The three terms, unweighted, and their weighted sum."""

    adversarial: Tensor
    contextual: Tensor
    encoder: Tensor
    total: Tensor


class Reconstruction(NamedTuple):
    """What the generator makes of pictures x: latent z = E1(x), picture x̂ = D(z), latent ẑ = E2(x̂)."""

    latent: Tensor
    picture: Tensor
    latent_again: Tensor


def generator_loss(pictures: Tensor, made: Reconstruction, features: Tensor, features_made: Tensor) -> GeneratorLoss:
    """Feature matching, L1 between pictures, squared latent distance (through both latents)."""
    adversarial = nn.functional.mse_loss(features_made, features)
    contextual = nn.functional.l1_loss(made.picture, pictures)
    encoder = nn.functional.mse_loss(made.latent_again, made.latent)
    total = ADVERSARIAL_WEIGHT * adversarial + CONTEXTUAL_WEIGHT * contextual + ENCODER_WEIGHT * encoder
    return GeneratorLoss(adversarial, contextual, encoder, total)


def discriminator_loss(logits: Tensor, logits_made: Tensor) -> Tensor:
    """Half the sum of the binary cross-entropies: 1 for real pictures, 0 for made ones."""
    real = nn.functional.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
    made = nn.functional.binary_cross_entropy_with_logits(logits_made, torch.zeros_like(logits_made))
    return (real + made) / 2.0
