"""Batch normalisation over the batch that all processes share."""

from typing import Any

import torch
from torch import Tensor, distributed, nn


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation of (N, C, ...) whose statistics, in training, are those of the batch that all processes share.

    torch's SyncBatchNorm does this on GPUs only. The state dict is that of ``nn.BatchNorm2d``.
    """

    def _check_input_dim(self, values: Tensor) -> None:
        """Any number of dimensions from two on will do."""

    def forward(self, values: Tensor) -> Tensor:
        """See the class."""
        if not (self.training and distributed.is_initialized() and distributed.get_world_size() > 1):
            return super().forward(values)
        return self._normalise_together(values)

    def _normalise_together(self, values: Tensor) -> Tensor:
        rest = [0, *range(2, values.dim())]
        exact = values.to(torch.promote_types(values.dtype, torch.float32))
        moments = torch.stack([exact.mean(rest), exact.square().mean(rest)])
        total: Tensor = _SumOverProcesses.apply(moments)  # type: ignore[no-untyped-call]  # torch gives it no types
        mean, square = total / distributed.get_world_size()
        variance = square - mean.square()
        self._remember(mean.detach(), variance.detach(), values.numel() // values.shape[1] * distributed.get_world_size())
        column = (1, -1, *[1] * (values.dim() - 2))
        normal = (values - mean.view(column)) * torch.rsqrt(variance + self.eps).view(column)
        return torch.addcmul(self.bias.view(column), normal, self.weight.view(column)) if self.affine else normal

    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Running statistics, as torch keeps them: the variance without bias."""
        momentum = self.momentum or 0.0
        self.get_buffer("running_mean").lerp_(mean, momentum)
        self.get_buffer("running_var").lerp_(variance * count / (count - 1), momentum)
        self.get_buffer("num_batches_tracked").add_(1)


class _SumOverProcesses(torch.autograd.Function):
    """The sum, in every process; each one's gradient flows back to all of them."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


def _summed(values: Tensor) -> Tensor:
    total = values.clone()
    distributed.all_reduce(total)
    return total
