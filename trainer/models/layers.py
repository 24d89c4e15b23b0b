"""TrainableNetworks that the networks share: DCGAN's strided pyramid, bias-free, with its initialisation, and its like for tables.

``Encoder`` and ``Decoder`` are fully convolutional and keep the place of things; ``PyramidEncoder`` and ``PyramidDecoder`` go
down to a single vector and up again, as DCGAN and GANomaly do (arXiv 1511.06434, section 3; arXiv 1805.06725, section 3.1).

Where half precision ends: before values are subtracted, squared or summed up to a score.

A convolution to one or two maps, computed for a block of neighbouring places at once.

Batch normalisation over the batch that all processes share.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from trainer.errors import BadShape


def to_float32(values: Tensor) -> Tensor:
    """``values`` in float32, or as they are if they have more digits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


_ROWS = 2


class FewChannelConv2d(nn.Conv2d):
    """A 3 x 3 convolution to one or two maps. Weights and results are a plain convolution's.

    Processors compute sixteen output channels at a time, and with one or two of them most of that is wasted. So when it serves,
    the maps of a block of 2 x 4 places are the channels of one wider convolution: a third less time on a CPU.
    """

    def __init__(self, given: int, maps: int) -> None:
        super().__init__(given, maps, 3, 1, 1)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name of the method that it stands for
        """``input``: (N, given, h, w), h even; gives (N, maps, h, w)."""
        height, width = input.shape[2:]
        columns = 4 if width % 4 == 0 else 2
        if self.training or height % _ROWS or width % columns:
            return super().forward(input)
        camera_views = [(row, column) for row in range(_ROWS) for column in range(columns)]
        shifted = [
            nn.functional.pad(self.weight, (column, columns - 1 - column, row, _ROWS - 1 - row)) for row, column in camera_views
        ]
        weight = torch.stack(shifted, dim=1).flatten(0, 1)
        bias = None if self.bias is None else self.bias.repeat_interleave(len(camera_views))
        found = nn.functional.conv2d(input, weight, bias, stride=(_ROWS, columns), padding=1)
        blocks = found.reshape(-1, self.out_channels, _ROWS, columns, height // _ROWS, width // columns)
        return blocks.permute(0, 1, 4, 2, 5, 3).reshape(-1, self.out_channels, height, width)


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
        precise = to_float32(values)
        moments = torch.stack([precise.mean(rest), precise.square().mean(rest)])
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


LEAK = 0.2
INIT_STD = 0.02
_SMALLEST_PX = 4  # the pyramid ends in maps of 4 x 4
_SMALLEST_SIDE_PX = 16


class Encoder(nn.Module):
    """Pictures (N, in_channels, H, W) to a linear map (N, out_channels, H / 2^depth, W / 2^depth)."""

    def __init__(self, in_channels: int, width: int, depth: int, out_channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*_down(in_channels, width, normalise=False))
        for level in range(1, depth):
            self.features.extend(_down(width << (level - 1), width << level, normalise=True))
        self.head = nn.Conv2d(width << (depth - 1), out_channels, 3, padding=1, bias=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """See the class."""
        latent: Tensor = self.head(self.features(pictures))
        return latent


class Decoder(nn.Module):
    """The mirror image: (N, in_channels, h, w) to pictures (N, out_channels, h * 2^depth, w * 2^depth) in [-1, 1]."""

    def __init__(self, in_channels: int, width: int, depth: int, out_channels: int) -> None:
        super().__init__()
        top = width << (depth - 1)
        self.stem = nn.Sequential(nn.Conv2d(in_channels, top, 3, padding=1, bias=False), BatchNorm(top), nn.ReLU())
        self.features = nn.Sequential()
        for level in range(depth - 1, 0, -1):
            self.features.extend(_up(width << level, width << (level - 1)))
        self.head = nn.Sequential(nn.ConvTranspose2d(width, out_channels, 4, stride=2, padding=1, bias=False), nn.Tanh())

    def forward(self, latent: Tensor) -> Tensor:
        """See the class."""
        pictures: Tensor = self.head(self.features(self.stem(latent)))
        return pictures


class PyramidEncoder(nn.Sequential):
    """Pictures (N, channels, S, S), S a power of two from 16 on, to vectors (N, outputs).

    ``features`` are the maps before the last convolution, (N, width * S / 8, 4, 4). ``normalise_first``: batch norm after the
    first convolution, too, which DCGAN leaves out.
    """

    def __init__(self, channels: int, side_px: int, width: int, outputs: int, *, normalise_first: bool = False) -> None:
        super().__init__()
        levels = pyramid_levels(side_px)
        self.features = nn.Sequential(*_down(channels, width, normalise=normalise_first))
        for level in range(1, levels):
            self.features.extend(_down(width << (level - 1), width << level, normalise=True))
        self.head = nn.Sequential(nn.Conv2d(width << (levels - 1), outputs, _SMALLEST_PX, bias=False), nn.Flatten())


class PyramidDecoder(nn.Sequential):
    """The mirror image: vectors (N, inputs) to pictures (N, channels, S, S) in [-1, 1]."""

    def __init__(self, inputs: int, side_px: int, width: int, channels: int) -> None:
        super().__init__()
        levels = pyramid_levels(side_px)
        top = width << (levels - 1)
        self.stem = nn.Sequential(
            nn.Unflatten(1, (inputs, 1, 1)), nn.ConvTranspose2d(inputs, top, _SMALLEST_PX, bias=False), BatchNorm(top), nn.ReLU()
        )
        self.features = nn.Sequential()
        for level in range(levels - 1, 0, -1):
            self.features.extend(_up(width << level, width << (level - 1)))
        self.head = nn.Sequential(nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1, bias=False), nn.Tanh())


class TableEncoder(nn.Sequential):
    """Rows (N, inputs) to vectors (N, outputs) through hidden layers of the given widths. ``features`` as in PyramidEncoder."""

    def __init__(self, inputs: int, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.features = nn.Sequential()
        for before, after in zip([inputs, *widths[:-1]], widths, strict=True):
            self.features.extend([nn.Linear(before, after, bias=False), BatchNorm(after), nn.LeakyReLU(LEAK)])
        self.head = nn.Linear(widths[-1], outputs, bias=False)


class TableDecoder(nn.Sequential):
    """The mirror image: vectors (N, inputs) to rows (N, outputs), linear at the end, since test values leave [-1, 1].

    ``widths`` are the encoder's, first layer first.
    """

    def __init__(self, inputs: int, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.features = nn.Sequential()
        upward = [inputs, *reversed(widths)]
        for before, after in itertools.pairwise(upward):
            self.features.extend([nn.Linear(before, after, bias=False), BatchNorm(after), nn.ReLU()])
        self.head = nn.Linear(upward[-1], outputs, bias=False)


def pyramid_side_px(shape: Sequence[int]) -> int:
    """Side S of samples (C, S, S) for ``PyramidEncoder`` and ``PyramidDecoder``.

    Raises:
        BadShape: not square pictures, or S is no power of two from 16 on.
    """
    if len(shape) == 3 and shape[1] == shape[2] and shape[1] >= _SMALLEST_SIDE_PX and math.log2(shape[1]).is_integer():
        return shape[1]
    raise BadShape(
        f"samples have the shape {tuple(shape)}; the model takes rows of a table (D,) or square pictures (C, S, S) with S a "
        f"power of two from {_SMALLEST_SIDE_PX} on; scale or pad the pictures to such a size"
    )


def pyramid_levels(side_px: int) -> int:
    """Halvings from ``side_px`` to maps of 4 x 4."""
    return round(math.log2(side_px / _SMALLEST_PX))


def init_dcgan(module: nn.Module) -> None:
    """DCGAN's initialisation of one module, for ``network.apply``: convolutions N(0, 0.02), batch norm N(1, 0.02) and 0.

    Linear layers, which DCGAN lacks, start again as torch starts them.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, INIT_STD)
    elif isinstance(module, nn.Linear):
        module.reset_parameters()
    elif isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
        nn.init.normal_(module.weight, 1.0, INIT_STD)
        nn.init.zeros_(module.bias)


def window_means(values: Tensor, size: int) -> Tensor:
    """Means over all ``size`` x ``size`` windows of maps (N, 1, h, w): (N, h', w'). A smaller map is one window."""
    sides = tuple(min(size, side) for side in values.shape[2:])
    return nn.functional.avg_pool2d(values, sides, stride=1)[:, 0]


def _down(channels: int, out_channels: int, *, normalise: bool) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, out_channels, 4, stride=2, padding=1, bias=False)
    normalisation = [BatchNorm(out_channels)] if normalise else []
    return [convolution, *normalisation, nn.LeakyReLU(LEAK)]


def _up(channels: int, out_channels: int) -> list[nn.Module]:
    convolution = nn.ConvTranspose2d(channels, out_channels, 4, stride=2, padding=1, bias=False)
    return [convolution, BatchNorm(out_channels), nn.ReLU()]
