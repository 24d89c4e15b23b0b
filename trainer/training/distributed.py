"""Data-parallel training with Lightning Fabric: every process (torchrun) learns from its part of each batch.

``update`` averages gradients itself: the hooks of DistributedDataParallel support neither adversarial networks that are updated
in turns nor gradients of gradients.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.errors import TrainingDiverged

Precision = Literal["f32", "bf16"]
"""``bf16``: matrix products in bfloat16, weights and sums in float32. Unlike float16 it needs no loss scaling."""

T = TypeVar("T")


class DistributedContext:
    """This process among those of a training run: rank, device, precision, and communication with the others."""

    def __init__(self, precision: Precision = "f32", accelerator: str = "auto") -> None:
        from lightning_fabric import Fabric  # takes two seconds, and only training needs it

        # torchrun tells the number of processes in the environment, but Fabric does not read it there.
        devices, hosts = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ.get("GROUP_WORLD_SIZE", "1"))
        self._fabric = Fabric(
            accelerator=accelerator,
            strategy="ddp" if devices * hosts > 1 else "auto",
            devices=devices,
            num_nodes=hosts,
            precision="32-true" if precision == "f32" else "bf16-mixed",
        )
        self._fabric.launch()

    @property
    def rank(self) -> int:
        """0 in the process that prints and writes files."""
        return self._fabric.global_rank

    @property
    def world_size(self) -> int:
        """The number of processes."""
        return self._fabric.world_size

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self._fabric.device

    def autocast(self) -> AbstractContextManager[Any]:
        """Forward passes inside run in the chosen precision."""
        return self._fabric.autocast()

    def local_part(self, values: Tensor) -> Tensor:
        """This process's equal part of ``values`` (N, ...)."""
        size = len(values) // self.world_size
        return values[self.rank * size : (self.rank + 1) * size]

    def rand(self, count: int, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), (count, *shape), for this process's samples.

        Every process draws the numbers of all, so that their random generators stay in step.
        """
        return self.local_part(torch.rand(count * self.world_size, *shape)).to(self.device)

    def randn(self, count: int, *shape: int) -> Tensor:
        """Standard normal numbers, like :meth:`rand`."""
        return self.local_part(torch.randn(count * self.world_size, *shape)).to(self.device)

    def broadcast(self, value: T) -> T:
        """The first process's value, in every process."""
        return self._fabric.broadcast(value) if self.world_size > 1 else value

    def mean(self, value: Tensor) -> float:
        """The mean of a scalar over the processes."""
        return float(self._averaged((value.detach(),))[0])

    def rank_zero_first(self) -> AbstractContextManager[None]:
        """The first process of each host runs the block before the others do."""
        return self._fabric.rank_zero_first(local=True)

    def update(self, name: str, optimiser: Optimizer, terms: Mapping[str, Tensor], parameters: Iterable[nn.Parameter]) -> None:
        """Take one optimiser step on ``parameters``, with the gradient of the sum of ``terms`` averaged over the processes.

        ``terms``: the weighted terms of the loss, scalars, by name. ``name``: the network, for error messages.

        Raises:
            TrainingDiverged: a term or the gradient is not finite; the parameters are left as they were.
        """
        trained = list(parameters)
        with torch.autocast(self.device.type, enabled=False):
            gradients = self._averaged(torch.autograd.grad(torch.stack(list(terms.values())).sum(), trained))
            # The sum of norms is finite if every gradient is, unless it overflows, and then training has diverged, too.
            if not torch.isfinite(torch.stack(torch._foreach_norm(gradients)).sum()):
                raise TrainingDiverged(_divergence(name, terms))
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter.grad = gradient
            optimiser.step()

    def _averaged(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.world_size == 1:
            return gradients
        flat = self._fabric.all_reduce(torch.cat([gradient.flatten() for gradient in gradients]), reduce_op="mean")
        parts = torch.split(torch.as_tensor(flat), [gradient.numel() for gradient in gradients])
        return tuple(part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True))


def _divergence(name: str, terms: Mapping[str, Tensor]) -> str:
    for term, value in terms.items():
        if not value.isfinite():
            return f"{name}: the term {term} is {float(value.detach())}"
    return f"{name}: every term is finite, but not the gradient"
