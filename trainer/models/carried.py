"""Maps carried along with what moves: what was known of a person is found again where the person is now."""

import torch
from torch import Tensor, nn

_ROUNDING = 1e-3


def carry(maps: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """``maps`` (N, C, h, w) of the frame before, moved to where things are now; and whether they were there, bool (N, 1, h, w).

    ``flow``: (N, 2, h, w), cells right and down, from each place to where it was.
    """
    height, width = flow.shape[2:]
    across = torch.arange(width, dtype=flow.dtype, device=flow.device)
    down = torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None]
    # -1 and 1 are the outer edges of the first and the last cell.
    x = (flow[:, 0] + across + 0.5) * (2.0 / width) - 1.0
    y = (flow[:, 1] + down + 0.5) * (2.0 / height) - 1.0
    # In half cells past the middle of the last cell; what stands still there was in the picture, however that is rounded.
    past = 1.0 + torch.maximum((x.abs() - 1.0) * width, (y.abs() - 1.0) * height)
    inside = (past <= _ROUNDING)[:, None]
    grid = torch.stack([x, y], dim=-1)
    moved = nn.functional.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved, inside
