"""What a model implements for the training loop.

A model is a *detector*, the network that scores samples and is exported, and a *learner*: the detector with all that training
adds, such as further networks, optimisers and losses. Both take samples, float32 in [-1, 1]: images (N, C, S, S) or rows of a
table (N, D), whose values may leave that range in test data.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.training.distributed import DistributedContext

Shape = tuple[int, ...]
"""Of one sample: (C, S, S) or (D,)."""

NORMAL = 1.0
"""Label of normal and of unlabelled samples."""
ANOMALY = -1.0
"""Label of a labelled anomaly."""


class Batch(NamedTuple):
    """Training samples with their labels."""

    samples: Tensor
    """float32 (N, *Shape)."""
    labels: Tensor
    """float32 (N,): ``NORMAL`` or ``ANOMALY``."""


class Detector(nn.Module):
    """A network that scores samples. In eval mode the score of a sample does not depend on the rest of its batch."""

    def forward(self, samples: Tensor) -> Tensor:
        """The model's own score (N,), higher for more anomalous samples."""
        raise NotImplementedError

    def scores(self, samples: Tensor) -> Mapping[str, Tensor]:
        """All scores of the model by name, (N,) each, its own score first."""
        raise NotImplementedError

    def reconstruct(self, samples: Tensor) -> Tensor:
        """The model's reconstruction of samples, in their shape."""
        raise NotImplementedError

    def fit_scale(self, normals: Tensor) -> None:
        """Fit the scale of the scores to normal samples, after training and in eval mode. Most models need none."""


class Learner(Protocol):
    """A model in training."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """All modules with weights, by name; the detector is ``detector``."""

    @property
    def optimisers(self) -> Mapping[str, Optimizer]:
        """All optimisers, by name."""

    def rate_factor(self, share: float) -> float:
        """The learning rate schedule: a factor of all learning rates, by the share of the run that is done, 0 to 1."""

    def learn(self, batch: Batch, share: float, context: DistributedContext) -> Mapping[str, Tensor]:
        """Train on one batch and return the loss terms before the update, detached scalars by name.

        Updates and random numbers come from ``context``, so that several processes compute what one would.
        """

    def validation_loss(self, samples: Tensor) -> Tensor:
        """The loss of normal samples, a scalar: in eval mode, deterministic, and of the detector alone."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The factory functions of one kind of model."""

    kind: str
    configure: Callable[[Mapping[str, Any]], Any]
    """Settings to a validated configuration (pydantic), from which the detector is built; bundles contain it."""
    detector: Callable[[Any, Shape], Detector]
    """Configuration and sample shape to an untrained detector."""
    learner: Callable[[Any, Any], Learner]
    """Detector and configuration to a learner; initialises all weights."""


class Settings(BaseModel):
    """Base of the configurations of all models."""

    model_config = ConfigDict(frozen=True, extra="forbid")
