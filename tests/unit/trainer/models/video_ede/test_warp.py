import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from trainer.models.video_ede.networks import warp

sides = st.integers(2, 40)
shifts = st.integers(-4, 4)


def textured(height: int, width: int) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def everywhere(maps: torch.Tensor, right: float, down: float) -> torch.Tensor:
    """The same flow in every cell."""
    return torch.tensor([right, down]).reshape(1, 2, 1, 1).expand(len(maps), 2, *maps.shape[2:])


@given(sides, sides)
def test_zero_flow_is_identity(height, width):
    maps = textured(height, width)
    moved, inside = warp(maps, everywhere(maps, 0.0, 0.0))
    assert torch.allclose(inside, torch.ones(()), atol=1e-4)
    assert torch.allclose(moved, maps, atol=1e-4)


@given(st.integers(6, 20), st.integers(6, 20), shifts, shifts)
def test_moves_by_whole_cells(height, width, right, down):
    maps = textured(height, width)
    moved, inside = warp(maps, everywhere(maps, -right, -down))
    y, x = np.mgrid[:height, :width]
    was_seen = torch.from_numpy((x >= right) & (x < width + right) & (y >= down) & (y < height + down))
    assert torch.allclose(inside[:, 0], was_seen.float().expand(2, -1, -1), atol=1e-4)
    expected = torch.roll(maps, (down, right), (2, 3))
    assert torch.allclose(moved[..., was_seen], expected[..., was_seen], atol=1e-4)


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_interpolates_between_cells(right, down):
    y, x = np.mgrid[:12, :16].astype(np.float32)
    ramps = torch.from_numpy(np.stack([x, y]))[None]
    moved, inside = warp(ramps, everywhere(ramps, right, down))
    expected, was_seen = ramps + torch.tensor([right, down]).reshape(1, 2, 1, 1), inside[0, 0] > 1.0 - 1e-4
    assert torch.allclose(moved[:, :, was_seen], expected[:, :, was_seen], atol=0.01)


@example(0.000495, 0.0, 1e-5)  # where a yes-or-no decision with a tolerance once flipped
@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-1e-5, 1e-5))
def test_rounding_errors_stay_small(right, down, difference):
    """Engines add in different orders; both must end in about the same state."""
    maps = textured(6, 8)
    moved, inside = warp(maps, everywhere(maps, right, down))
    moved_too, inside_too = warp(maps, everywhere(maps, right + difference, down))
    assert torch.allclose(moved, moved_too, atol=1e-3)
    assert torch.allclose(inside, inside_too, atol=1e-3)


@pytest.mark.parametrize(("cells", "expected"), [(0.0, 1.0), (0.25, 0.5), (0.5, 0.0)])
def test_inside_falls_to_zero_at_edge(cells, expected):
    maps = textured(6, 8)
    _, inside = warp(maps, everywhere(maps, cells, 0.0))
    assert inside[0, 0, 3].tolist() == pytest.approx([1.0] * 7 + [expected], abs=1e-4)


def test_flow_is_per_cell_and_sample():
    maps, flow = textured(6, 8), torch.zeros(2, 2, 6, 8)
    flow[1, 0, 2, 3], flow[1, 1, 2, 3] = 2.0, -1.0
    moved, _ = warp(maps, flow)
    assert torch.allclose(moved[1, :, 2, 3], maps[1, :, 1, 5], atol=1e-5)
    moved[1, :, 2, 3] = maps[1, :, 2, 3]
    assert torch.allclose(moved, maps, atol=1e-5)


@pytest.mark.parametrize("far", [-1e4, 1e4])
def test_far_flow_is_outside(far):
    maps = textured(6, 8)
    moved, inside = warp(maps, everywhere(maps, far, 0.0))
    assert not inside.any()
    assert torch.allclose(moved, maps[..., :1] if far < 0 else maps[..., -1:], atol=1e-5)
