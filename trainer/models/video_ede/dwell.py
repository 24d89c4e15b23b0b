"""How long each place has shown something else than its background, inside the serving graph: see :mod:`deploy.dwell`."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from deploy.dwell import (
    CHANGED_FROM,
    CHANGED_FULL,
    DWELL_UNIT,
    FIT_LEVELS,
    FIT_STEPS,
    FOREGROUND_FROM,
    FOREGROUND_FULL,
    LEAST_CONTRAST,
    MOST_CONTRAST,
    TINY,
)

_LEVELS = 64.0  # sums of squared grey levels would not fit into 16 bits


class Background(NamedTuple):
    """What each clip's camera usually shows, as in :class:`deploy.dwell.Background`, and its time scale."""

    pictures: Tensor  # (N, 2, a, b), grey levels
    differences: Tensor  # (N, 2, a, b), grey levels, above 0
    dwell_step: Tensor  # (N, 1, 1, 1), see deploy.dwell.dwell_step


def foreground(picture: Tensor, background: Background) -> tuple[Tensor, Tensor]:
    """How much each place of a picture (N, 1, a, b) shows something else than the background, (N, 1, a, b): 0 to 1.

    And in which light the picture is, (N, 1, 1): the number of the picture of the background that it is nearest to.
    """
    usual, differences = background.pictures / _LEVELS, background.differences / _LEVELS
    relative = (_fitted(picture / _LEVELS, usual) - usual).abs() / differences  # (N, 2, a, b)
    means = nn.functional.avg_pool2d(nn.functional.pad(relative, (1, 1, 1, 1), mode="replicate"), 3, 1)
    least = means.amin(dim=1, keepdim=True)  # (N, 1, a, b)
    shown = torch.clamp((least - FOREGROUND_FROM) / (FOREGROUND_FULL - FOREGROUND_FROM), 0.0, 1.0)
    share = _mean(shown)
    first, second = means.mean(dim=(2, 3))[:, :, None, None].unbind(1)  # (N, 1, 1) each
    shown = shown * torch.clamp((CHANGED_FULL - share) / (CHANGED_FULL - CHANGED_FROM), 0.0, 1.0)
    return shown, (second < first).to(picture.dtype)


class Dwell(NamedTuple):
    """The dwell of places, (N, 1, a, b) each, as a sum: in half precision a frame would be lost beside a minute."""

    coarse: Tensor  # multiples of DWELL_UNIT
    fine: Tensor  # less than DWELL_UNIT

    @classmethod
    def split(cls, total: Tensor) -> "Dwell":
        coarse = torch.floor(total / DWELL_UNIT) * DWELL_UNIT
        return cls(coarse, total - coarse)

    @classmethod
    def from_cells(cls, cells: Tensor) -> "Dwell":
        """From maps (N, 1, h, w) of :meth:`cells`."""
        return cls(cells[:, :, ::2, ::2], cells[:, :, ::2, 1::2])

    def cells(self) -> Tensor:
        """As a map (N, 1, h, w) with 2 x 2 cells for each place: both parts beside each other."""
        return nn.functional.pixel_shuffle(torch.cat([self.coarse, self.fine] * 2, dim=1), 2)

    def total(self) -> Tensor:
        return self.coarse + self.fine


def update_dwell(dwell: Dwell, shown: Tensor, step: Tensor) -> Dwell:
    """The dwell of each place after a frame with this foreground, (N, 1, a, b); ``step``: (N, 1, 1, 1)."""
    fine = dwell.fine + step
    whole = torch.floor(fine / DWELL_UNIT) * DWELL_UNIT
    coarse, fine = dwell.coarse + whole, fine - whole
    most = Dwell.split(shown)
    is_less = coarse + fine < shown
    return Dwell(torch.where(is_less, coarse, most.coarse), torch.where(is_less, fine, most.fine))


def _fitted(picture: Tensor, usual: Tensor) -> Tensor:
    """A picture (N, 1, a, b) with brightness and contrast of each reference, (N, 2, a, b); what differs much hardly counts."""
    fitted, weights = picture, torch.ones_like(usual)
    for _ in range(FIT_STEPS):
        total = _mean(weights) + TINY  # (N, 2, 1, 1)
        mean, usual_mean = _mean(weights * picture) / total, _mean(weights * usual) / total
        covariance = _mean(weights * (picture - mean) * (usual - usual_mean))
        variance = _mean(weights * (picture - mean).square())
        contrast = torch.clamp(covariance / (variance + 1.0 / _LEVELS**2), LEAST_CONTRAST, MOST_CONTRAST)
        fitted = (picture - mean) * contrast + usual_mean  # (N, 2, a, b)
        weights = (1.0 / (1.0 + ((fitted - usual) * (_LEVELS / FIT_LEVELS)).square())).square()
    return fitted


def _mean(maps: Tensor) -> Tensor:
    return maps.mean(dim=(2, 3), keepdim=True)
