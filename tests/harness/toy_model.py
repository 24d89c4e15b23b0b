"""A model small enough for tests of the loop: a linear auto-encoder of table rows."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.models.layers import BatchNorm
from trainer.training.distributed import DistributedContext
from trainer.training.interfaces import Batch, Detector


class ToyDetector(Detector):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 2, bias=False), BatchNorm(2), nn.Linear(2, 4, bias=False))

    def forward(self, samples: Tensor) -> Tensor:
        return (self.body(samples) - samples).square().mean(dim=1)


class ToyLearner:
    """Its loss has a random part, so that chance matters; ``poison_at`` makes the loss no number at that step."""

    def __init__(self, rate: float = 1e-2, poison_at: int | None = None) -> None:
        self.detector = ToyDetector()
        self.modules: Mapping[str, nn.Module] = {"detector": self.detector}
        self.optimisers: Mapping[str, Optimizer] = {"detector": torch.optim.Adam(self.detector.parameters(), lr=rate)}
        self.poison_at, self.steps, self.seen, self.shares = poison_at, 0, [], []

    def rate_factor(self, share: float) -> float:
        return 1.0 - share

    def learn(self, batch: Batch, share: float, context: DistributedContext) -> Mapping[str, Tensor]:
        self.detector.train()
        self.seen.append(batch.samples.clone())
        self.shares.append(share)
        error = self.detector(batch.samples).mean()
        shaken = self.detector(batch.samples + 0.1 * context.randn(*batch.samples.shape)).mean()
        if self.steps == self.poison_at:
            shaken = shaken * torch.nan
        self.steps += 1
        context.update("detector", self.optimisers["detector"], {"error": error, "shaken": shaken}, self.detector.parameters())
        return {"error": error.detach(), "shaken": shaken.detach()}

    def validation_loss(self, samples: Tensor) -> Tensor:
        self.detector.eval()
        return self.detector(samples).mean()
