"""GANomaly's losses, all means over every element, and the margin for motion known to be wrong.

Source: Akcay, Atapour-Abarghouei, Breckon: GANomaly (arXiv 1805.06725), section 3, model training: adversarial (feature
matching), contextual and encoder loss. Where the paper and its code differ the code's last version is followed: the
encoder loss is a mean square, and the discriminator learns by half the sum of two cross-entropies. The margin is ours.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

ADVERSARIAL_WEIGHT = 1.0
CONTEXTUAL_WEIGHT = 50.0
ENCODER_WEIGHT = 1.0
MARGIN = 0.1
"""Squared latent distance that wrong motion should have: some fifty times what normal footage ends up with."""

_WRONG_SHARE = 0.1


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


def margin_loss(made: Reconstruction, too_fast: Tensor) -> Tensor:
    """How far the latent distance stays below ``MARGIN`` where motion is too fast: 0 (everywhere beyond it) to 1 (no distance).

    ``too_fast``: bool (N, 1, H, W), on a grid that the latents' divides. A latent counts where a tenth of its cell is too fast.
    """
    distance = (made.latent - made.latent_again).square().mean(dim=1, keepdim=True)
    wrong = nn.functional.adaptive_avg_pool2d(too_fast.float(), (distance.shape[2], distance.shape[3])) > _WRONG_SHARE
    short = nn.functional.relu(1.0 - distance / MARGIN) * wrong
    return short.sum() / wrong.sum().clamp_min(1)


def discriminator_loss(logits: Tensor, logits_made: Tensor) -> Tensor:
    """Half the sum of the binary cross-entropies: 1 for real pictures, 0 for made ones."""
    real = nn.functional.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
    made = nn.functional.binary_cross_entropy_with_logits(logits_made, torch.zeros_like(logits_made))
    return (real + made) / 2.0
