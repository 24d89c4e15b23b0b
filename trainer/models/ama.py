"""AMA, the Adversarial Mirrored AutoEncoder, after Somepalli, Wu, Balaji, Vinzamuri, Feizi (arXiv 2003.10713, UAI 2021).

    x ─E─▶ z ─G─▶ x̂        D judges pairs: the mirrored (x, x) against (x, x̂)        score: ‖φ(x, x) − φ(x, x̂)‖₁

There is no loss between x and x̂ themselves: E and G make small the Wasserstein distance between mirrored and reconstructed
pairs that the critic D finds; φ are D's last features. Codes of normal samples are kept on a shell, and what is made from codes
inside it serves as anomalies. We know the paper by its abstract and its authors' code, not its sections and the numbers of its
equations: each term names the part of the paper that it is.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from trainer.models.layers import LEAK, BatchNorm, PyramidEncoder, TableDecoder, TableEncoder, pyramid_levels, pyramid_side_px
from trainer.training.distributed import DistributedContext
from trainer.training.interfaces import ANOMALY, Batch, Detector, Recipe, Settings, Shape

RATE_DROPS = (0.3, 0.6, 0.9)
"""Shares of the run after which the rates are divided by ten: epochs 30, 60 and 90 of the code's 100."""

_SMALLEST_PX, _JUDGED_PX = 4, 8  # maps that the generator starts from; that the critic sums over, as with 32 x 32 pictures
_TINY = 1e-12


class AmaConfig(Settings):
    """Everything that the networks are built from and learn by. Where a default is not the code's, the code's is named."""

    latent: int = Field(default=128, ge=1)
    """Length of the code z; for tables it should be smaller than they are wide."""
    encoder_width: int = Field(default=16, ge=1)
    """Pictures: channels after the encoder's first convolution. The code's: 64."""
    generator_width: int = Field(default=32, ge=1)
    """Pictures: channels everywhere in the generator. The code's: 256."""
    critic_width: int = Field(default=16, ge=1)
    """Pictures: channels everywhere in the critic, also the length of φ. The code's: 128."""
    hidden: tuple[int, ...] = Field(default=(64, 32), min_length=1)
    """Tables: widths of the encoder's and the critic's hidden layers, mirrored in the generator. The code has no tables."""
    learning_rate: float = Field(default=3e-4, gt=0)
    critic_steps: int = Field(default=5, ge=1)
    """Steps of the critic for one of the autoencoder, on the same batch."""
    mirrored_weight: float = Field(default=1.0, ge=0)
    """Of the mirrored Wasserstein distance, for both players."""
    latent_weight: float = Field(default=1.0, ge=0)
    """Of the size of the codes."""
    penalty_weight: float = Field(default=10.0, ge=0)
    """Of the gradient penalty."""
    interpolation_weight: float = Field(default=0.0, ge=0)
    """Of the simplex interpolation, off as in the code; where it is on, the code's is 0.2."""
    negative_weight: float = Field(default=5.0, ge=0)
    """Of anomalies, labelled or made: λ_a, the code's ``anom_recon_lambda`` as its README has it."""
    atypical_share: float = Field(default=0.1, ge=0, le=1)
    """Part of the samples that is replaced by made anomalies."""
    warm_up_share: float = Field(default=0.1, ge=0, le=1)
    """Part of the run before anomalies are made: epoch 10 of the code's 100."""


class Pairs(NamedTuple):
    """Samples, what was made in their place, and their label weights."""

    samples: Tensor
    """x, (N, *Shape)."""
    made: Tensor
    """x̂."""
    weights: Tensor
    """y, (N,): 1 for normal samples, −λ_a for anomalies, each times the weight of the term."""


class Residual(nn.Module):
    """The sum of a branch and its shortcut."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, maps: Tensor) -> Tensor:
        """See the class."""
        return torch.add(self.branch(maps), self.shortcut(maps))


class SumOverPlaces(nn.Module):
    """Maps to vectors."""

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, h, w) to (N, C)."""
        return maps.sum(dim=(2, 3))


class PictureGenerator(nn.Sequential):
    """Codes (N, latents) to pictures (N, channels, S, S) in [-1, 1]: a ResNet as in SNGAN."""

    def __init__(self, latents: int, side_px: int, width: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _xavier(nn.Linear(latents, width * _SMALLEST_PX**2)), nn.Unflatten(1, (width, _SMALLEST_PX, _SMALLEST_PX))
        )
        self.features = nn.Sequential(*[_up_block(width) for _ in range(pyramid_levels(side_px))])
        self.head = nn.Sequential(BatchNorm(width), nn.ReLU(), _xavier(nn.Conv2d(width, channels, 3, padding=1)), nn.Tanh())


class PictureCritic(nn.Sequential):
    """Pairs of pictures (N, 2 * channels, S, S) to marks (N, 1); ``features`` are φ, (N, width)."""

    def __init__(self, channels: int, side_px: int, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _first_block(2 * channels, width),
            *[_critic_block(width, halve=True) for _ in range(round(math.log2(side_px / _JUDGED_PX)) - 1)],
            *[_critic_block(width, halve=False) for _ in range(2)],
            nn.ReLU(),
            SumOverPlaces(),
        )
        self.head = spectral_norm(_xavier(nn.Linear(width, 1, bias=False)))


class TableCritic(nn.Sequential):
    """Pairs of rows (N, 2 * columns) to marks (N, 1); ``features`` are φ, (N, widths[-1])."""

    def __init__(self, columns: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.features = nn.Sequential()
        for before, after in zip([2 * columns, *widths[:-1]], widths, strict=True):
            self.features.extend([spectral_norm(nn.Linear(before, after)), nn.LeakyReLU(LEAK)])
        self.head = spectral_norm(nn.Linear(widths[-1], 1, bias=False))


class Ama(Detector):
    """Encoder, generator and critic: the score needs all three."""

    def __init__(self, config: AmaConfig, shape: Shape) -> None:
        super().__init__()
        self.encoder, self.generator, self.critic = _networks(config, shape)

    def forward(self, samples: Tensor) -> Tensor:
        """The paper's score (N,), 0 or more. See :func:`feature_distance`."""
        return feature_distance(self.critic, samples, self.reconstruct(samples))

    def scores(self, samples: Tensor) -> Mapping[str, Tensor]:
        """``feature_distance``, the paper's, and ``reconstruction``: mean absolute difference between x and x̂; (N,) each."""
        made = self.reconstruct(samples)
        return {
            "feature_distance": feature_distance(self.critic, samples, made),
            "reconstruction": (samples - made).abs().flatten(1).mean(dim=1),
        }

    def reconstruct(self, samples: Tensor) -> Tensor:
        """x̂ = G(E(x)), in the shape of ``samples``."""
        made: Tensor = self.generator(self.encoder(samples))
        return made


class AmaLearner:
    """Critic and autoencoder in turns, on the same batch."""

    def __init__(self, detector: Ama, config: AmaConfig) -> None:
        self._detector, self._config = detector, config
        adam = partial(torch.optim.Adam, lr=config.learning_rate, betas=(0.0, 0.9))
        self._critic_optimiser = adam(detector.critic.parameters())
        self._optimiser = adam(detector.generator.parameters())
        self._optimiser.add_param_group({"params": list(detector.encoder.parameters()), "betas": (0.5, 0.9)})

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The detector is all: the critic is part of the score."""
        return {"detector": self._detector}

    @property
    def optimisers(self) -> Mapping[str, torch.optim.Optimizer]:
        """``critic`` and ``autoencoder``."""
        return {"critic": self._critic_optimiser, "autoencoder": self._optimiser}

    def rate_factor(self, share: float) -> float:
        """A tenth after each of ``RATE_DROPS``."""
        return float(0.1 ** sum(share >= drop for drop in RATE_DROPS))

    def learn(self, batch: Batch, share: float, context: DistributedContext) -> Mapping[str, Tensor]:
        """Critic first; the losses before the last step of each player, weighted, by term.

        E and G do not change between the critic's steps, so one x̂ serves them all.
        """
        samples, labels = self._with_made_anomalies(batch, share, context)
        self._detector.train()
        latents = self._detector.encoder(samples)
        compared = self._compared(Batch(samples, labels), latents, context)
        for _ in range(self._config.critic_steps):
            critic_terms = self._critic_terms(compared, context)
            context.update("critic", self._critic_optimiser, critic_terms, self._detector.critic.parameters())
        terms = {name: autoencoder_loss(self._detector.critic, pairs) for name, pairs in compared.items()}
        terms["latent"] = self._config.latent_weight * latent_loss(latents, labels)
        autoencoder = nn.ModuleList([self._detector.encoder, self._detector.generator])
        context.update("autoencoder", self._optimiser, terms, autoencoder.parameters())
        return {name: value.detach() for name, value in {**critic_terms, **terms}.items()}

    def validation_loss(self, samples: Tensor) -> Tensor:
        """Mean absolute difference between x and x̂: the distance that training makes small depends on the critic."""
        self._detector.eval()
        return (samples - self._detector.reconstruct(samples)).abs().mean()

    def _with_made_anomalies(self, batch: Batch, share: float, context: DistributedContext) -> Batch:
        """Atypical selection: a random part of the batch is replaced by what G makes of codes that are too small.

        The code does so only where there are no labelled anomalies; here those are not replaced, and both count.
        """
        if self._config.atypical_share == 0 or share < self._config.warm_up_share:
            return batch
        count = len(batch.samples)
        drawn = (context.rand(count) < self._config.atypical_share) & (batch.labels > 0)
        made = self._made_anomalies(batch.samples, context.rand(count, 1))
        camera_views = drawn.view(-1, *[1] * (made.dim() - 1))
        return Batch(torch.where(camera_views, made, batch.samples), torch.where(drawn, ANOMALY, batch.labels))

    @torch.no_grad()
    def _made_anomalies(self, samples: Tensor, draws: Tensor) -> Tensor:
        detector = self._detector.eval()
        made: Tensor = detector.generator(inward(detector.encoder(samples), draws))
        return made

    def _compared(self, batch: Batch, latents: Tensor, context: DistributedContext) -> dict[str, Pairs]:
        """What both players are told of, by term; the term's weight is in that of the labels."""
        config = self._config
        made = self._detector.generator(latents)
        weights = config.mirrored_weight * label_weights(batch.labels, config.negative_weight)
        compared = {"mirrored": Pairs(batch.samples, made, weights)}
        if config.interpolation_weight:
            compared["interpolation"] = self._mixed(batch, latents, context)
        return compared

    def _mixed(self, batch: Batch, latents: Tensor, context: DistributedContext) -> Pairs:
        """Each of three samples beside what is made from the mixture of their codes; counts where all three are normal."""
        thirds, codes = simplex(latents, context.rand(len(latents), 2))
        all_normal = torch.stack([batch.labels[third] > 0 for third in thirds]).all(dim=0)
        weights = self._config.interpolation_weight * all_normal.to(batch.labels.dtype)
        return Pairs(batch.samples[torch.cat(thirds)], torch.cat([self._detector.generator(codes)] * 3), weights.repeat(3))

    def _critic_terms(self, compared: Mapping[str, Pairs], context: DistributedContext) -> dict[str, Tensor]:
        critic, shown = self._detector.critic, compared["mirrored"]
        terms = {f"critic {name}": -mirrored_distance(critic, pairs) for name, pairs in compared.items()}
        if self._config.penalty_weight:
            draws = context.rand(len(shown.samples), *[1] * (shown.samples.dim() - 1))
            terms["critic penalty"] = self._config.penalty_weight * gradient_penalty(critic, shown, draws)
        return terms


RECIPE = Recipe(
    kind="ama",
    configure=AmaConfig.model_validate,
    detector=Ama,
    learner=AmaLearner,
)


def label_weights(labels: Tensor, negative_weight: float) -> Tensor:
    """y, (N,): 1 for normal samples, −λ_a for anomalies."""
    return torch.where(labels > 0, 1.0, -negative_weight)


def mirrored_distance(critic: nn.Module, pairs: Pairs) -> Tensor:
    """Mean of y (D(x, x) − D(x, x̂)) with 0 for negative y: the distance that the critic makes large. Mirrored Wasserstein loss.

    The code has the negative y, too. Since the players want opposites, its autoencoder then learns to draw anomalies as well,
    and with λ_a times the weight. Here the critic knows the distance of normal samples alone, and the autoencoder alone has to
    draw anomalies unlike them. The code's other variant, the hinge, is not built.
    """
    both: Tensor = critic(torch.cat([_pair(pairs.samples, pairs.samples), _pair(pairs.samples, pairs.made.detach())]))
    marks, marks_made = both[:, 0].chunk(2)
    return (pairs.weights.relu() * (marks - marks_made)).mean()


def gradient_penalty(critic: nn.Module, pairs: Pairs, draws: Tensor) -> Tensor:
    """Mean of (‖∇D(x, x̃)‖₂ − 1)², x̃ = εx + (1 − ε)x̂ with ε from ``draws`` (N, 1, ...), which keeps the critic 1-Lipschitz.

    The code takes the norm over the channels of each place and the mean over places. Here it is, as usual, that of the whole
    gradient of a sample with respect to the pair: a 1-Lipschitz critic has at most 1 of this one.
    """
    between = draws * pairs.samples + (1 - draws) * pairs.made
    pair = _pair(pairs.samples, between).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(pair).sum(), pair, create_graph=True)
    return (_norms(gradient.flatten(1)) - 1.0).square().mean()


def autoencoder_loss(critic: nn.Module, pairs: Pairs) -> Tensor:
    """−mean of y D(x, x̂): encoder and generator make the distance small for normal samples and large for anomalies.

    Mirrored Wasserstein loss. The code's L1 alternative is not built: by its sign normal samples would be drawn badly.
    """
    marks: Tensor = critic(_pair(pairs.samples, pairs.made))[:, 0]
    return -(pairs.weights * marks).mean()


def latent_loss(latents: Tensor, labels: Tensor) -> Tensor:
    """Sum of ‖z‖₂ (not squared, as in the code) over normal samples, divided by the size of the batch. Latent regularisation.

    The code divides by the number of normal samples, which differs between processes that share a batch: their gradients
    could not be averaged. The difference is a nearly constant factor.
    """
    return (_norms(latents) * (labels > 0)).mean()


def simplex(latents: Tensor, draws: Tensor) -> tuple[list[Tensor], Tensor]:
    """Codes e = a₁z₁ + a₂z₂ + (1 − a₁ − a₂)z₃ with a = ``draws`` / 2, (N, 2): the numbers of z₁, z₂, z₃, and e (N, latent).

    Simplex interpolation. The code's partners are random; here they are neighbours in the batch, which is shuffled anyway,
    and so the same however many processes share it. The code gives E and G no gradient of this term; here they learn by it.
    """
    numbers = torch.arange(len(latents), device=latents.device)
    thirds = [(numbers ^ bits).clamp(max=len(latents) - 1) for bits in range(3)]
    first, second = (draws / 2).chunk(2, dim=1)
    weights = [first, second, 1 - first - second]
    codes = torch.stack([weight * latents[third] for weight, third in zip(weights, thirds, strict=True)]).sum(dim=0)
    return thirds, codes


def inward(latents: Tensor, draws: Tensor) -> Tensor:
    """Codes αz with α = ``draws`` / 2, (N, 1): nearer to the origin than normal ones. Atypical selection, the code's default."""
    return latents * (draws / 2)


def feature_distance(critic: nn.Module, samples: Tensor, made: Tensor) -> Tensor:
    """‖φ(x, x) − φ(x, x̂)‖₁, (N,): the paper's anomaly score."""
    features: nn.Module = critic.get_submodule("features")
    difference: Tensor = features(_pair(samples, samples)) - features(_pair(samples, made))
    return difference.abs().sum(dim=1)


def _pair(samples: Tensor, others: Tensor) -> Tensor:
    return torch.cat([samples, others], dim=1)


def _norms(vectors: Tensor) -> Tensor:
    # The root has no gradient at 0, where a dead unit may be.
    return torch.sqrt(vectors.square().sum(dim=1) + _TINY)


def _networks(config: AmaConfig, shape: Shape) -> tuple[nn.Module, nn.Module, nn.Module]:
    if len(shape) == 1:
        return (
            TableEncoder(shape[0], config.hidden, config.latent),
            TableDecoder(config.latent, config.hidden, shape[0]),
            TableCritic(shape[0], config.hidden),
        )
    channels, side_px = shape[0], pyramid_side_px(shape)
    return (
        PyramidEncoder(channels, side_px, config.encoder_width, config.latent, normalise_first=True),
        PictureGenerator(config.latent, side_px, config.generator_width, channels),
        PictureCritic(channels, side_px, config.critic_width),
    )


def _up_block(width: int) -> Residual:
    first, second = (_xavier(nn.Conv2d(width, width, 3, padding=1), math.sqrt(2)) for _ in range(2))
    branch = nn.Sequential(BatchNorm(width), nn.ReLU(), nn.Upsample(scale_factor=2), first, BatchNorm(width), nn.ReLU(), second)
    # A convolution of 1 x 1 before the enlargement gives what it would give after it, at a quarter of the cost.
    return Residual(branch, nn.Sequential(_xavier(nn.Conv2d(width, width, 1)), nn.Upsample(scale_factor=2)))


def _first_block(channels: int, width: int) -> Residual:
    branch = nn.Sequential(_judging(channels, width, 3), nn.ReLU(), _judging(width, width, 3), nn.AvgPool2d(2))
    return Residual(branch, nn.Sequential(nn.AvgPool2d(2), _judging(channels, width, 1)))


def _critic_block(width: int, *, halve: bool) -> Residual:
    branch = nn.Sequential(nn.ReLU(), _judging(width, width, 3), nn.ReLU(), _judging(width, width, 3))
    if not halve:
        return Residual(branch, nn.Identity())
    return Residual(branch.append(nn.AvgPool2d(2)), nn.Sequential(nn.AvgPool2d(2), _judging(width, width, 1)))


def _judging(channels: int, out_channels: int, kernel: int) -> nn.Module:
    """A convolution of the critic: its largest singular value is held at 1 by one power iteration a training pass."""
    gain = math.sqrt(2) if kernel > 1 else 1.0
    return spectral_norm(_xavier(nn.Conv2d(channels, out_channels, kernel, padding=kernel // 2), gain))


def _xavier(layer: nn.Linear | nn.Conv2d, gain: float = 1.0) -> nn.Module:
    nn.init.xavier_uniform_(layer.weight, gain)
    return layer
