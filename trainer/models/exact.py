"""Where half precision ends: before values are subtracted, squared or summed up to a score."""

import torch
from torch import Tensor


def exact(values: Tensor) -> Tensor:
    """``values`` in float32, or as they are if they have more digits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
