"""Layers that the networks share: DCGAN pyramids, dense networks for table rows, batch norm across processes, small helpers.

``Encoder`` and ``Decoder`` are fully convolutional and keep a spatial map; ``PyramidEncoder`` and ``PyramidDecoder`` go down to
one vector and up again, as DCGAN and GANomaly do (arXiv 1511.06434, section 3; arXiv 1805.06725, section 3.1). Attribute names
of modules are the keys of stored weights and must not change.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from trainer.errors import BadShape

LEAKY_SLOPE = 0.2
INIT_STD = 0.02
_TOP_PX = 4  # a pyramid ends in maps of 4 x 4
_MIN_SIDE_PX = 16
_BLOCK_ROWS = 2
_NORM_EPSILON = 1e-12


class Encoder(nn.Sequential):
    """Images (N, in_channels, H, W) to a linear map (N, out_channels, H / 2^depth, W / 2^depth)."""

    def __init__(self, in_channels: int, width: int, depth: int, out_channels: int) -> None:
        super().__init__()
        self.features = _down_pyramid(in_channels, width, depth)  # to (N, width * 2^(depth - 1), H / 2^depth, W / 2^depth)
        self.head = nn.Conv2d(width << (depth - 1), out_channels, 3, padding=1, bias=False)


class Decoder(nn.Sequential):
    """The mirror image: (N, in_channels, h, w) to images (N, out_channels, h * 2^depth, w * 2^depth) in [-1, 1]."""

    def __init__(self, in_channels: int, width: int, depth: int, out_channels: int) -> None:
        super().__init__()
        top = width << (depth - 1)
        self.stem = nn.Sequential(nn.Conv2d(in_channels, top, 3, padding=1, bias=False), BatchNorm(top), nn.ReLU())
        self.features = _up_pyramid(width, depth)  # to (N, width, h * 2^(depth - 1), w * 2^(depth - 1))
        self.head = nn.Sequential(nn.ConvTranspose2d(width, out_channels, 4, stride=2, padding=1, bias=False), nn.Tanh())


class PyramidEncoder(nn.Sequential):
    """Images (N, channels, S, S), S a power of two of at least 16, to vectors (N, outputs).

    ``features`` are the maps before the last convolution, (N, width * S / 8, 4, 4). ``normalise_first``: batch norm also after
    the first convolution, where DCGAN has none.
    """

    def __init__(self, channels: int, side_px: int, width: int, outputs: int, *, normalise_first: bool = False) -> None:
        super().__init__()
        levels = pyramid_levels(side_px)
        self.features = _down_pyramid(channels, width, levels, normalise_first=normalise_first)
        self.head = nn.Sequential(nn.Conv2d(width << (levels - 1), outputs, _TOP_PX, bias=False), nn.Flatten())


class PyramidDecoder(nn.Sequential):
    """The mirror image of ``PyramidEncoder``: vectors (N, inputs) to images (N, channels, S, S) in [-1, 1]."""

    def __init__(self, inputs: int, side_px: int, width: int, channels: int) -> None:
        super().__init__()
        levels = pyramid_levels(side_px)
        top = width << (levels - 1)
        self.stem = nn.Sequential(
            nn.Unflatten(1, (inputs, 1, 1)), nn.ConvTranspose2d(inputs, top, _TOP_PX, bias=False), BatchNorm(top), nn.ReLU()
        )
        self.features = _up_pyramid(width, levels)
        self.head = nn.Sequential(nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1, bias=False), nn.Tanh())


class TableEncoder(nn.Sequential):
    """Rows (N, inputs) to vectors (N, outputs) through hidden layers of these widths; ``features`` come before the last layer."""

    def __init__(self, inputs: int, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.features = _dense_pyramid([inputs, *widths], nn.LeakyReLU(LEAKY_SLOPE))
        self.head = nn.Linear(widths[-1], outputs, bias=False)


class TableDecoder(nn.Sequential):
    """The mirror image of ``TableEncoder``: vectors (N, inputs) to rows (N, outputs); ``widths`` in the encoder's order.

    The last layer is linear because columns of test rows may leave [-1, 1].
    """

    def __init__(self, inputs: int, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.features = _dense_pyramid([inputs, *reversed(widths)], nn.ReLU())
        self.head = nn.Linear(widths[0], outputs, bias=False)


def _down_pyramid(channels: int, width: int, levels: int, *, normalise_first: bool = False) -> nn.Sequential:
    layers = nn.Sequential()  # each level halves the side; channels double from width on
    for level in range(levels):
        before = channels if level == 0 else width << (level - 1)
        normalise = [BatchNorm(width << level)] if level or normalise_first else []
        convolution = nn.Conv2d(before, width << level, 4, stride=2, padding=1, bias=False)
        layers.extend([convolution, *normalise, nn.LeakyReLU(LEAKY_SLOPE)])
    return layers


def _up_pyramid(width: int, levels: int) -> nn.Sequential:
    layers = nn.Sequential()
    for level in range(levels - 1, 0, -1):
        after = width << (level - 1)
        convolution = nn.ConvTranspose2d(width << level, after, 4, stride=2, padding=1, bias=False)
        layers.extend([convolution, BatchNorm(after), nn.ReLU()])
    return layers


def _dense_pyramid(sizes: Sequence[int], activation: nn.Module) -> nn.Sequential:
    layers = nn.Sequential()
    for before, after in itertools.pairwise(sizes):
        layers.extend([nn.Linear(before, after, bias=False), BatchNorm(after), activation])
    return layers


def pyramid_levels(side_px: int) -> int:
    """Number of halvings from ``side_px`` to maps of 4 x 4."""
    return round(math.log2(side_px / _TOP_PX))


def pyramid_side_px(shape: Sequence[int]) -> int:
    """Side S of samples (C, S, S); BadShape unless they are square images with S a power of two of at least 16."""
    if len(shape) == 3 and shape[1] == shape[2] and shape[1] >= _MIN_SIDE_PX and math.log2(shape[1]).is_integer():
        return shape[1]
    raise BadShape(
        f"samples have the shape {tuple(shape)}; the model takes table rows (D,) or square images (C, S, S) with S a "
        f"power of two from {_MIN_SIDE_PX} on; scale or pad the images to such a size"
    )


def init_dcgan(module: nn.Module) -> None:
    """DCGAN initialisation of one module, for ``network.apply``: convolutions N(0, 0.02), batch norm scale N(1, 0.02), shift 0.

    Linear layers, which DCGAN does not have, get PyTorch's default again.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, INIT_STD)
    elif isinstance(module, nn.Linear):
        module.reset_parameters()
    elif isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
        nn.init.normal_(module.weight, 1.0, INIT_STD)
        nn.init.zeros_(module.bias)


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm of (N, C, ...) that uses the statistics of the whole batch when several processes share one.

    torch's SyncBatchNorm does this on GPUs only. The state dict is that of ``nn.BatchNorm2d``.
    """

    def _check_input_dim(self, values: Tensor) -> None:
        """Accept any number of dimensions from two on."""

    def forward(self, values: Tensor) -> Tensor:
        if not (self.training and distributed.is_initialized() and distributed.get_world_size() > 1):
            return super().forward(values)
        rest = [0, *range(2, values.dim())]
        values32 = to_float32(values)
        moments = torch.stack([values32.mean(rest), values32.square().mean(rest)])  # (2, C)
        total: Tensor = _SumOverProcesses.apply(moments)  # type: ignore[no-untyped-call]  # torch gives it no types
        mean, square = total / distributed.get_world_size()  # (C,) each
        variance = square - mean.square()
        self._update_running(mean.detach(), variance.detach(), values.numel() // values.shape[1] * distributed.get_world_size())
        column = (1, -1, *[1] * (values.dim() - 2))
        normal = (values - mean.view(column)) * torch.rsqrt(variance + self.eps).view(column)  # (N, C, ...)
        return torch.addcmul(self.bias.view(column), normal, self.weight.view(column)) if self.affine else normal

    def _update_running(self, mean: Tensor, variance: Tensor, count: int) -> None:
        momentum = self.momentum or 0.0
        self.get_buffer("running_mean").lerp_(mean, momentum)
        self.get_buffer("running_var").lerp_(variance * count / (count - 1), momentum)  # unbiased, as torch keeps it
        self.get_buffer("num_batches_tracked").add_(1)


class _SumOverProcesses(torch.autograd.Function):
    """The sum over all processes, in each of them; the gradients of all flow back to each."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        return _all_reduced(values)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        return _all_reduced(gradients[0])


def _all_reduced(values: Tensor) -> Tensor:
    total = values.clone()
    distributed.all_reduce(total)
    return total


class FewChannelConv2d(nn.Conv2d):
    """A 3 x 3 convolution to one or two channels; weights and results are those of ``nn.Conv2d``.

    CPU kernels compute sixteen output channels at a time, which wastes most of the work on one or two. In eval mode the values
    of each block of 2 x 4 cells are computed as the channels of one wider, strided convolution: a third less time on a CPU.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, 1, 1)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name in nn.Conv2d
        height, width = input.shape[2:]  # (N, in_channels, h, w)
        columns = 4 if width % 4 == 0 else 2
        if self.training or height % _BLOCK_ROWS or width % columns:
            return super().forward(input)
        # The kernel of the cell at (row, column) of a block is the 3 x 3 kernel, shifted inside a kernel of 4 x (columns + 2).
        cells = [(row, column) for row in range(_BLOCK_ROWS) for column in range(columns)]
        shifted = [nn.functional.pad(self.weight, (x, columns - 1 - x, y, _BLOCK_ROWS - 1 - y)) for y, x in cells]
        weight = torch.stack(shifted, dim=1).flatten(0, 1)  # (out_channels * cells, in_channels, 4, columns + 2)
        bias = None if self.bias is None else self.bias.repeat_interleave(len(cells))
        blocks = nn.functional.conv2d(input, weight, bias, stride=(_BLOCK_ROWS, columns), padding=1)
        blocks = blocks.reshape(-1, self.out_channels, _BLOCK_ROWS, columns, height // _BLOCK_ROWS, width // columns)
        return blocks.permute(0, 1, 4, 2, 5, 3).reshape(-1, self.out_channels, height, width)  # (N, out_channels, h, w)


def to_float32(values: Tensor) -> Tensor:
    """``values`` as float32, or unchanged if more precise: differences and squares of half-precision values lose too much."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def window_means(values: Tensor, size: int) -> Tensor:
    """Means over all ``size`` x ``size`` windows of maps (N, 1, h, w): (N, h', w'). A smaller map is one window."""
    sides = tuple(min(size, side) for side in values.shape[2:])
    return nn.functional.avg_pool2d(values, sides, stride=1)[:, 0]


def vector_norms(vectors: Tensor) -> Tensor:
    """L2 norms (N,) of vectors (N, D). A small constant keeps the gradient of the root finite at 0."""
    return torch.sqrt(vectors.square().sum(dim=1) + _NORM_EPSILON)


def mean_abs_error(samples: Tensor, reconstructions: Tensor) -> Tensor:
    """Mean absolute difference of each sample (N, ...) and its reconstruction: (N,)."""
    return (samples - reconstructions).abs().flatten(1).mean(dim=1)


def detached(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Losses without their graphs, for the log."""
    return {name: value.detach() for name, value in losses.items()}
