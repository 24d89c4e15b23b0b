"""What the training loop and a model know of each other: samples go in, losses by name come out.

A model is a *detector* (what is needed to score, and is served) and a *learner* (the detector with everything else that
training needs: further players, optimisers, losses). Both take samples, float32 in [-1, 1]: pictures (N, C, S, S) or rows of a
table (N, D), whose values may leave that range where test data does.
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
"""Label of a sample that is normal, or of which nothing is known."""
ANOMALY = -1.0
"""Label of a sample that somebody marked as anomalous."""


class Batch(NamedTuple):
    """What a learner is given at a time."""

    samples: Tensor
    """float32 (N, *Shape)."""
    labels: Tensor
    """float32 (N,): ``NORMAL`` or ``ANOMALY``."""


class Detector(nn.Module):
    """A network that scores samples; what a bundle carries.

    Scores depend on one sample alone: in eval mode nothing is shared between the samples of a batch.
    """

    def forward(self, samples: Tensor) -> Tensor:
        """The model's own score (N,), higher for stranger samples."""
        raise NotImplementedError

    def scores(self, samples: Tensor) -> Mapping[str, Tensor]:
        """Every score that the model knows, (N,) each, by name; the model's own comes first."""
        raise NotImplementedError

    def reconstruct(self, samples: Tensor) -> Tensor:
        """What the model makes of samples, in their shape."""
        raise NotImplementedError

    def fit_scale(self, normals: Tensor) -> None:
        """After training, in eval mode: take the scale of the scores from normal samples. Most models need none."""


class Learner(Protocol):
    """A model in training."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Everything with weights, by name; the detector's are under ``detector``."""
        ...

    @property
    def optimisers(self) -> Mapping[str, Optimizer]:
        """Every optimiser, by name."""
        ...

    def rate_factor(self, share: float) -> float:
        """What learning rates are multiplied by when ``share``, 0 to 1, of the run is over."""
        ...

    def learn(self, batch: Batch, share: float, context: DistributedContext) -> Mapping[str, Tensor]:
        """Learn from one batch; the losses before the step by term, scalars, detached.

        Every update goes through ``context.update`` and every random number through ``context``, so that processes that
        share a batch do what one would.
        """
        ...

    def validation_loss(self, samples: Tensor) -> Tensor:
        """What training makes small, of normal samples, scalar; in eval mode, without chance and without the other players."""
        ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make a model of one kind; every model file has one."""

    kind: str
    configure: Callable[[Mapping[str, Any]], Any]
    """Settings to a frozen configuration (pydantic): all that is needed to build the detector, stored in bundles."""
    detector: Callable[[Any, Shape], Detector]
    """Configuration and shape of the samples to a detector, not yet trained."""
    learner: Callable[[Any, Any], Learner]
    """Detector and configuration to a learner: other players and optimisers; everything initialised."""


class Settings(BaseModel):
    """Base of every model's configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")
