"""GANomaly: an encoder-decoder-encoder that learns to reconstruct normal samples, trained against a discriminator.

    x ─E1─▶ z ─D─▶ x̂ ─E2─▶ ẑ        score: mean (z - ẑ)²

E2 learns to recover the latents of what D can reconstruct. An anomaly is reconstructed as something else, so ẑ differs from z.

Source: Akcay, Atapour-Abarghouei, Breckon (arXiv 1805.06725), section 3, and the last version of the authors' code. Unlike that
code we score in eval mode (it leaves batch norm in training mode, so scores depend on the batch), clear the optimiser state of
a restarted discriminator, and never select weights by test data.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from trainer.models import layers
from trainer.training.distributed import DistributedContext
from trainer.training.interfaces import Batch, Detector, Recipe, Settings, Shape

LOSS_WEIGHTS: Mapping[str, float] = {"adversarial": 1.0, "contextual": 50.0, "encoder": 1.0}
"""Weights of the generator's losses in the paper and its code."""
DISCRIMINATOR_COLLAPSED = 1e-5  # a discriminator with a smaller loss has won and no longer teaches the generator: it restarts


class GanomalyConfig(Settings):
    """Hyperparameters; the defaults are those of the authors' code. A weight of 0 switches a loss off."""

    width: int = Field(default=64, ge=1)
    """Images: channels after the first convolution; they double with every further one."""
    hidden: tuple[PositiveInt, ...] = Field(default=(64, 32), min_length=1)
    """Tables: widths of the hidden layers. The paper has no tables."""
    latent: int = Field(default=100, ge=1)
    """Length of z and ẑ. Rather too long than too short: what z holds beyond what D draws is what E2 cannot recover."""
    adversarial_weight: float = Field(default=LOSS_WEIGHTS["adversarial"], ge=0)
    contextual_weight: float = Field(default=LOSS_WEIGHTS["contextual"], ge=0)
    encoder_weight: float = Field(default=LOSS_WEIGHTS["encoder"], ge=0)
    learning_rate: float = Field(default=2e-4, gt=0)
    betas: tuple[float, float] = (0.5, 0.999)
    """Of both Adam optimisers."""
    restart_below: float = Field(default=DISCRIMINATOR_COLLAPSED, ge=0)
    """Restart the discriminator when its loss is smaller; 0: never."""

    @property
    def weights(self) -> Mapping[str, float]:
        return {"adversarial": self.adversarial_weight, "contextual": self.contextual_weight, "encoder": self.encoder_weight}


class Reconstruction(NamedTuple):
    """The generator's outputs for samples x."""

    latent: Tensor  # z = E1(x), (N, latent) or (N, latent, h, w)
    image: Tensor  # x̂ = D(z), an image or a table row, in the shape of x
    latent_again: Tensor  # ẑ = E2(x̂), in the shape of z


class Ganomaly(Detector):
    """The generator, which is all that scoring needs; its two encoders share no weights.

    Raises:
        BadShape: ``shape`` is neither (D,) nor (C, S, S) with S a power of two of at least 16.
    """

    def __init__(self, config: GanomalyConfig, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = _encoder(config, shape, config.latent)
        self.decoder = _decoder(config, shape)
        self.encoder_again = _encoder(config, shape, config.latent)

    def forward(self, samples: Tensor) -> Tensor:
        """Anomaly scores (N,): mean (z - ẑ)².

        The paper's score is the L1 norm of the difference; its code takes the mean square, as in the encoder loss.
        """
        return _latent_score(self.encode_decode(samples))

    def scores(self, samples: Tensor) -> Mapping[str, Tensor]:
        """``latent``, the model's own score, and ``reconstruction``, the mean absolute error of x̂; (N,) each."""
        outputs = self.encode_decode(samples)
        return {"latent": _latent_score(outputs), "reconstruction": layers.mean_abs_error(samples, outputs.image)}

    def reconstruct(self, samples: Tensor) -> Tensor:
        return self.encode_decode(samples).image

    def encode_decode(self, samples: Tensor) -> Reconstruction:
        """z, x̂ and ẑ of samples."""
        latent = self.encoder(samples)  # (N, C, S, S) or (N, D) to (N, latent)
        image = self.decoder(latent)  # (N, C, S, S) or (N, D)
        return Reconstruction(latent, image, self.encoder_again(image))


class GanomalyDiscriminator(nn.Module):
    """An encoder with one output, whether a sample is real."""

    def __init__(self, config: GanomalyConfig, shape: Shape) -> None:
        super().__init__()
        self.body = _encoder(config, shape, outputs=1)

    def forward(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Features before the last layer, and logits (N, 1), high for samples that look real."""
        features = self.body.features(samples)  # (N, width * S / 8, 4, 4) or (N, hidden[-1])
        return features, self.body.head(features)


def generator_losses(samples: Tensor, outputs: Reconstruction, features: Tensor, features_fake: Tensor) -> dict[str, Tensor]:
    """The generator's unweighted losses (section 3); ``features`` and ``features_fake`` are the discriminator's of x and x̂.

    adversarial: feature matching, mean (f(x) - f(x̂))². (For a time the code had the cross-entropy here.)
    contextual: mean |x - x̂|. encoder: mean (z - ẑ)².
    """
    return {
        "adversarial": nn.functional.mse_loss(features_fake, features),
        "contextual": contextual_loss(samples, outputs),
        "encoder": encoder_loss(outputs),
    }


def contextual_loss(samples: Tensor, outputs: Reconstruction) -> Tensor:
    """Mean |x - x̂|."""
    return nn.functional.l1_loss(outputs.image, samples)


def encoder_loss(outputs: Reconstruction) -> Tensor:
    """Mean (z - ẑ)², with gradients through both.

    The paper has the absolute difference, which its author calls a slip; the code's mean square is taken.
    """
    return nn.functional.mse_loss(outputs.latent_again, outputs.latent)


def reconstruction_loss(samples: Tensor, outputs: Reconstruction, weights: Mapping[str, float]) -> Tensor:
    """The weighted contextual and encoder losses, for validation: the adversarial loss depends on the discriminator."""
    return weights["contextual"] * contextual_loss(samples, outputs) + weights["encoder"] * encoder_loss(outputs)


def discriminator_loss(logits: Tensor, logits_fake: Tensor) -> Tensor:
    """½ (BCE(D(x), 1) + BCE(D(x̂), 0)); the first version of the code did not halve it."""
    real = nn.functional.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
    fake = nn.functional.binary_cross_entropy_with_logits(logits_fake, torch.zeros_like(logits_fake))
    return (real + fake) / 2.0


def weighted(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Each loss times its weight."""
    return {name: weights[name] * loss for name, loss in losses.items()}


class AdversarialLearner:
    """A generator and a discriminator with one Adam optimiser each: what GANomaly on samples and on video share."""

    def __init__(
        self, generator: nn.Module, discriminator: nn.Module, rate: float, betas: tuple[float, float], restart_below: float
    ) -> None:
        self._generator, self._restart_below = generator, restart_below
        self._discriminator = discriminator.apply(layers.init_dcgan)
        self.modules: Mapping[str, nn.Module] = {"detector": generator, "discriminator": discriminator}
        self.optimisers: Mapping[str, Optimizer] = {
            "generator": Adam(generator.parameters(), lr=rate, betas=betas),
            "discriminator": Adam(discriminator.parameters(), lr=rate, betas=betas),
        }

    def rate_factor(self, share: float) -> float:
        return 1.0

    def _compare(self, samples: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features, logits = self._discriminator(samples)
        features_fake, _ = self._discriminator(image)
        _, logits_fake = self._discriminator(image.detach())  # the discriminator's loss must not teach the generator
        return features.detach(), features_fake, discriminator_loss(logits, logits_fake)

    def _update(self, losses: Mapping[str, Tensor], discriminator: Tensor, context: DistributedContext) -> None:
        # The discriminator learns by its outputs before the generator's step.
        context.update("generator", self.optimisers["generator"], losses, self._generator.parameters())
        terms, parameters = {"discriminator": discriminator}, self._discriminator.parameters()
        context.update("discriminator", self.optimisers["discriminator"], terms, parameters)
        if context.mean(discriminator) < self._restart_below:
            self._discriminator.apply(layers.init_dcgan)
            self.optimisers["discriminator"].state.clear()  # its moments are those of the old weights


class GanomalyLearner(AdversarialLearner):
    """Trains GANomaly. The paper has no labels: every sample counts as normal."""

    def __init__(self, detector: Ganomaly, config: GanomalyConfig) -> None:
        self._detector, self._weights = detector.apply(layers.init_dcgan), config.weights
        discriminator = GanomalyDiscriminator(config, detector.shape)
        super().__init__(detector, discriminator, config.learning_rate, config.betas, config.restart_below)

    def learn(self, batch: Batch, share: float, context: DistributedContext) -> Mapping[str, Tensor]:
        self._detector.train()
        self._discriminator.train()
        outputs = self._detector.encode_decode(batch.samples)
        features, features_fake, discriminator = self._compare(batch.samples, outputs.image)
        losses = generator_losses(batch.samples, outputs, features, features_fake)
        self._update(weighted(losses, self._weights), discriminator, context)
        return layers.detached({**losses, "discriminator": discriminator})

    def validation_loss(self, samples: Tensor) -> Tensor:
        self._detector.eval()
        return reconstruction_loss(samples, self._detector.encode_decode(samples), self._weights)


RECIPE = Recipe(kind="ganomaly", configure=GanomalyConfig.model_validate, detector=Ganomaly, learner=GanomalyLearner)


def _encoder(config: GanomalyConfig, shape: Shape, outputs: int) -> layers.PyramidEncoder | layers.TableEncoder:
    if len(shape) == 1:
        return layers.TableEncoder(shape[0], config.hidden, outputs)
    return layers.PyramidEncoder(shape[0], layers.pyramid_side_px(shape), config.width, outputs)


def _decoder(config: GanomalyConfig, shape: Shape) -> layers.PyramidDecoder | layers.TableDecoder:
    if len(shape) == 1:
        return layers.TableDecoder(config.latent, config.hidden, shape[0])
    return layers.PyramidDecoder(config.latent, layers.pyramid_side_px(shape), config.width, shape[0])


def _latent_score(outputs: Reconstruction) -> Tensor:
    return (layers.to_float32(outputs.latent) - layers.to_float32(outputs.latent_again)).square().mean(1)  # (N,)
