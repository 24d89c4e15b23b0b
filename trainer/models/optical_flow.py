"""Motion made wrong on purpose: the generator learns to restore what belongs there, and the latents to tell the difference.

Without this a generator learns to copy: it also draws speeds that it never saw, and its error says little.

What the networks see of a clip: brightness and motion of its last frame, computed inside the graph.

Motion is Lucas and Kanade's least-squares flow: over a small window and all frame pairs of the clip it solves
``[Ix Iy] (u, v) = -It``. Unlike a frame difference it does not grow with an object's contrast, so its size is a speed.
Gradients are taken at full size: at half size people are so small that half of the slow or pale ones are lost.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.training.distributed import DistributedContext

REDUCTION = 2
"""Maps are this many times smaller than the frame."""

_RIDGE = 2e-5
"""Added to the squared gradients (brightness in [0, 1]): where there is no texture, flow goes to zero instead of to noise."""


class MotionView(nn.Module):
    """uint8 (N, T, H, W, 1) to float32 (N, 3, H / 2, W / 2) in [-1, 1]: brightness, and motion right and down.

    ``full_scale_px``: speed, in frame pixels a frame, that tanh maps to 0.76. ``motion`` False leaves the motion
    channels zero: for ablation.
    """

    channels = 3

    def __init__(self, *, full_scale_px: float, window: int, motion: bool) -> None:
        super().__init__()
        self.gain = 1.0 / full_scale_px
        self.window = window
        self.motion = motion

    def forward(self, clips: Tensor) -> Tensor:
        """See the class."""
        frames = clips.float()[..., 0] / 255.0
        flow = torch.tanh(self._flow(smooth(frames)) * self.gain)
        if not self.motion:
            flow = torch.zeros_like(flow)
        brightness = nn.functional.avg_pool2d(frames[:, -1:], REDUCTION)
        return torch.cat([brightness * 2.0 - 1.0, flow], dim=1)

    def _flow(self, frames: Tensor) -> Tensor:
        """Flow (N, 2, H / 2, W / 2) in frame pixels a frame, of frames (N, T, H, W)."""
        change = frames[:, 1:] - frames[:, :-1]
        right, down = _gradients((frames[:, 1:] + frames[:, :-1]) / 2.0)
        xx = self._gather(right * right) + _RIDGE
        yy = self._gather(down * down) + _RIDGE
        xy = self._gather(right * down)
        xt = self._gather(right * change)
        yt = self._gather(down * change)
        determinant = xx * yy - xy * xy
        return torch.cat([xy * yt - yy * xt, xy * xt - xx * yt], dim=1) / determinant

    def _gather(self, products: Tensor) -> Tensor:
        """Mean over the clip's frame pairs and the window: (N, T - 1, H, W) to (N, 1, H / 2, W / 2)."""
        over_time = products.mean(dim=1, keepdim=True)
        return nn.functional.avg_pool2d(over_time, self.window, REDUCTION, self.window // 2, count_include_pad=False)


class StillView(nn.Module):
    """uint8 (N, 1, H, W, 1) to float32 (N, 1, H / 2, W / 2) in [-1, 1]: brightness, for models of still pictures."""

    channels = 1

    def forward(self, clips: Tensor) -> Tensor:
        """See the class."""
        return nn.functional.avg_pool2d(clips.float()[..., 0] / 127.5 - 1.0, REDUCTION)


def speed(pictures: Tensor) -> Tensor:
    """Length of the motion of pictures (N, 3, h, w) made by :class:`MotionView`: (N, 1, h, w)."""
    return pictures[:, 1:].square().sum(dim=1, keepdim=True).sqrt()


def smooth(frames: Tensor) -> Tensor:
    """Frames (N, T, H, W) blurred by the binomial weights 1 4 6 4 1, across, then down.

    Gradients of single pixels are mostly noise. Sums of shifted frames, not a convolution: those may be computed
    in half precision, which has too few digits for gradients.
    """
    height, width = frames.shape[2:]
    padded = nn.functional.pad(frames, (2, 2, 2, 2), mode="replicate")
    across = _binomial([padded[:, :, :, shift : shift + width] for shift in range(5)])
    return _binomial([across[:, :, shift : shift + height] for shift in range(5)])


def _binomial(shifted: list[Tensor]) -> Tensor:
    first, second, middle, fourth, fifth = shifted
    return (first + fifth + 4.0 * (second + fourth) + 6.0 * middle) / 16.0


def _gradients(frames: Tensor) -> tuple[Tensor, Tensor]:
    padded = nn.functional.pad(frames, (1, 1, 1, 1), mode="replicate")
    right = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2.0
    down = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2.0
    return right, down


MAX_FACTOR = 3.5
"""Motion is multiplied by up to this; down to 0 it stands still."""

_COARSE = (5, 8)  # blobs of about a fifth of the picture: larger than a person, smaller than a crowd
_BLOB_THRESHOLD = 0.2  # about two fifths of the picture are inside a blob
_NEARLY_ONE = 0.999  # atanh(1) is infinite
_NOTABLE_GAIN = 0.1  # of full scale: less is within what normal speeds vary


class CorruptedMotion(NamedTuple):
    """Pictures with wrong speeds inside random blobs."""

    pictures: Tensor
    """(N, 3, h, w)."""
    too_fast: Tensor
    """bool (N, 1, h, w): where motion has become notably faster than it was. Slower or still is nothing unheard of."""


def corrupt_motion(pictures: Tensor, context: DistributedContext) -> CorruptedMotion:
    """Scramble pictures (N, 3, h, w) of a :class:`~trainer.models.optical_flow.MotionView`."""
    noise = context.randn(len(pictures), 1, *_COARSE)
    blobs = nn.functional.interpolate(noise, size=pictures.shape[2:], mode="bilinear") > _BLOB_THRESHOLD
    factors = context.rand(len(pictures), 1, 1, 1) * MAX_FACTOR
    motion = torch.atanh(pictures[:, 1:].clamp(-_NEARLY_ONE, _NEARLY_ONE))
    wrong = torch.cat([pictures[:, :1], torch.tanh(torch.where(blobs, motion * factors, motion))], dim=1)
    return CorruptedMotion(wrong, speed(wrong) - speed(pictures) > _NOTABLE_GAIN)
