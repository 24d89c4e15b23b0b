"""Sees motion: frames in, optical flow and the features it was read from out. Learned from a classical teacher."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.models.exact import exact
from trainer.models.few_maps import FewMaps
from trainer.models.motion import smooth

CELL_PX = 4
"""Side of the cells of the motion grid."""
_GREY_LEVELS = 64.0
_RIDGE = 3e-4
"""Added to the squared gradients: where there is no texture, flow goes to zero instead of to noise."""
_MOST_PX = 8.0


class Seen(NamedTuple):
    """What is seen of a frame and the frames before it."""

    fine: Tensor
    """Features (N, fine, H / 4, W / 4)."""
    coarse: Tensor
    """Features (N, coarse, H / 8, W / 8)."""
    flow: Tensor
    """To the frame before, (N, 2, H / 4, W / 4): frame pixels right and down."""


class LocalMotion(nn.Module):
    """Flow by least squares (Lucas and Kanade, 1981), at full, half and quarter size: what the network corrects.

    Products of gradients are what a few convolutions learn last: without these the net needs twice as long. Each scale gives
    the flow to the frame before, in frame pixels, and how much texture it rests on: 9 channels on the grid.

    Maps of full size are one to a tensor, and sums of shifted ones instead of convolutions: engines lay channels side by side,
    pixel by pixel, and shuffling two or five of them to and fro took three quarters of the time.
    """

    channels = 9

    def forward(self, newest: Tensor, before: Tensor) -> Tensor:
        """Two frames (N, 1, H, W) in units of 64 grey levels."""
        found = []
        for reduction in (1, 2, 4):
            found.append(_flow_at_scale(smooth(newest), smooth(before), reduction))
            newest, before = nn.functional.avg_pool2d(newest, 2), nn.functional.avg_pool2d(before, 2)
        return torch.cat(found, dim=1)


def _flow_at_scale(newest: Tensor, before: Tensor, reduction: int) -> Tensor:
    """Flow from the newest frame to the one before, and texture, (N, 3, H / 4, W / 4), of frames this much smaller."""
    change = before - newest
    mean = nn.functional.pad((newest + before) / 2.0, (1, 1, 1, 1), mode="replicate")
    right = (mean[:, :, 1:-1, 2:] - mean[:, :, 1:-1, :-2]) / 2.0
    down = (mean[:, :, 2:, 1:-1] - mean[:, :, :-2, 1:-1]) / 2.0
    products = (right * right, down * down, right * down, right * change, down * change)
    cells = torch.cat([nn.functional.avg_pool2d(product, CELL_PX // reduction) for product in products], dim=1)
    xx, yy, xy, xt, yt = torch.split(nn.functional.avg_pool2d(cells, 3, 1, 1, count_include_pad=False), 1, dim=1)
    xx, yy = xx + _RIDGE, yy + _RIDGE
    flow = torch.cat([xy * yt - yy * xt, xy * xt - xx * yt], dim=1) / (xx * yy - xy * xy)
    texture = torch.log((xx + yy) / (2.0 * _RIDGE)) / 4.0
    return torch.cat([(flow * reduction).clamp(-_MOST_PX, _MOST_PX), texture], dim=1)


class MotionNet(nn.Module):
    """An encoder with skips, three scales deep; no normalisation, so that a crop is seen as the frame it was cut from."""

    def __init__(self, history: int, first: int, fine: int, coarse: int) -> None:
        super().__init__()
        self.at_half = nn.Conv2d(1 + history, first, 5, 2, 2)
        self.local = LocalMotion()
        self.to_local = nn.Conv2d(first, fine - LocalMotion.channels, 3, 2, 1)
        self.at_quarter = nn.Conv2d(fine, fine, 3, 1, 1)
        self.at_eighth = nn.Sequential(nn.Conv2d(fine, coarse, 3, 2, 1), nn.ReLU(), nn.Conv2d(coarse, coarse, 3, 1, 1))
        self.at_sixteenth = nn.Sequential(nn.Conv2d(coarse, coarse, 3, 2, 1), nn.ReLU(), nn.Conv2d(coarse, coarse, 3, 1, 1))
        self.to_eighth = nn.Conv2d(coarse, coarse, 1)
        self.to_quarter = nn.Conv2d(coarse, fine, 1)
        self.flow = nn.Sequential(nn.Conv2d(fine, fine, 3, 1, 1), nn.ReLU(), FewMaps(fine, 2))

    def forward(self, frames: Tensor) -> Seen:
        """``frames``: grey levels float32 (N, 1 + history, H, W), the newest first; H and W are multiples of 8."""
        scaled = as_input(frames)
        local = self.local(frames[:, :1] / _GREY_LEVELS, frames[:, 1:2] / _GREY_LEVELS)
        looked = torch.relu(self.to_local(torch.relu(self.at_half(scaled))))
        quarter = torch.relu(self.at_quarter(torch.cat([looked, local], dim=1)))
        eighth = torch.relu(self.at_eighth(quarter))
        sixteenth = torch.relu(self.at_sixteenth(eighth))
        coarse = torch.relu(eighth + like(self.to_eighth(sixteenth), eighth))
        fine = torch.relu(quarter + like(self.to_quarter(coarse), quarter))
        return Seen(fine, coarse, exact(self.flow(fine)))


def as_input(frames: Tensor) -> Tensor:
    """The newest frame, and how it differs from each older one, in units of 64 grey levels."""
    scaled = frames / _GREY_LEVELS
    newest = scaled[:, :1]
    return torch.cat([newest - 128.0 / _GREY_LEVELS, newest - scaled[:, 1:]], dim=1)


def like(maps: Tensor, pattern: Tensor) -> Tensor:
    """``maps`` laid over the grid of ``pattern``."""
    return nn.functional.interpolate(maps, size=pattern.shape[2:], mode="bilinear", align_corners=False)


def initialise_relu(network: nn.Module) -> None:
    """Weights for layers that are followed by a ReLU (He et al., 2015), biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
