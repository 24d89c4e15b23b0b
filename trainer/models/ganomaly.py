"""GANomaly's losses, all means over every element.

Source: Akcay, Atapour-Abarghouei, Breckon: GANomaly (arXiv 1805.06725), section 3, and the last version of the authors' code.
The numbers of the paper's equations are not known to us.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

WEIGHTS: Mapping[str, float] = {"adversarial": 1.0, "contextual": 50.0, "encoder": 1.0}
"""Of the generator's terms, as in the paper and its code."""
DISCRIMINATOR_COLLAPSED = 1e-5
"""Below this loss the discriminator has won and teaches nothing: it starts again."""


class Reconstruction(NamedTuple):
    """What the generator makes of samples x: latent z = E1(x), picture (or row of a table) x̂ = D(z), latent ẑ = E2(x̂)."""

    latent: Tensor
    picture: Tensor
    latent_again: Tensor


def adversarial_loss(features: Tensor, features_made: Tensor) -> Tensor:
    """Feature matching: mean square between the discriminator's features of x and of x̂. Section 3, adversarial loss.

    For a time the code had the discriminator's cross-entropy here; paper and last version agree on the features.
    """
    return nn.functional.mse_loss(features_made, features)


def contextual_loss(samples: Tensor, made: Reconstruction) -> Tensor:
    """Mean absolute difference between x and x̂. Section 3, contextual loss."""
    return nn.functional.l1_loss(made.picture, samples)


def encoder_loss(made: Reconstruction) -> Tensor:
    """Mean square between z and ẑ; it teaches through both. Section 3, encoder loss.

    The code's mean square is taken: its author calls the paper's absolute difference a slip, the results alike.
    """
    return nn.functional.mse_loss(made.latent_again, made.latent)


def generator_terms(samples: Tensor, made: Reconstruction, features: Tensor, features_made: Tensor) -> dict[str, Tensor]:
    """What the generator makes small, by name, not yet weighted; ``features`` are the discriminator's of x and of x̂."""
    return {
        "adversarial": adversarial_loss(features, features_made),
        "contextual": contextual_loss(samples, made),
        "encoder": encoder_loss(made),
    }


def weighted(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Each term times its weight."""
    return {name: weights[name] * term for name, term in terms.items()}


def discriminator_loss(logits: Tensor, logits_made: Tensor) -> Tensor:
    """Half the sum of the binary cross-entropies, 1 for real samples and 0 for made ones. Section 3, adversarial training.

    The first code had the whole sum; the last version, taken here, halves it.
    """
    real = nn.functional.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
    made = nn.functional.binary_cross_entropy_with_logits(logits_made, torch.zeros_like(logits_made))
    return (real + made) / 2.0
