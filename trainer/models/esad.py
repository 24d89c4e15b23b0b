"""ESAD: end-to-end semi-supervised anomaly detection, after Huang et al. (arXiv 2012.04905, BMVC 2021).

    x ─E1─▶ z ─D─▶ x̂ ─E2─▶ ẑ        score: how far x̂ is from x, and how long ẑ is

From a Kullback-Leibler objective the paper takes two goals: much information about x in its code, and codes that scatter
little for normal samples and widely for anomalies (section 3). One code cannot have both. So E1 and D serve the first, E2 the
second, and an "assistant" loss ties the two codes. Labelled anomalies, where there are some, are drawn as something else, and
their second code is kept far from the origin.

There is no official code. The formulas are those of the one known port (OutlierDetectionNetworks.jl, ``esad.jl``), which claims
to follow the paper; the paper's equation numbers, weights, networks and noise are not known to us. What is taken from where:

- Two encoders with weights of their own, as the paper's abstract says; the port gives both calls the same one.
- The length of ẑ is not squared, as in the port. 1 / length gets Deep SAD's epsilon (arXiv 1906.02694, its code).
- The centre is the origin, there are no biases and no affine batch norms, and none at all at a code: else the shortest code is
  a constant (Deep SVDD's collapse).
- The port draws anomalies as themselves (T = identity); the paper's noise is not known, so here it is plain noise.
- Deep SAD's LeNets became strided convolutions of about their size: half the time on a CPU.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from trainer.errors import BadShape
from trainer.models.layers import BatchNorm, to_float32
from trainer.training.distributed import DistributedContext
from trainer.training.interfaces import NORMAL, Batch, Detector, Recipe, Settings, Shape

_EPSILON = 1e-6
_LEAK = 0.1
_NORM_EPSILON = 1e-4
_TINY = 1e-12
_WARM_UP, _COLD = 0.2, 0.04
_FAINT = 0.25  # of the usual energy of a normal sample
_TABLE_NOISE = 3.0  # standard deviations of normal rows


class EsadConfig(Settings):
    """Every choice of the model. A weight of 0 switches its term off."""

    widths: tuple[PositiveInt, ...] = Field(default=(16, 32), min_length=1)
    """Channels of the convolutions, each of which halves the side. For pictures."""
    hidden: tuple[PositiveInt, ...] = Field(default=(64, 32), min_length=1)
    """Widths of the hidden layers, for tables."""
    latent: int = Field(default=16, ge=1)
    information_weight: float = Field(default=1.0, ge=0)
    entropy_weight: float = Field(default=1.0, ge=0)
    """λ1; the port's is 1."""
    assistant_weight: float = Field(default=1.0, ge=0)
    """λ2; the port's is 1."""
    learning_rate: float = Field(default=4e-3, gt=0)
    weight_decay: float = Field(default=1e-5, ge=0)
    score: Literal["sum", "relative"] = "sum"
    """Which of :meth:`Esad.scores` is the model's own: ``sum`` is the port's, ``relative`` is ours."""


class Coded(NamedTuple):
    """What the model makes of samples x: code z, x̂ = D(z), and ẑ = E2(x̂)."""

    latent: Tensor
    made: Tensor
    latent_again: Tensor


class Esad(Detector):
    """Encoder, decoder, encoder. Pictures are seen in [0, 1], rows of a table as they are."""

    def __init__(self, config: EsadConfig, shape: Shape) -> None:
        super().__init__()
        self.shape, self.config = shape, config
        self.encoder = _encoder(config, shape)
        self.decoder = _decoder(config, shape)
        self.encoder_again = _encoder(config, shape)
        self.usual_energy: Tensor
        self.relative_mean: Tensor
        self.relative_std: Tensor
        self.entropy_mean: Tensor
        self.entropy_std: Tensor
        for name in ("relative_mean", "entropy_mean"):
            self.register_buffer(name, torch.zeros(()))
        for name in ("usual_energy", "relative_std", "entropy_std"):
            self.register_buffer(name, torch.ones(()))

    def seen(self, samples: Tensor) -> Tensor:
        """Samples as the networks see them."""
        return samples if len(self.shape) == 1 else (samples + 1.0) / 2.0

    def code(self, seen: Tensor) -> Coded:
        """z, x̂ and ẑ of what the networks see."""
        latent = self.encoder(seen)
        made = self.decoder(latent)
        return Coded(latent, made, self.encoder_again(made))

    def forward(self, samples: Tensor) -> Tensor:
        """See :class:`Detector`."""
        return self.scores(samples)[self.config.score]

    def scores(self, samples: Tensor) -> Mapping[str, Tensor]:
        """``sum`` is the port's score: mean square of x̂ - x, and length of ẑ; ``reconstruction`` and ``entropy`` are these two.

        ``relative`` is ours: the error in proportion to how much there is to draw, and both parts on the scale of normal samples.
        """
        seen = self.seen(samples)
        coded = self.code(seen)
        error, length = _mean_square(coded.made - seen), _length(coded.latent_again)
        relative = (self._relative(error, seen) - self.relative_mean) / self.relative_std
        entropy = (length - self.entropy_mean) / self.entropy_std
        every = {"sum": error + length, "relative": relative + entropy, "reconstruction": error, "entropy": length}
        return {self.config.score: every[self.config.score], **every}

    def reconstruct(self, samples: Tensor) -> Tensor:
        """x̂."""
        made = self.code(self.seen(samples)).made
        return made if len(self.shape) == 1 else made * 2.0 - 1.0

    @torch.no_grad()
    def fit_scale(self, normals: Tensor) -> None:
        """Take the scales of the relative score from normal samples that were learned from."""
        seen = self.seen(normals)
        coded = self.code(seen)
        self.usual_energy.copy_(_mean_square(seen).mean())
        relative = self._relative(_mean_square(coded.made - seen), seen)
        length = _length(coded.latent_again)
        for name, values in {"relative": relative, "entropy": length}.items():
            getattr(self, f"{name}_mean").copy_(values.mean())
            getattr(self, f"{name}_std").copy_(values.std().clamp_min(_EPSILON))

    def _relative(self, error: Tensor, seen: Tensor) -> Tensor:
        """The error in proportion to how much there is to draw: a thick stroke is harder to draw than a thin one."""
        return error / (_mean_square(seen) + _FAINT * self.usual_energy)


def information_loss(targets: Tensor, made: Tensor) -> Tensor:
    """Squared distance of x̂ from what should be drawn, summed over a sample: (N,). Section 3, mutual information.

    ``targets``: x for normal samples, T(x) for labelled anomalies.
    """
    return (made - targets).square().flatten(1).sum(dim=1)


def entropy_loss(latent_again: Tensor, normal: Tensor) -> Tensor:
    """Length of ẑ for normal samples, 1 / length for labelled anomalies: (N,). Section 3, entropy of the code.

    ``normal``: bool (N,).
    """
    length = _length(latent_again)
    return torch.where(normal, length, 1.0 / (length + _EPSILON))


def assistant_loss(coded: Coded) -> Tensor:
    """Mean square between ẑ and z: (N,). Section 3, the consistency of the two codes."""
    return (to_float32(coded.latent_again) - to_float32(coded.latent)).square().mean(dim=1)


class EsadLearner:
    """The three networks in training, by one loss: nothing is adversarial and nothing is pre-trained."""

    def __init__(self, detector: Esad, config: EsadConfig) -> None:
        self._detector, self._config = detector, config
        optimiser = AdamW(detector.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        self.modules: Mapping[str, nn.Module] = {"detector": detector}
        self.optimisers: Mapping[str, Optimizer] = {"detector": optimiser}

    def rate_factor(self, share: float) -> float:
        """Up to 1 in the first fifth of the run, then down to 0, both along a cosine (Smith and Topin, arXiv 1708.07120)."""
        if share < _WARM_UP:
            return _COLD + (1.0 - _COLD) * (1.0 - math.cos(math.pi * share / _WARM_UP)) / 2.0
        return (1.0 + math.cos(math.pi * (share - _WARM_UP) / (1.0 - _WARM_UP))) / 2.0

    def learn(self, batch: Batch, share: float, context: DistributedContext) -> Mapping[str, Tensor]:
        """Normal samples are drawn as they are, labelled anomalies as noise."""
        self._detector.train()
        normal = batch.labels == NORMAL
        seen = self._detector.seen(batch.samples)
        targets = torch.where(normal.view(-1, *[1] * (seen.dim() - 1)), seen, self._noise(seen, context))
        terms = self._terms(self._detector.code(seen), targets, normal)
        context.update("detector", self.optimisers["detector"], self._weighted(terms), self._detector.parameters())
        return {name: term.detach() for name, term in terms.items()}

    def validation_loss(self, samples: Tensor) -> Tensor:
        """The whole loss of normal samples."""
        self._detector.eval()
        seen = self._detector.seen(samples)
        normal = torch.ones(len(samples), dtype=torch.bool, device=samples.device)
        return torch.stack(list(self._weighted(self._terms(self._detector.code(seen), seen, normal)).values())).sum()

    def _terms(self, coded: Coded, targets: Tensor, normal: Tensor) -> dict[str, Tensor]:
        return {
            "information": information_loss(targets, coded.made).mean(),
            "entropy": entropy_loss(coded.latent_again, normal).mean(),
            "assistant": assistant_loss(coded).mean(),
        }

    def _weighted(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weights = {
            "information": self._config.information_weight,
            "entropy": self._config.entropy_weight,
            "assistant": self._config.assistant_weight,
        }
        return {name: weights[name] * term for name, term in terms.items()}

    def _noise(self, seen: Tensor, context: DistributedContext) -> Tensor:
        """T(x): uniform noise over what a picture can be; wide normal noise for rows of a table."""
        if seen.dim() == 2:
            return _TABLE_NOISE * context.randn(*seen.shape)
        return context.rand(*seen.shape)


RECIPE = Recipe(
    kind="esad",
    configure=EsadConfig.model_validate,
    detector=Esad,
    learner=EsadLearner,
)


def _encoder(config: EsadConfig, shape: Shape) -> nn.Sequential:
    if len(shape) == 1:
        return _dense([shape[0], *config.hidden, config.latent])
    side = _smallest_side(config, shape)
    layers = nn.Sequential()
    for before, after in zip([shape[0], *config.widths[:-1]], config.widths, strict=True):
        layers.extend([nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False), *_between(after)])
    return layers.extend([nn.Flatten(), nn.Linear(config.widths[-1] * side * side, config.latent, bias=False)])


def _decoder(config: EsadConfig, shape: Shape) -> nn.Sequential:
    if len(shape) == 1:
        return _dense([config.latent, *config.hidden[::-1], shape[0]])
    side, upward = _smallest_side(config, shape), config.widths[::-1]
    layers = nn.Sequential(
        nn.Linear(config.latent, upward[0] * side * side, bias=False),
        nn.Unflatten(1, (upward[0], side, side)),
        *_between(upward[0]),
    )
    for before, after in pairwise(upward):
        layers.extend([nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False), *_between(after)])
    return layers.extend([nn.ConvTranspose2d(upward[-1], shape[0], 4, stride=2, padding=1, bias=False), nn.Sigmoid()])


def _dense(sizes: Sequence[int]) -> nn.Sequential:
    layers = nn.Sequential()
    for before, after in pairwise(sizes[:-1]):
        layers.extend([nn.Linear(before, after, bias=False), *_between(after)])
    return layers.append(nn.Linear(sizes[-2], sizes[-1], bias=False))


def _between(channels: int) -> list[nn.Module]:
    return [BatchNorm(channels, eps=_NORM_EPSILON, affine=False), nn.LeakyReLU(_LEAK)]


def _smallest_side(config: EsadConfig, shape: Shape) -> int:
    halvings = len(config.widths)
    if len(shape) == 3 and shape[1] == shape[2] and shape[1] % (1 << halvings) == 0:
        return shape[1] >> halvings
    raise BadShape(
        f"samples have the shape {tuple(shape)}; the model takes rows of a table (D,) or square pictures (C, S, S) with S a "
        f"multiple of {1 << halvings}; scale or pad the pictures to such a size"
    )


def _length(codes: Tensor) -> Tensor:
    # The slope of the root is infinite at 0.
    return (codes.square().sum(dim=1) + _TINY).sqrt()


def _mean_square(samples: Tensor) -> Tensor:
    return samples.square().flatten(1).mean(dim=1)
