"""Brightness and motion of clips, computed inside the graph, and the corruption of motion that video GANomaly trains with.

Motion is the least-squares flow of Lucas and Kanade (1981): over a small window and all frame pairs of the clip it solves
``[Ix Iy] (u, v) = -It``. Unlike a frame difference it does not grow with an object's contrast, so its length is a speed.
Gradients are taken at full size: at half size many people are so small or pale that they are lost.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.training.distributed import DistributedContext

REDUCTION = 2  # views are this many times smaller than the frame
MAX_FACTOR = 3.5  # corrupted motion is multiplied by a factor between 0 (standing still) and this

_RIDGE = 2e-5  # added to squared gradients of brightness in [0, 1]: without texture, flow goes to zero instead of to noise
_COARSE = (5, 8)  # regions of about a fifth of the view: larger than a person, smaller than a crowd
_REGION_THRESHOLD = 0.2  # about two fifths of the view are inside a region
_BELOW_ONE = 0.999  # atanh(1) is infinite
_NOTABLE_GAIN = 0.1  # of full scale: less is within what normal speeds vary


class MotionView(nn.Module):
    """uint8 (N, T, H, W, 1) to float32 (N, 3, H / 2, W / 2) in [-1, 1]: brightness, and motion right and down.

    ``full_scale_px``: speed, in frame pixels per frame, that tanh maps to 0.76. ``motion`` False leaves the motion channels
    zero, for ablation.
    """

    channels = 3

    def __init__(self, *, full_scale_px: float, window: int, motion: bool) -> None:
        super().__init__()
        self.gain, self.window, self.motion = 1.0 / full_scale_px, window, motion

    def forward(self, clips: Tensor) -> Tensor:
        frames = clips.float()[..., 0] / 255.0  # (N, T, H, W)
        flow = torch.tanh(self._flow(smooth(frames)) * self.gain)  # (N, 2, H / 2, W / 2)
        if not self.motion:
            flow = torch.zeros_like(flow)
        brightness = nn.functional.avg_pool2d(frames[:, -1:], REDUCTION)  # (N, 1, H / 2, W / 2)
        return torch.cat([brightness * 2.0 - 1.0, flow], dim=1)

    def _flow(self, frames: Tensor) -> Tensor:  # (N, T, H, W) to (N, 2, H / 2, W / 2), in frame pixels per frame
        change = frames[:, 1:] - frames[:, :-1]  # (N, T - 1, H, W)
        right, down = gradients((frames[:, 1:] + frames[:, :-1]) / 2.0)
        products = (right * right, down * down, right * down, right * change, down * change)
        xx, yy, xy, xt, yt = map(self._gather, products)  # (N, 1, H / 2, W / 2) each
        return solve_flow(xx + _RIDGE, yy + _RIDGE, xy, xt, yt)

    def _gather(self, products: Tensor) -> Tensor:  # (N, T - 1, H, W) to (N, 1, H / 2, W / 2)
        over_time = products.mean(dim=1, keepdim=True)
        return nn.functional.avg_pool2d(over_time, self.window, REDUCTION, self.window // 2, count_include_pad=False)


class StillView(nn.Module):
    """uint8 (N, 1, H, W, 1) to float32 (N, 1, H / 2, W / 2) in [-1, 1]: brightness, for models of still images."""

    channels = 1

    def forward(self, clips: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(clips.float()[..., 0] / 127.5 - 1.0, REDUCTION)


def speed(views: Tensor) -> Tensor:
    """Speed (N, 1, h, w) of views (N, 3, h, w) made by :class:`MotionView`."""
    return views[:, 1:].square().sum(dim=1, keepdim=True).sqrt()


def smooth(frames: Tensor) -> Tensor:
    """Frames (N, T, H, W) blurred by the binomial weights 1 4 6 4 1 in both directions; gradients of raw pixels are noise.

    Sums of shifted frames instead of a convolution: engines may compute convolutions in half precision, which has too few
    digits for gradients.
    """
    height, width = frames.shape[2:]
    padded = nn.functional.pad(frames, (2, 2, 2, 2), mode="replicate")
    across = _binomial([padded[:, :, :, shift : shift + width] for shift in range(5)])
    return _binomial([across[:, :, shift : shift + height] for shift in range(5)])


def _binomial(shifted: list[Tensor]) -> Tensor:
    first, second, middle, fourth, fifth = shifted
    return (first + fifth + 4.0 * (second + fourth) + 6.0 * middle) / 16.0


def gradients(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences to the right and down, (N, T, H, W) each, of frames (N, T, H, W)."""
    padded = nn.functional.pad(frames, (1, 1, 1, 1), mode="replicate")
    right = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2.0
    down = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2.0
    return right, down


def solve_flow(xx: Tensor, yy: Tensor, xy: Tensor, xt: Tensor, yt: Tensor) -> Tensor:
    """Flow (N, 2, h, w) right and down that solves the normal equations of summed gradient products, (N, 1, h, w) each."""
    return torch.cat([xy * yt - yy * xt, xy * xt - xx * yt], dim=1) / (xx * yy - xy * xy)


class CorruptedMotion(NamedTuple):
    """Views with wrong speeds inside random regions."""

    views: Tensor  # (N, 3, h, w)
    too_fast: Tensor
    """bool (N, 1, h, w): where motion became notably faster. Slower motion and standing still are common among normal frames."""


def corrupt_motion(views: Tensor, context: DistributedContext) -> CorruptedMotion:
    """Multiply the motion in random regions of views (N, 3, h, w) by a random factor per view.

    A generator that is only shown correct motion learns to copy it, also speeds it never saw; here it must restore motion.
    """
    noise = context.randn(len(views), 1, *_COARSE)  # (N, 1, 5, 8)
    regions = nn.functional.interpolate(noise, size=views.shape[2:], mode="bilinear") > _REGION_THRESHOLD  # (N, 1, h, w)
    factors = context.rand(len(views), 1, 1, 1) * MAX_FACTOR
    motion = torch.atanh(views[:, 1:].clamp(-_BELOW_ONE, _BELOW_ONE))  # (N, 2, h, w)
    corrupted = torch.cat([views[:, :1], torch.tanh(torch.where(regions, motion * factors, motion))], dim=1)
    return CorruptedMotion(corrupted, speed(corrupted) - speed(views) > _NOTABLE_GAIN)
