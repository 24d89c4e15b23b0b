"""How benchmark samples reach a learner: as many labelled anomalies in every batch as are wanted, and never twice the same.

Both are ours, not the papers': with one labelled anomaly in a hundred samples most batches would hold one or none, and a
thousandth of the pictures that there could be is learned by heart.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from trainer.learner import ANOMALY, NORMAL, Batch

_ROTATION, _SCALE, _SHEAR, _SHIFT = 0.15, 0.07, 0.1, 0.05
"""At strength 1: radians, logarithm of a factor, and the last two in halves of a picture's side."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How pictures (N, C, S, S) in [-1, 1] are changed each time they are shown."""

    strength: float
    """Of the random affine maps of normal pictures."""
    anomalies: Literal["turned", "mixed"]
    """Labelled anomalies: half of them turned by any angle and mirrored; or a third of them half made of a normal picture."""

    def of_normals(self, pictures: Tensor) -> Tensor:
        """Normal pictures, slightly turned, scaled, sheared and moved."""
        return _affine(pictures, _limits(self.strength))

    def of_anomalies(self, pictures: Tensor, normals: Tensor) -> Tensor:
        """Anomalies, changed more than any normal picture is, so that they teach what else there may be."""
        if self.anomalies == "turned":
            half = len(pictures) // 2
            return torch.cat([pictures[:half], _mirrored(_affine(pictures[half:], (math.pi, 0.25, 0.2, 0.15)))])
        return _half_normal(_affine(pictures, _limits(2.0)), normals)


@dataclass(frozen=True, slots=True)
class MixedSamples:
    """Samples of a loop: an epoch goes once through the normal ones; anomalies are drawn anew for every batch.

    ``anomaly_share``: of a batch. ``normals`` and ``anomalies``: float32 (N, *Shape) and (M, *Shape), M may be 0.
    """

    normals: Tensor
    anomalies: Tensor
    anomaly_share: float
    augmentation: Augmentation | None

    def __len__(self) -> int:
        return len(self.normals)

    def draw(self, numbers: Tensor) -> Batch:
        """See :class:`trainer.loop.Samples`."""
        normals, anomalies = self.normals[numbers], self._anomalies(len(numbers))
        if self.augmentation:
            normals = self.augmentation.of_normals(normals)
            anomalies = self.augmentation.of_anomalies(anomalies, normals) if len(anomalies) else anomalies
        labels = torch.full((len(normals) + len(anomalies),), NORMAL)
        labels[len(normals) :] = ANOMALY
        return Batch(torch.cat([normals, anomalies]), labels)

    def _anomalies(self, normals: int) -> Tensor:
        if not len(self.anomalies):
            return self.anomalies
        wanted = max(1, round(normals * self.anomaly_share / (1.0 - self.anomaly_share)))
        return self.anomalies[torch.randint(len(self.anomalies), (wanted,))]


def _limits(strength: float) -> tuple[float, float, float, float]:
    return _ROTATION * strength, _SCALE * strength, _SHEAR * strength, _SHIFT * strength


def _affine(pictures: Tensor, limits: tuple[float, float, float, float]) -> Tensor:
    """Random maps up to these limits of rotation, scale, shear and shift; what comes in from outside is -1."""
    turn, wide, high, shear, right, down = ((torch.rand(len(pictures)) * 2.0 - 1.0) * limits[kind] for kind in (0, 1, 1, 2, 3, 3))
    wide, high, cosine, sine = wide.exp(), high.exp(), turn.cos(), turn.sin()
    rows = [torch.stack([cosine * wide, shear - sine * high, right], 1), torch.stack([sine * wide, cosine * high, down], 1)]
    grid = nn.functional.affine_grid(torch.stack(rows, 1), list(pictures.shape), align_corners=False)
    return nn.functional.grid_sample(pictures + 1.0, grid, align_corners=False) - 1.0


def _mirrored(pictures: Tensor) -> Tensor:
    """Every second picture, from left to right."""
    return torch.cat([pictures[::2], pictures[1::2].flip(3)])


def _half_normal(pictures: Tensor, normals: Tensor) -> Tensor:
    """A third of the pictures with one half of a normal picture, in a direction that changes from batch to batch."""
    third, side = len(pictures) // 3, pictures.shape[3]
    half = torch.zeros(side, dtype=torch.bool)
    half[: side // 2] = True
    across, other = (int(value) for value in torch.randint(2, (2,)))
    mask = half.flip(0) if other else half
    chosen = normals[torch.randint(len(normals), (third,))]
    mixed = torch.where(mask if across else mask[:, None], chosen, pictures[:third])
    return torch.cat([mixed, pictures[third:]])
