"""GANomaly: an encoder-decoder-encoder that learns what is normal by drawing it, against a discriminator.

    x ─E1─▶ z ─D─▶ x̂ ─E2─▶ ẑ        score: mean (z - ẑ)²

Trained on normal samples only, E2 learns to find again the latents of what D can draw; what D cannot draw comes back different.

Source: Akcay, Atapour-Abarghouei, Breckon: GANomaly (arXiv 1805.06725), section 3, and the last version of the authors' code.
The numbers of the paper's equations are not known to us. Unlike the code we score in eval mode (it leaves batch normalisation
in training mode, so that scores depend on the batch), clear the optimiser of a discriminator that starts again (its moments
are those of the old weights), and choose no weights by test data (it keeps those with the best AUC).
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from trainer.models.layers import (
    PyramidDecoder,
    PyramidEncoder,
    TableDecoder,
    TableEncoder,
    init_dcgan,
    pyramid_side_px,
    to_float32,
)
from trainer.training.distributed import DistributedContext
from trainer.training.interfaces import Batch, Detector, Recipe, Settings, Shape

WEIGHTS: Mapping[str, float] = {"adversarial": 1.0, "contextual": 50.0, "encoder": 1.0}
"""Of the generator's terms, as in the paper and its code."""
DISCRIMINATOR_COLLAPSED = 1e-5
"""Below this loss the discriminator has won and teaches nothing: it starts again."""


class GanomalyConfig(Settings):
    """Every choice of the model; the defaults are the paper's code's. A weight of 0 switches its term off."""

    width: int = Field(default=64, ge=1)
    """Channels after the first convolution; they double with every further one. For pictures."""
    hidden: tuple[PositiveInt, ...] = Field(default=(64, 32), min_length=1)
    """Widths of the hidden layers, for tables, of which the paper has none."""
    latent: int = Field(default=100, ge=1)
    """Size of z and ẑ. Too many are better than too few: what z holds beyond what D draws is what E2 does not find again."""
    adversarial_weight: float = Field(default=WEIGHTS["adversarial"], ge=0)
    contextual_weight: float = Field(default=WEIGHTS["contextual"], ge=0)
    encoder_weight: float = Field(default=WEIGHTS["encoder"], ge=0)
    learning_rate: float = Field(default=2e-4, gt=0)
    betas: tuple[float, float] = (0.5, 0.999)
    """Of both Adam optimisers."""
    restart_below: float = Field(default=DISCRIMINATOR_COLLAPSED, ge=0)
    """The discriminator starts again when its loss is smaller; 0: never."""

    @property
    def weights(self) -> Mapping[str, float]:
        """The weights of the generator's terms."""
        return {
            "adversarial": self.adversarial_weight,
            "contextual": self.contextual_weight,
            "encoder": self.encoder_weight,
        }


class Reconstruction(NamedTuple):
    """What the generator makes of samples x: latent z = E1(x), picture (or row of a table) x̂ = D(z), latent ẑ = E2(x̂)."""

    latent: Tensor
    picture: Tensor
    latent_again: Tensor


class Ganomaly(Detector):
    """The generator, which is all that scoring needs; its two encoders share no weights. Section 3, generator.

    Raises:
        BadShape: ``shape`` is neither that of a table's rows nor of square pictures with a power of two from 16 on.
    """

    def __init__(self, config: GanomalyConfig, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = _encoder(config, shape, config.latent)
        self.decoder = _decoder(config, shape)
        self.encoder_again = _encoder(config, shape, config.latent)

    def forward(self, samples: Tensor) -> Tensor:
        """Mean square between z and ẑ, (N,).

        The paper has the L1 norm of the difference; the code's mean square is taken, as in the encoder loss.
        """
        return _latent_score(self.draw(samples))

    def scores(self, samples: Tensor) -> Mapping[str, Tensor]:
        """``latent``, the model's own, and ``reconstruction``, the mean absolute difference between x and x̂."""
        made = self.draw(samples)
        return {"latent": _latent_score(made), "reconstruction": (samples - made.picture).abs().flatten(1).mean(1)}

    def reconstruct(self, samples: Tensor) -> Tensor:
        """x̂."""
        return self.draw(samples).picture

    def draw(self, samples: Tensor) -> Reconstruction:
        """z, x̂ and ẑ of samples."""
        latent = self.encoder(samples)
        picture = self.decoder(latent)
        return Reconstruction(latent, picture, self.encoder_again(picture))


class GanomalyDiscriminator(nn.Module):
    """An encoder with one output that says whether a sample is real. Section 3, discriminator."""

    def __init__(self, config: GanomalyConfig, shape: Shape) -> None:
        super().__init__()
        self.body = _encoder(config, shape, outputs=1)

    def forward(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Features before the last layer, and logits (N, 1), high for samples taken for real."""
        features = self.body.features(samples)
        return features, self.body.head(features)


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


class GanomalyLearner:
    """Generator and discriminator in training. Every sample is taken for normal: the paper knows no labels."""

    def __init__(self, detector: Ganomaly, config: GanomalyConfig) -> None:
        self._config = config
        self._generator = detector.apply(init_dcgan)
        self._discriminator = GanomalyDiscriminator(config, detector.shape).apply(init_dcgan)
        self._generator_optimiser = _adam(self._generator, config)
        self._discriminator_optimiser = _adam(self._discriminator, config)

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """See :class:`trainer.training.interfaces.Learner`."""
        return {"detector": self._generator, "discriminator": self._discriminator}

    @property
    def optimisers(self) -> Mapping[str, Optimizer]:
        """See :class:`trainer.training.interfaces.Learner`."""
        return {"generator": self._generator_optimiser, "discriminator": self._discriminator_optimiser}

    def rate_factor(self, share: float) -> float:
        """See :class:`trainer.training.interfaces.Learner`."""
        return 1.0

    def learn(self, batch: Batch, share: float, context: DistributedContext) -> Mapping[str, Tensor]:
        """Generator first; then the discriminator, by what it said before that. The terms are not weighted."""
        self._generator.train()
        self._discriminator.train()
        made = self._generator.draw(batch.samples)
        features, logits = self._discriminator(batch.samples)
        features_made, _ = self._discriminator(made.picture)
        _, logits_made = self._discriminator(made.picture.detach())
        terms = generator_terms(batch.samples, made, features.detach(), features_made)
        against = discriminator_loss(logits, logits_made)
        generator, discriminator = self._generator.parameters(), self._discriminator.parameters()
        context.update("generator", self._generator_optimiser, weighted(terms, self._config.weights), generator)
        context.update("discriminator", self._discriminator_optimiser, {"discriminator": against}, discriminator)
        self._restart_collapsed(against, context)
        return {name: term.detach() for name, term in {**terms, "discriminator": against}.items()}

    def validation_loss(self, samples: Tensor) -> Tensor:
        """The contextual and the encoder term, weighted; the adversarial one would need the other player."""
        self._generator.eval()
        made = self._generator.draw(samples)
        terms = weighted({"contextual": contextual_loss(samples, made), "encoder": encoder_loss(made)}, self._config.weights)
        return terms["contextual"] + terms["encoder"]

    def _restart_collapsed(self, loss: Tensor, context: DistributedContext) -> None:
        if context.mean(loss) < self._config.restart_below:
            self._discriminator.apply(init_dcgan)
            self._discriminator_optimiser.state.clear()


RECIPE = Recipe(
    kind="ganomaly",
    configure=GanomalyConfig.model_validate,
    detector=Ganomaly,
    learner=GanomalyLearner,
)


def _encoder(config: GanomalyConfig, shape: Shape, outputs: int) -> PyramidEncoder | TableEncoder:
    if len(shape) == 1:
        return TableEncoder(shape[0], config.hidden, outputs)
    return PyramidEncoder(shape[0], pyramid_side_px(shape), config.width, outputs)


def _decoder(config: GanomalyConfig, shape: Shape) -> PyramidDecoder | TableDecoder:
    if len(shape) == 1:
        return TableDecoder(config.latent, config.hidden, shape[0])
    return PyramidDecoder(config.latent, pyramid_side_px(shape), config.width, shape[0])


def _latent_score(made: Reconstruction) -> Tensor:
    return (to_float32(made.latent) - to_float32(made.latent_again)).square().mean(1)


def _adam(network: nn.Module, config: GanomalyConfig) -> Adam:
    return Adam(network.parameters(), lr=config.learning_rate, betas=config.betas)
