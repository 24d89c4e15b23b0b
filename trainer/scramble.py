"""Motion made wrong on purpose: the generator learns to restore what belongs there, and the latents to tell the difference.

Without this a generator learns to copy: it also draws speeds that it never saw, and its error says little.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.models.motion import speed
from trainer.together import Together

MAX_FACTOR = 3.5
"""Motion is multiplied by up to this; down to 0 it stands still."""

_COARSE = (5, 8)  # blobs of about a fifth of the picture: larger than a person, smaller than a crowd
_BLOB_THRESHOLD = 0.2  # about two fifths of the picture are inside a blob
_NEARLY_ONE = 0.999  # atanh(1) is infinite
_NOTABLE_GAIN = 0.1  # of full scale: less is within what normal speeds vary


class Scrambled(NamedTuple):
    """Pictures with wrong speeds inside random blobs."""

    pictures: Tensor
    """(N, 3, h, w)."""
    too_fast: Tensor
    """bool (N, 1, h, w): where motion has become notably faster than it was. Slower or still is nothing unheard of."""


def scramble(pictures: Tensor, together: Together) -> Scrambled:
    """Scramble pictures (N, 3, h, w) of a :class:`~trainer.models.motion.MotionView`."""
    noise = together.randn(len(pictures), 1, *_COARSE)
    blobs = nn.functional.interpolate(noise, size=pictures.shape[2:], mode="bilinear") > _BLOB_THRESHOLD
    factors = together.rand(len(pictures), 1, 1, 1) * MAX_FACTOR
    motion = torch.atanh(pictures[:, 1:].clamp(-_NEARLY_ONE, _NEARLY_ONE))
    wrong = torch.cat([pictures[:, :1], torch.tanh(torch.where(blobs, motion * factors, motion))], dim=1)
    return Scrambled(wrong, speed(wrong) - speed(pictures) > _NOTABLE_GAIN)
