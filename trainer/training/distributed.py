"""The processes that train one model together, each on its part of every batch; usually there is one.

Lightning Fabric starts them (``torchrun``), picks the device and the precision. Gradients are averaged by ``update`` instead of
by DistributedDataParallel, whose hooks know neither two players who take turns nor gradients of gradients.
"""

import math
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.errors import TrainingDiverged

Precision = Literal["f32", "bf16"]
"""``bf16``: matrix products in bfloat16, weights and sums in float32. It needs no loss scaling, which float16 would."""

_FABRIC_PRECISION: dict[str, Literal["32-true", "bf16-mixed"]] = {"f32": "32-true", "bf16": "bf16-mixed"}

T = TypeVar("T")


class DistributedContext:
    """One of ``count`` processes, number ``rank``."""

    def __init__(self, precision: Precision = "f32", accelerator: str = "auto") -> None:
        # torchrun says how many processes it started here; Fabric wants to be told again.
        here, hosts = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ.get("GROUP_WORLD_SIZE", "1"))
        strategy = "ddp" if here * hosts > 1 else "auto"
        self._fabric = Fabric(
            accelerator=accelerator, devices=here, num_nodes=hosts, strategy=strategy, precision=_FABRIC_PRECISION[precision]
        )
        self._fabric.launch()

    @property
    def rank(self) -> int:
        """0 for the process that talks and writes."""
        return self._fabric.global_rank

    @property
    def count(self) -> int:
        """How many processes there are."""
        return self._fabric.world_size

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self._fabric.device

    def autocast(self) -> AbstractContextManager[Any]:
        """The chosen precision, for forward passes."""
        return self._fabric.autocast()

    def local_part(self, values: Tensor) -> Tensor:
        """This process's equal part of ``values`` (N, ...)."""
        size = len(values) // self.count
        return values[self.rank * size : (self.rank + 1) * size]

    def rand(self, count: int, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), (count, *shape), for the samples of this process: drawn for all, so that all agree."""
        return self.local_part(torch.rand(count * self.count, *shape)).to(self.device)

    def randn(self, count: int, *shape: int) -> Tensor:
        """Normal numbers, otherwise like :meth:`rand`."""
        return self.local_part(torch.randn(count * self.count, *shape)).to(self.device)

    def broadcast(self, value: T) -> T:
        """The first process's value, in every process."""
        return self._fabric.broadcast(value) if self.count > 1 else value

    def mean(self, value: Tensor) -> float:
        """The mean over the processes of a scalar."""
        return float(self._averaged((value.detach(),))[0])

    def rank_zero_first(self) -> AbstractContextManager[None]:
        """The first process goes through before the others, which then find its work done."""
        return self._fabric.rank_zero_first(local=True)

    def update(self, name: str, optimiser: Optimizer, terms: Mapping[str, Tensor], parameters: Iterable[nn.Parameter]) -> None:
        """One step of ``optimiser`` down the gradient of the sum of ``terms``, averaged over the processes.

        ``terms``: the weighted parts of the loss, scalars, by name. Only ``parameters`` learn; ``name`` says whose they are.

        Raises:
            TrainingDiverged: a term or the gradient is not finite; names it. Nothing was changed.
        """
        learned = list(parameters)
        with torch.autocast(self.device.type, enabled=False):
            gradients = self._averaged(torch.autograd.grad(torch.stack(list(terms.values())).sum(), learned))
            if not _finite(gradients):
                raise TrainingDiverged(_culprit(name, terms))
            for parameter, gradient in zip(learned, gradients, strict=True):
                parameter.grad = gradient
            optimiser.step()

    def _averaged(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.count == 1:
            return gradients
        flat = self._fabric.all_reduce(torch.cat([gradient.flatten() for gradient in gradients]), reduce_op="mean")
        parts = torch.split(torch.as_tensor(flat), [gradient.numel() for gradient in gradients])
        return tuple(part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True))


def _finite(gradients: tuple[Tensor, ...]) -> bool:
    # The sum of norms is finite if and only if every gradient is, short of an overflow that means trouble as well.
    return bool(torch.isfinite(torch.stack(torch._foreach_norm(gradients)).sum()))


def _culprit(name: str, terms: Mapping[str, Tensor]) -> str:
    values = {term: float(value.detach()) for term, value in terms.items()}
    strange = [f"{term} is {value}" for term, value in values.items() if not math.isfinite(value)]
    return f"{name}: the term {strange[0]}" if strange else f"{name}: every term is finite, but not the gradient"
