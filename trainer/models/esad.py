"""ESAD: end-to-end semi-supervised anomaly detection (Huang et al., arXiv 2012.04905, BMVC 2021).

    x ─E1─▶ z ─D─▶ x̂ ─E2─▶ ẑ        score: the error of x̂, and the length of ẑ

From a Kullback-Leibler objective the paper derives two goals (section 3): codes with much information about x, and codes that
scatter little for normal samples and widely for anomalies. One code cannot serve both, so E1 and D serve the first goal, E2 the
second, and an "assistant" loss ties the codes context. Labelled anomalies are reconstructed as something else, and their second
code is kept far from the origin.

There is no official code. The formulas are those of the only known port (OutlierDetectionNetworks.jl, ``esad.jl``), except:

- The two encoders have weights of their own, as in the paper's abstract; the port shares them.
- 1 / length has the epsilon of Deep SAD (arXiv 1906.02694). As in the port, the length of ẑ is not squared.
- There are no biases, no affine batch norms and no norm at a code: else the shortest code is a constant (Deep SVDD's collapse).
- The target of anomalies T(x) is noise. In the port it is x; the paper's noise is not known.
- Strided convolutions of about the size of Deep SAD's LeNets take half the time on a CPU.
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
from trainer.models.ganomaly import weighted
from trainer.models.layers import BatchNorm, detached, to_float32, vector_norms
from trainer.training.distributed import DistributedContext
from trainer.training.interfaces import NORMAL, Batch, Detector, Recipe, Settings, Shape

_EPSILON = 1e-6
_LEAKY_SLOPE = 0.1
_NORM_EPSILON = 1e-4
_WARM_UP_SHARE, _FIRST_RATE = 0.2, 0.04
_ENERGY_FLOOR = 0.25  # of the usual energy of a normal sample
_TABLE_NOISE = 3.0  # standard deviations of normal rows


class EsadConfig(Settings):
    """Hyperparameters. A weight of 0 switches a loss off."""

    widths: tuple[PositiveInt, ...] = Field(default=(16, 32), min_length=1)
    """Images: channels of the convolutions, each of which halves the side."""
    hidden: tuple[PositiveInt, ...] = Field(default=(64, 32), min_length=1)
    """Tables: widths of the hidden layers."""
    latent: int = Field(default=16, ge=1)
    information_weight: float = Field(default=1.0, ge=0)
    entropy_weight: float = Field(default=1.0, ge=0)
    """λ1; 1 in the port."""
    assistant_weight: float = Field(default=1.0, ge=0)
    """λ2; 1 in the port."""
    learning_rate: float = Field(default=4e-3, gt=0)
    weight_decay: float = Field(default=1e-5, ge=0)
    score: Literal["sum", "relative"] = "sum"
    """Which of :meth:`Esad.scores` is the model's own: ``sum`` is the port's, ``relative`` is ours."""

    @property
    def weights(self) -> Mapping[str, float]:
        return {"information": self.information_weight, "entropy": self.entropy_weight, "assistant": self.assistant_weight}


class Coded(NamedTuple):
    """The outputs for samples x."""

    latent: Tensor  # z = E1(x), (N, latent)
    reconstruction: Tensor  # x̂ = D(z), in the shape of x
    latent_again: Tensor  # ẑ = E2(x̂), (N, latent)


class Esad(Detector):
    """Encoder, decoder, encoder. The networks see images in [0, 1] and table rows as they are."""

    def __init__(self, config: EsadConfig, shape: Shape) -> None:
        super().__init__()
        self.shape, self.config = shape, config
        self.encoder = _encoder(config, shape)
        self.decoder = _decoder(config, shape)
        self.encoder_again = _encoder(config, shape)
        self.relative_mean, self.entropy_mean = nn.Buffer(torch.zeros(())), nn.Buffer(torch.zeros(()))
        self.usual_energy = nn.Buffer(torch.ones(()))
        self.relative_std, self.entropy_std = nn.Buffer(torch.ones(())), nn.Buffer(torch.ones(()))

    def inputs(self, samples: Tensor) -> Tensor:
        """Samples as the networks see them."""
        return samples if len(self.shape) == 1 else (samples + 1.0) / 2.0

    def code(self, inputs: Tensor) -> Coded:
        """z, x̂ and ẑ of the networks' inputs."""
        latent = self.encoder(inputs)  # (N, C, S, S) or (N, D) to (N, latent)
        reconstruction = self.decoder(latent)  # (N, C, S, S) or (N, D)
        return Coded(latent, reconstruction, self.encoder_again(reconstruction))

    def forward(self, samples: Tensor) -> Tensor:
        return self.scores(samples)[self.config.score]

    def scores(self, samples: Tensor) -> Mapping[str, Tensor]:
        """Anomaly scores by name, (N,) each, the configured one first.

        ``reconstruction``: mean (x̂ - x)². ``entropy``: ‖ẑ‖₂. ``sum``: their sum, the port's score. ``relative``, ours: the sum
        of the relative error and ‖ẑ‖₂, each in standard deviations from its mean over normal samples.
        """
        inputs = self.inputs(samples)
        coded = self.code(inputs)
        error, length = _mean_square(coded.reconstruction - inputs), vector_norms(coded.latent_again)  # (N,) each
        relative = (self._relative(error, inputs) - self.relative_mean) / self.relative_std
        entropy = (length - self.entropy_mean) / self.entropy_std
        scores = {"sum": error + length, "relative": relative + entropy, "reconstruction": error, "entropy": length}
        return {self.config.score: scores[self.config.score], **scores}

    def reconstruct(self, samples: Tensor) -> Tensor:
        reconstruction = self.code(self.inputs(samples)).reconstruction
        return reconstruction if len(self.shape) == 1 else reconstruction * 2.0 - 1.0

    @torch.no_grad()
    def fit_scale(self, normals: Tensor) -> None:
        """Fit the scales of the relative score to normal training samples."""
        inputs = self.inputs(normals)
        coded = self.code(inputs)
        self.usual_energy.copy_(_mean_square(inputs).mean())
        relative = self._relative(_mean_square(coded.reconstruction - inputs), inputs)
        for name, values in {"relative": relative, "entropy": vector_norms(coded.latent_again)}.items():
            getattr(self, f"{name}_mean").copy_(values.mean())
            getattr(self, f"{name}_std").copy_(values.std().clamp_min(_EPSILON))

    def _relative(self, error: Tensor, inputs: Tensor) -> Tensor:
        # Relative to the sample's energy, as a thick stroke is harder to reconstruct than a thin one.
        return error / (_mean_square(inputs) + _ENERGY_FLOOR * self.usual_energy)


def information_loss(targets: Tensor, reconstruction: Tensor) -> Tensor:
    """Section 3, mutual information: ‖x̂ - target‖², (N,); the target is x for normal samples, T(x) for labelled anomalies."""
    return (reconstruction - targets).square().flatten(1).sum(dim=1)


def entropy_loss(latent_again: Tensor, normal: Tensor) -> Tensor:
    """Section 3, entropy of the code: ‖ẑ‖₂ for normal samples, 1 / ‖ẑ‖₂ for labelled anomalies, (N,); ``normal``: bool (N,)."""
    length = vector_norms(latent_again)
    return torch.where(normal, length, 1.0 / (length + _EPSILON))


def assistant_loss(coded: Coded) -> Tensor:
    """Section 3, consistency of the two codes: mean (ẑ - z)², (N,)."""
    return (to_float32(coded.latent_again) - to_float32(coded.latent)).square().mean(dim=1)


class EsadLearner:
    """Trains all three networks by one loss; nothing is adversarial, nothing is pre-trained."""

    def __init__(self, detector: Esad, config: EsadConfig) -> None:
        self._detector, self._weights = detector, config.weights
        optimiser = AdamW(detector.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        self.modules: Mapping[str, nn.Module] = {"detector": detector}
        self.optimisers: Mapping[str, Optimizer] = {"detector": optimiser}

    def rate_factor(self, share: float) -> float:
        """Up to 1 in the first fifth of the run, then down to 0, both along a cosine (Smith and Topin, arXiv 1708.07120)."""
        if share < _WARM_UP_SHARE:
            return _FIRST_RATE + (1.0 - _FIRST_RATE) * (1.0 - math.cos(math.pi * share / _WARM_UP_SHARE)) / 2.0
        return (1.0 + math.cos(math.pi * (share - _WARM_UP_SHARE) / (1.0 - _WARM_UP_SHARE))) / 2.0

    def learn(self, batch: Batch, share: float, context: DistributedContext) -> Mapping[str, Tensor]:
        self._detector.train()
        normal = batch.labels == NORMAL  # (N,)
        inputs = self._detector.inputs(batch.samples)
        # T(x): uniform noise over the range of images, or wide normal noise for table rows.
        noise = _TABLE_NOISE * context.randn(*inputs.shape) if inputs.dim() == 2 else context.rand(*inputs.shape)
        targets = torch.where(normal.view(-1, *[1] * (inputs.dim() - 1)), inputs, noise)
        losses = self._losses(self._detector.code(inputs), targets, normal)
        parameters = self._detector.parameters()
        context.update("detector", self.optimisers["detector"], weighted(losses, self._weights), parameters)
        return detached(losses)

    def validation_loss(self, samples: Tensor) -> Tensor:
        """The weighted sum of all losses, with all samples normal."""
        self._detector.eval()
        inputs = self._detector.inputs(samples)
        normal = torch.ones(len(samples), dtype=torch.bool, device=samples.device)
        losses = self._losses(self._detector.code(inputs), inputs, normal)
        return torch.stack(list(weighted(losses, self._weights).values())).sum()

    def _losses(self, coded: Coded, targets: Tensor, normal: Tensor) -> dict[str, Tensor]:
        return {
            "information": information_loss(targets, coded.reconstruction).mean(),
            "entropy": entropy_loss(coded.latent_again, normal).mean(),
            "assistant": assistant_loss(coded).mean(),
        }


RECIPE = Recipe(kind="esad", configure=EsadConfig.model_validate, detector=Esad, learner=EsadLearner)


def _encoder(config: EsadConfig, shape: Shape) -> nn.Sequential:
    if len(shape) == 1:
        return _dense([shape[0], *config.hidden, config.latent])
    side = _smallest_side(config, shape)
    layers = nn.Sequential()
    for before, after in pairwise([shape[0], *config.widths]):
        layers.extend([nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False), *_normalise(after)])
    return layers.extend([nn.Flatten(), nn.Linear(config.widths[-1] * side * side, config.latent, bias=False)])


def _decoder(config: EsadConfig, shape: Shape) -> nn.Sequential:
    if len(shape) == 1:
        return _dense([config.latent, *config.hidden[::-1], shape[0]])
    side, upward = _smallest_side(config, shape), config.widths[::-1]
    layers = nn.Sequential(
        nn.Linear(config.latent, upward[0] * side * side, bias=False),
        nn.Unflatten(1, (upward[0], side, side)),
        *_normalise(upward[0]),
    )
    for before, after in pairwise(upward):
        layers.extend([nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False), *_normalise(after)])
    return layers.extend([nn.ConvTranspose2d(upward[-1], shape[0], 4, stride=2, padding=1, bias=False), nn.Sigmoid()])


def _dense(sizes: Sequence[int]) -> nn.Sequential:
    layers = nn.Sequential()
    for before, after in pairwise(sizes[:-1]):
        layers.extend([nn.Linear(before, after, bias=False), *_normalise(after)])
    return layers.append(nn.Linear(sizes[-2], sizes[-1], bias=False))


def _normalise(channels: int) -> list[nn.Module]:
    return [BatchNorm(channels, eps=_NORM_EPSILON, affine=False), nn.LeakyReLU(_LEAKY_SLOPE)]


def _smallest_side(config: EsadConfig, shape: Shape) -> int:
    halvings = len(config.widths)
    if len(shape) == 3 and shape[1] == shape[2] and shape[1] % (1 << halvings) == 0:
        return shape[1] >> halvings
    raise BadShape(
        f"samples have the shape {tuple(shape)}; the model takes table rows (D,) or square images (C, S, S) with S a "
        f"multiple of {1 << halvings}; scale or pad the images to such a size"
    )


def _mean_square(samples: Tensor) -> Tensor:
    return samples.square().flatten(1).mean(dim=1)
