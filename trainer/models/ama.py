"""AMA, the Adversarial Mirrored AutoEncoder (Somepalli, Wu, Balaji, Vinzamuri, Feizi; arXiv 2003.10713, UAI 2021).

    x ─E─▶ z ─G─▶ x̂        the critic D compares the mirrored pair (x, x) with (x, x̂)        score: ‖φ(x, x) − φ(x, x̂)‖₁

There is no loss between x and x̂ themselves: E and G minimise the Wasserstein distance between mirrored and reconstructed pairs
that D estimates; φ are D's last features. Codes of normal samples are kept on a shell around the origin, and what G makes of
codes inside the shell serves as negatives. Source: the abstract and the authors' code; each loss names the part of the paper.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from trainer.models import layers
from trainer.models.layers import BatchNorm
from trainer.training.distributed import DistributedContext
from trainer.training.interfaces import ANOMALY, Batch, Detector, Recipe, Settings, Shape

RATE_DROPS = (0.3, 0.6, 0.9)
"""Shares of the run after which learning rates are divided by ten: epochs 30, 60 and 90 of the code's 100."""

_GENERATOR_START_PX = 4
_CRITIC_END_PX = 8  # maps that the critic sums over, as for images of 32 x 32


class AmaConfig(Settings):
    """Hyperparameters. Where a default is not that of the authors' code, the code's value is named."""

    latent: int = Field(default=128, ge=1)
    """Length of the code z; for tables it should be smaller than the number of columns."""
    encoder_width: int = Field(default=16, ge=1)
    """Images: channels after the encoder's first convolution. The code's: 64."""
    generator_width: int = Field(default=32, ge=1)
    """Images: channels everywhere in the generator. The code's: 256."""
    critic_width: int = Field(default=16, ge=1)
    """Images: channels everywhere in the critic, and the length of φ. The code's: 128."""
    hidden: tuple[int, ...] = Field(default=(64, 32), min_length=1)
    """Tables: hidden widths of encoder and critic, mirrored in the generator. The code has no tables."""
    learning_rate: float = Field(default=3e-4, gt=0)
    critic_steps: int = Field(default=5, ge=1)
    """Critic steps per autoencoder step, on the same batch."""
    mirrored_weight: float = Field(default=1.0, ge=0)
    """Of the mirrored Wasserstein distance, for both players."""
    latent_weight: float = Field(default=1.0, ge=0)
    """Of the norm of normal codes: λ_reg."""
    penalty_weight: float = Field(default=10.0, ge=0)
    """Of the gradient penalty."""
    interpolation_weight: float = Field(default=0.0, ge=0)
    """Of the simplex interpolation; off as in the code, which has 0.2 where it is on."""
    negative_weight: float = Field(default=5.0, ge=0)
    """Of labelled and generated anomalies: λ_a, the code's ``anom_recon_lambda`` as in its README."""
    atypical_share: float = Field(default=0.1, ge=0, le=1)
    """Share of the samples that is replaced by generated anomalies."""
    warm_up_share: float = Field(default=0.1, ge=0, le=1)
    """Share of the run before anomalies are generated: epoch 10 of the code's 100."""


class Pairs(NamedTuple):
    """Samples, their reconstructions, and their label weights."""

    samples: Tensor  # x, (N, *Shape)
    reconstructions: Tensor  # x̂, (N, *Shape)
    weights: Tensor  # y, (N,): 1 for normal samples, −λ_a for anomalies, times the weight of the loss


class Residual(nn.Module):
    """The sum of a branch and its shortcut."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, maps: Tensor) -> Tensor:
        return torch.add(self.branch(maps), self.shortcut(maps))


class SumPool(nn.Module):
    """The sum of maps (N, C, h, w) over the image: (N, C)."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.sum(dim=(2, 3))


class ImageGenerator(nn.Sequential):
    """Codes (N, latents) to images (N, channels, S, S) in [-1, 1]: a ResNet as in SNGAN."""

    def __init__(self, latents: int, side_px: int, width: int, channels: int) -> None:
        super().__init__()
        start = _GENERATOR_START_PX
        self.stem = nn.Sequential(_xavier(nn.Linear(latents, width * start**2)), nn.Unflatten(1, (width, start, start)))
        self.features = nn.Sequential(*[_up_block(width) for _ in range(layers.pyramid_levels(side_px))])
        self.head = nn.Sequential(BatchNorm(width), nn.ReLU(), _xavier(nn.Conv2d(width, channels, 3, padding=1)), nn.Tanh())


class ImageCritic(nn.Sequential):
    """Pairs of images (N, 2 * channels, S, S) to marks (N, 1); ``features`` are φ, (N, width)."""

    def __init__(self, channels: int, side_px: int, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _first_block(2 * channels, width),
            *[_critic_block(width, halve=True) for _ in range(round(math.log2(side_px / _CRITIC_END_PX)) - 1)],
            *[_critic_block(width, halve=False) for _ in range(2)],
            nn.ReLU(),
            SumPool(),
        )
        self.head = spectral_norm(_xavier(nn.Linear(width, 1, bias=False)))


class TableCritic(nn.Sequential):
    """Pairs of rows (N, 2 * columns) to marks (N, 1); ``features`` are φ, (N, widths[-1])."""

    def __init__(self, columns: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.features = nn.Sequential()
        for before, after in pairwise([2 * columns, *widths]):
            self.features.extend([spectral_norm(nn.Linear(before, after)), nn.LeakyReLU(layers.LEAKY_SLOPE)])
        self.head = spectral_norm(nn.Linear(widths[-1], 1, bias=False))


class Ama(Detector):
    """Encoder, generator and critic; the score needs all three."""

    def __init__(self, config: AmaConfig, shape: Shape) -> None:
        super().__init__()
        self.encoder, self.generator, self.critic = _networks(config, shape)

    def forward(self, samples: Tensor) -> Tensor:
        """The paper's score (N,), at least 0: see :func:`feature_distance`."""
        return feature_distance(self.critic, samples, self.reconstruct(samples))

    def scores(self, samples: Tensor) -> Mapping[str, Tensor]:
        """``feature_distance``, the paper's score, and ``reconstruction``, the mean absolute error of x̂; (N,) each."""
        reconstructions = self.reconstruct(samples)
        return {
            "feature_distance": feature_distance(self.critic, samples, reconstructions),
            "reconstruction": layers.mean_abs_error(samples, reconstructions),
        }

    def reconstruct(self, samples: Tensor) -> Tensor:
        latents = self.encoder(samples)  # (N, C, S, S) or (N, D) to (N, latent)
        reconstructions: Tensor = self.generator(latents)  # (N, C, S, S) or (N, D)
        return reconstructions


class AmaLearner:
    """Trains critic and autoencoder in turn, on the same batch."""

    def __init__(self, detector: Ama, config: AmaConfig) -> None:
        self._detector, self._config = detector, config
        adam = partial(torch.optim.Adam, lr=config.learning_rate, betas=(0.0, 0.9))
        critic, autoencoder = adam(detector.critic.parameters()), adam(detector.generator.parameters())
        autoencoder.add_param_group({"params": list(detector.encoder.parameters()), "betas": (0.5, 0.9)})
        self.modules: Mapping[str, nn.Module] = {"detector": detector}
        self.optimisers: Mapping[str, torch.optim.Optimizer] = {"critic": critic, "autoencoder": autoencoder}

    def rate_factor(self, share: float) -> float:
        """0.1 to the number of ``RATE_DROPS`` passed."""
        return float(0.1 ** sum(share >= drop for drop in RATE_DROPS))

    def learn(self, batch: Batch, share: float, context: DistributedContext) -> Mapping[str, Tensor]:
        """Critic first. The losses are weighted, and from before the last step of each player."""
        samples, labels = self._with_negatives(batch, share, context)
        self._detector.train()
        latents = self._detector.encoder(samples)  # (N, latent)
        # E and G do not change between the critic's steps, so one x̂ serves them all.
        pairs = self._pairs(Batch(samples, labels), latents, context)
        for _ in range(self._config.critic_steps):
            critic_losses = self._critic_losses(pairs, context)
            context.update("critic", self.optimisers["critic"], critic_losses, self._detector.critic.parameters())
        losses = {name: autoencoder_loss(self._detector.critic, part) for name, part in pairs.items()}
        losses["latent"] = self._config.latent_weight * latent_loss(latents, labels)
        autoencoder = nn.ModuleList([self._detector.encoder, self._detector.generator])
        context.update("autoencoder", self.optimisers["autoencoder"], losses, autoencoder.parameters())
        return layers.detached({**critic_losses, **losses})

    def validation_loss(self, samples: Tensor) -> Tensor:
        """Mean |x − x̂|; the distance that training minimises depends on the critic."""
        self._detector.eval()
        return (samples - self._detector.reconstruct(samples)).abs().mean()

    def _with_negatives(self, batch: Batch, share: float, context: DistributedContext) -> Batch:
        """Atypical selection: replace a random part of the batch by what G makes of codes that are too small.

        The code does so only without labelled anomalies; here labelled ones are not replaced, and both kinds count.
        """
        if self._config.atypical_share == 0 or share < self._config.warm_up_share:
            return batch
        count = len(batch.samples)
        drawn = (context.rand(count) < self._config.atypical_share) & (batch.labels > 0)  # (N,)
        draws, detector = context.rand(count, 1), self._detector.eval()
        with torch.no_grad():
            negatives = detector.generator(inward(detector.encoder(batch.samples), draws))  # (N, *Shape)
        where = drawn.view(-1, *[1] * (negatives.dim() - 1))
        return Batch(torch.where(where, negatives, batch.samples), torch.where(drawn, ANOMALY, batch.labels))

    def _pairs(self, batch: Batch, latents: Tensor, context: DistributedContext) -> dict[str, Pairs]:
        config = self._config
        weights = config.mirrored_weight * label_weights(batch.labels, config.negative_weight)
        pairs = {"mirrored": Pairs(batch.samples, self._detector.generator(latents), weights)}
        if config.interpolation_weight:
            pairs["interpolation"] = self._interpolated(batch, latents, context)
        return pairs

    def _interpolated(self, batch: Batch, latents: Tensor, context: DistributedContext) -> Pairs:
        thirds, codes = simplex(latents, context.rand(len(latents), 2))
        all_normal = torch.stack([batch.labels[third] > 0 for third in thirds]).all(dim=0)
        weights = self._config.interpolation_weight * all_normal.to(batch.labels.dtype)
        return Pairs(batch.samples[torch.cat(thirds)], torch.cat([self._detector.generator(codes)] * 3), weights.repeat(3))

    def _critic_losses(self, pairs: Mapping[str, Pairs], context: DistributedContext) -> dict[str, Tensor]:
        critic, mirrored = self._detector.critic, pairs["mirrored"]
        losses = {f"critic {name}": -mirrored_distance(critic, part) for name, part in pairs.items()}
        if self._config.penalty_weight:
            draws = context.rand(len(mirrored.samples), *[1] * (mirrored.samples.dim() - 1))
            losses["critic penalty"] = self._config.penalty_weight * gradient_penalty(critic, mirrored, draws)
        return losses


RECIPE = Recipe(kind="ama", configure=AmaConfig.model_validate, detector=Ama, learner=AmaLearner)


def label_weights(labels: Tensor, negative_weight: float) -> Tensor:
    """y, (N,): 1 for normal samples, −λ_a for anomalies."""
    return torch.where(labels > 0, 1.0, -negative_weight)


def mirrored_distance(critic: nn.Module, pairs: Pairs) -> Tensor:
    """Mirrored Wasserstein loss of the critic, to be maximised: mean max(y, 0) (D(x, x) − D(x, x̂)), scalar.

    The code also takes negative y. As the players want opposites, its autoencoder then learns to reconstruct anomalies too, and
    λ_a times as much. Here only the autoencoder has to make anomalies unlike their reconstructions. No hinge variant.
    """
    mirrored, fake = (_pair(pairs.samples, others) for others in (pairs.samples, pairs.reconstructions.detach()))
    both: Tensor = critic(torch.cat([mirrored, fake]))  # (2 N, 1)
    marks, marks_fake = both[:, 0].chunk(2)
    return (pairs.weights.relu() * (marks - marks_fake)).mean()


def gradient_penalty(critic: nn.Module, pairs: Pairs, draws: Tensor) -> Tensor:
    """Mean (‖∇D(x, x̃)‖₂ − 1)² for x̃ = εx + (1 − ε)x̂ with ε = ``draws`` (N, 1, ...): keeps the critic 1-Lipschitz.

    The norm is that of a sample's whole gradient, as usual; the code takes it over the channels of each pixel.
    """
    between = draws * pairs.samples + (1 - draws) * pairs.reconstructions
    pair = _pair(pairs.samples, between).detach().requires_grad_()  # (N, 2 C, S, S) or (N, 2 D)
    (gradient,) = torch.autograd.grad(critic(pair).sum(), pair, create_graph=True)
    return (layers.vector_norms(gradient.flatten(1)) - 1.0).square().mean()


def autoencoder_loss(critic: nn.Module, pairs: Pairs) -> Tensor:
    """Mirrored Wasserstein loss of E and G: −mean y D(x, x̂), scalar: pairs of normal samples look mirrored, anomalies do not.

    The code's L1 alternative is left out: with its sign normal samples would be reconstructed badly.
    """
    marks: Tensor = critic(_pair(pairs.samples, pairs.reconstructions))[:, 0]  # (N,)
    return -(pairs.weights * marks).mean()


def latent_loss(latents: Tensor, labels: Tensor) -> Tensor:
    """Latent regularisation: the sum of ‖z‖₂ (not squared, as in the code) over normal samples, divided by the batch size.

    The code divides by the number of normal samples, which differs between processes that share a batch, so their gradients
    could not be averaged. The difference is a nearly constant factor.
    """
    return (layers.vector_norms(latents) * (labels > 0)).mean()


def simplex(latents: Tensor, draws: Tensor) -> tuple[list[Tensor], Tensor]:
    """Simplex interpolation: codes e = a₁z₁ + a₂z₂ + (1 − a₁ − a₂)z₃ with a = ``draws`` / 2, (N, 2).

    Returns the batch indices of z₁, z₂ and z₃, and e (N, latent). The code draws partners at random; here they are neighbours in
    the batch, which is shuffled anyway, so that they do not depend on the number of processes. E and G learn by this loss, unlike
    in the code.
    """
    numbers = torch.arange(len(latents), device=latents.device)
    thirds = [(numbers ^ bits).clamp(max=len(latents) - 1) for bits in range(3)]
    first, second = (draws / 2).chunk(2, dim=1)  # (N, 1) each
    weights = [first, second, 1 - first - second]
    codes = torch.stack([weight * latents[third] for weight, third in zip(weights, thirds, strict=True)]).sum(dim=0)
    return thirds, codes


def inward(latents: Tensor, draws: Tensor) -> Tensor:
    """Atypical codes αz with α = ``draws`` / 2, (N, 1): closer to the origin than normal ones; the code's default."""
    return latents * (draws / 2)


def feature_distance(critic: nn.Module, samples: Tensor, reconstructions: Tensor) -> Tensor:
    """The paper's anomaly score ‖φ(x, x) − φ(x, x̂)‖₁, (N,)."""
    features: nn.Module = critic.get_submodule("features")
    difference: Tensor = features(_pair(samples, samples)) - features(_pair(samples, reconstructions))  # (N, width)
    return difference.abs().sum(dim=1)


def _pair(samples: Tensor, others: Tensor) -> Tensor:
    return torch.cat([samples, others], dim=1)  # (N, 2 C, S, S) or (N, 2 D)


def _networks(config: AmaConfig, shape: Shape) -> tuple[nn.Module, nn.Module, nn.Module]:
    if len(shape) == 1:
        return (
            layers.TableEncoder(shape[0], config.hidden, config.latent),
            layers.TableDecoder(config.latent, config.hidden, shape[0]),
            TableCritic(shape[0], config.hidden),
        )
    channels, side_px = shape[0], layers.pyramid_side_px(shape)
    return (
        layers.PyramidEncoder(channels, side_px, config.encoder_width, config.latent, normalise_first=True),
        ImageGenerator(config.latent, side_px, config.generator_width, channels),
        ImageCritic(channels, side_px, config.critic_width),
    )


def _up_block(width: int) -> Residual:
    first, second = (_xavier(nn.Conv2d(width, width, 3, padding=1), math.sqrt(2)) for _ in range(2))
    branch = nn.Sequential(BatchNorm(width), nn.ReLU(), nn.Upsample(scale_factor=2), first, BatchNorm(width), nn.ReLU(), second)
    # A 1 x 1 convolution before upsampling gives the same as after it, at a quarter of the cost.
    return Residual(branch, nn.Sequential(_xavier(nn.Conv2d(width, width, 1)), nn.Upsample(scale_factor=2)))


def _first_block(channels: int, width: int) -> Residual:
    branch = nn.Sequential(_critic_conv(channels, width, 3), nn.ReLU(), _critic_conv(width, width, 3), nn.AvgPool2d(2))
    return Residual(branch, nn.Sequential(nn.AvgPool2d(2), _critic_conv(channels, width, 1)))


def _critic_block(width: int, *, halve: bool) -> Residual:
    branch = nn.Sequential(nn.ReLU(), _critic_conv(width, width, 3), nn.ReLU(), _critic_conv(width, width, 3))
    if not halve:
        return Residual(branch, nn.Identity())
    return Residual(branch.append(nn.AvgPool2d(2)), nn.Sequential(nn.AvgPool2d(2), _critic_conv(width, width, 1)))


def _critic_conv(channels: int, out_channels: int, kernel: int) -> nn.Module:
    gain = math.sqrt(2) if kernel > 1 else 1.0
    return spectral_norm(_xavier(nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2), gain))


def _xavier(layer: nn.Linear | nn.Conv2d, gain: float = 1.0) -> nn.Module:
    nn.init.xavier_uniform_(layer.weight, gain)
    return layer
