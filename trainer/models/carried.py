"""Maps carried along with what moves: what was known of a person is found again where the person is now."""

import torch
from torch import Tensor, nn


def carry(maps: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """``maps`` (N, C, h, w) of the frame before, moved to where things are now; and how surely they were there, (N, 1, h, w).

    ``flow``: (N, 2, h, w), cells right and down, from each place to where it was. Sure is 1 up to the middle of the outermost
    cells and falls to 0 at the picture's edge: a verdict of yes or no would turn over with the last bit of the flow, and an
    engine that adds in another order would remember something else.
    """
    height, width = flow.shape[2:]
    across = torch.arange(width, dtype=flow.dtype, device=flow.device).expand(height, width)
    down = torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None].expand(height, width)
    size = torch.tensor([width, height], dtype=flow.dtype, device=flow.device)[:, None, None]
    # -1 and 1 are the outer edges of the first and the last cell.
    where = (flow + (torch.stack([across, down]) + 0.5)) * (2.0 / size) - 1.0
    # In half cells past the middle of the outermost cell.
    past = 1.0 + ((where.abs() - 1.0) * size).amax(dim=1, keepdim=True)
    sure = torch.clamp(1.0 - past, 0.0, 1.0)
    grid = where.permute(0, 2, 3, 1)
    moved = nn.functional.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved, sure
