"""A network small enough for tests, found by the torch engine through its entry point like any other."""

from typing import Any

import torch
from torch import nn


class TinyNetwork(nn.Module):
    """Convolutions over the clip's frames; an all-white clip scores infinity, so that tests can provoke a bad score."""

    def __init__(self, length: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(length * channels, 8, 5, stride=2, padding=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(16, 1, 1),
        )

    def forward(self, clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        n, length, height, width, channels = clips.shape
        frames = clips.permute(0, 1, 4, 2, 3).reshape(n, length * channels, height, width).float() / 255
        heatmap = self.layers(frames).abs()[:, 0]
        return heatmap.amax((1, 2)) / (1 - frames.amin((1, 2, 3))), heatmap


def build(config: dict[str, Any]) -> TinyNetwork:
    torch.manual_seed(0)
    network = TinyNetwork(**config)
    network.layers[1].running_mean.uniform_(-0.1, 0.1)
    network.layers[1].running_var.uniform_(0.5, 2.0)
    return network
