"""Takes the shake and the flicker of a camera out of its older frames, inside the graph.

Wind and passing lorries move a camera by some pixels from frame to frame, and all that it sees with it; lamps and exposure
control make all of it brighter or darker. The shift between two frames is found by their projections, the means of all rows and
of all columns (integral projection matching: Ratakonda, "Real-time digital video stabilization for multi-media applications",
ISCAS 1998), which costs next to nothing; the factor between their brightness by the cells that agree on it. Both are taken out
only if nearly everything in the picture fits better then: a lorry that fills half of the picture shifts the projections, too,
but what is behind it has stayed where it was.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_MOST_PX = 8
"""The largest shift that is found along each side; a camera that shakes by 3 pixels moves by 6 between two frames."""
_ROW_STEP, _CELL_PX = 4, 8
"""How frames fit is compared in every so many rows, by means of so many pixels beside each other."""
_GAIN_STEPS = 3
_OTHER_LEVELS = 8.0
"""Grey levels by which a cell may differ until it counts a quarter: what moves says nothing of the brightness."""
_LEAST_GAIN, _MOST_GAIN = 0.01, 2.0  # with less the flow copes, and more is not the same picture
_NOISE = 4.0  # grey levels by which these means differ anyway
_AGREEMENT = 0.75
"""Of what fits better or worse when stabilised, the share that must fit better. Measured: 0.78 and more where a camera had moved,
0.24 and less where it had not."""

_ROWS, _COLUMNS = 2, 3  # dimensions of frames


class _Shifts(NamedTuple):
    """Where the frames show what the newest one does, int64 (N, 1 + K) each; 0 for the newest."""

    down: Tensor
    across: Tensor


class _Pixels(NamedTuple):
    """Rows (N, 1 + K, r) and columns (N, 1 + K, c) of frames."""

    rows: Tensor
    columns: Tensor


def stabilise(frames: Tensor) -> Tensor:
    """A frame and K older ones as its camera would have taken them from where it is now, with the brightness of now.

    ``frames``: grey levels (N, 1 + K, H, W), the newest first, and so is the result. Only whole pixels are taken out: the flow
    copes with the rest. Where an older frame does not reach, it shows what the newest one does. Older frames of a camera that
    stands still, in even light, come back exactly as they are.
    """
    (height, width), device = frames.shape[2:], frames.device
    shifts = _Shifts(*(_find_shifts(frames, side) for side in (_ROWS, _COLUMNS)))
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    inner = (slice(_MOST_PX, height - _MOST_PX, _ROW_STEP), slice(_MOST_PX, width - _MOST_PX))
    shifted = _look_up(frames, _shifted(rows[inner[0]], columns[inner[1]], shifts))
    gains = _find_gains(shifted)  # (N, 1 + K, 1, 1)
    is_disturbed = _agreement(frames[:, :, *inner], shifted * gains) > _AGREEMENT  # (N, 1 + K)
    wanted = _shifted(rows, columns, _Shifts(*(each * is_disturbed for each in shifts)))
    nearest = _Pixels(wanted.rows.clamp(0, height - 1), wanted.columns.clamp(0, width - 1))
    inside = (wanted.rows == nearest.rows)[:, :, :, None] & (wanted.columns == nearest.columns)[:, :, None]
    gains = torch.where(is_disturbed[:, :, None, None], gains, torch.ones_like(gains))
    return torch.where(inside, _look_up(frames, nearest) * gains, frames[:, :1])


def _find_shifts(frames: Tensor, side: int) -> Tensor:
    """By how many pixels further down or to the right each frame shows what the newest one does, (N, 1 + K)."""
    projections = frames.mean(dim=_ROWS + _COLUMNS - side)  # (N, 1 + K, L)
    edges = projections[:, :, 1:] - projections[:, :, :-1]
    edges = edges / (edges.abs().mean(dim=2, keepdim=True) + 1e-3)  # whatever the brightness
    length = edges.shape[2] - 2 * _MOST_PX
    first, place = (torch.arange(count, device=frames.device) for count in (2 * _MOST_PX + 1, length))
    candidates = first[:, None] + place  # (17, l)
    newest = edges[:, :1, None, _MOST_PX : _MOST_PX + length]  # (N, 1, 1, l)
    differences = (edges[:, :, candidates] - newest).abs().mean(dim=3)  # (N, 1 + K, 17)
    return torch.argmin(differences, dim=2) - _MOST_PX


def _shifted(rows: Tensor, columns: Tensor, shifts: _Shifts) -> _Pixels:
    """Where each frame shows what the newest one does in these rows (r,) and columns (c,)."""
    return _Pixels(rows + shifts.down[:, :, None], columns + shifts.across[:, :, None])


def _look_up(frames: Tensor, pixels: _Pixels) -> Tensor:
    """Pixels that lie inside of the frames, (N, 1 + K, r, c)."""
    clips, count, height, width = frames.shape
    number = torch.arange(clips * count, device=frames.device).reshape(clips, count, 1)  # of each frame
    index = ((number * height + pixels.rows) * width)[:, :, :, None] + pixels.columns[:, :, None]
    # One look-up in all pixels: to gather along two dimensions takes engines three times as long.
    return torch.index_select(frames.reshape(-1), 0, index.reshape(-1)).reshape(index.shape)


def _find_gains(frames: Tensor) -> Tensor:
    """The factors that give frames, whose shifts are taken out, the brightness of the newest one: (N, 1 + K, 1, 1)."""
    cells = _cells(frames)  # (N, 1 + K, r, c / 8)
    newest, weights = cells[:, :1], torch.ones_like(cells)
    gains = _quotient(newest, cells, weights)
    for _ in range(_GAIN_STEPS):
        weights = (1.0 + ((cells * gains - newest) / _OTHER_LEVELS).square()).square().reciprocal()
        gains = _quotient(newest, cells, weights)
    return torch.where((gains - 1.0).abs() > _LEAST_GAIN, gains, torch.ones_like(gains))


def _quotient(newest: Tensor, cells: Tensor, weights: Tensor) -> Tensor:
    return torch.clamp(_mean(weights * newest) / (_mean(weights * cells) + 1e-3), 1.0 / _MOST_GAIN, _MOST_GAIN)


def _agreement(frames: Tensor, stabilised: Tensor) -> Tensor:
    """The share of what fits the newest frame better when stabilised, in what fits it better or worse, (N, 1 + K)."""
    before, after = (_cells((each - frames[:, :1]).abs()) for each in (frames, stabilised))  # (N, 1 + K, r, c / 8)
    fit = (before - after) / (before + after + _NOISE)
    better, worse = (_mean(torch.relu(each))[:, :, 0, 0] for each in (fit, -fit))
    return better / (better + worse + 1e-6)


def _cells(maps: Tensor) -> Tensor:
    """Means of pixels beside each other; pooling would have engines interleave the few channels."""
    return maps.reshape(*maps.shape[:3], -1, _CELL_PX).mean(dim=4)


def _mean(maps: Tensor) -> Tensor:
    return maps.mean(dim=(2, 3), keepdim=True)
