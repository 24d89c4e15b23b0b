"""Motion made wrong on purpose, so that the generator learns to restore the motion that belongs to what it sees.

Without this a generator learns to copy: it also draws speeds that it never saw, and its error says little. GANomaly's
losses stay as they are; only what the first encoder is shown differs from what the decoder must draw.
"""

import torch
from torch import Tensor, nn

MAX_FACTOR = 3.5
"""Motion is multiplied by up to this; down to 0 it stands still."""

_COARSE = (5, 8)  # blobs of about a fifth of the picture: larger than a person, smaller than a crowd
_BLOB_THRESHOLD = 0.2  # about two fifths of the picture are inside a blob
_NEARLY_ONE = 0.999  # atanh(1) is infinite


def scramble(pictures: Tensor) -> Tensor:
    """``pictures`` (N, 3, h, w) of a :class:`~trainer.models.motion.MotionView` with wrong speeds inside random blobs."""
    noise = torch.randn(len(pictures), 1, *_COARSE, device=pictures.device)
    blobs = nn.functional.interpolate(noise, size=pictures.shape[2:], mode="bilinear") > _BLOB_THRESHOLD
    factors = torch.rand(len(pictures), 1, 1, 1, device=pictures.device) * MAX_FACTOR
    speed = torch.atanh(pictures[:, 1:].clamp(-_NEARLY_ONE, _NEARLY_ONE))
    return torch.cat([pictures[:, :1], torch.tanh(torch.where(blobs, speed * factors, speed))], dim=1)
