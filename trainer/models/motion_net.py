"""Sees motion: frames in, optical flow and the features it was read from out. Learned from a classical teacher."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

CELL_PX = 4
"""Side of the cells of the motion grid."""
_GREY_LEVELS = 64.0


class Seen(NamedTuple):
    """What is seen of a frame and the frames before it."""

    fine: Tensor
    """Features (N, fine, H / 4, W / 4)."""
    coarse: Tensor
    """Features (N, coarse, H / 8, W / 8)."""
    flow: Tensor
    """To the frame before, (N, 2, H / 4, W / 4): frame pixels right and down."""


class MotionNet(nn.Module):
    """An encoder with skips, three scales deep; no normalisation, so that a crop is seen as the frame it was cut from."""

    def __init__(self, history: int, first: int, fine: int, coarse: int) -> None:
        super().__init__()
        self.at_half = nn.Conv2d(1 + history, first, 5, 2, 2)
        self.at_quarter = nn.Sequential(nn.Conv2d(first, fine, 3, 2, 1), nn.ReLU(), nn.Conv2d(fine, fine, 3, 1, 1))
        self.at_eighth = nn.Sequential(nn.Conv2d(fine, coarse, 3, 2, 1), nn.ReLU(), nn.Conv2d(coarse, coarse, 3, 1, 1))
        self.at_sixteenth = nn.Sequential(nn.Conv2d(coarse, coarse, 3, 2, 1), nn.ReLU(), nn.Conv2d(coarse, coarse, 3, 1, 1))
        self.to_eighth = nn.Conv2d(coarse, coarse, 1)
        self.to_quarter = nn.Conv2d(coarse, fine, 1)
        self.flow = nn.Sequential(nn.Conv2d(fine, fine, 3, 1, 1), nn.ReLU(), nn.Conv2d(fine, 2, 3, 1, 1))

    def forward(self, frames: Tensor) -> Seen:
        """``frames``: grey levels float32 (N, 1 + history, H, W), the newest first; H and W are multiples of 8."""
        quarter = torch.relu(self.at_quarter(torch.relu(self.at_half(as_input(frames)))))
        eighth = torch.relu(self.at_eighth(quarter))
        sixteenth = torch.relu(self.at_sixteenth(eighth))
        coarse = torch.relu(eighth + like(self.to_eighth(sixteenth), eighth))
        fine = torch.relu(quarter + like(self.to_quarter(coarse), quarter))
        return Seen(fine, coarse, self.flow(fine))


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
