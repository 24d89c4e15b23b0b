"""The graph: what it carries from frame to frame. The motion net is told its flow where a test is about what is made of it."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.models.registry import build_video_ede
from trainer.models.video_ede.model import HISTORY, WARMUP_FRAMES, VideoEde, VideoEdeConfig
from trainer.models.video_ede.networks import CELL_PX, FlowFeatures, init_he
from trainer.models.video_ede.score_scale import ScoreMaps

HEIGHT_PX, WIDTH_PX = 64, 96
SMALL = VideoEdeConfig(height_px=HEIGHT_PX, width_px=WIDTH_PX, first=4, fine=16, coarse=12, width=12, latent=4)
GRID = SMALL.grid


class ToldMotion(nn.Module):
    """Sees in each frame the flow that it was told, in pixels to where things were, and nothing else."""

    def __init__(self, flows: Iterable[Tensor]) -> None:
        super().__init__()
        self.flows = iter(flows)

    def forward(self, frames: Tensor) -> FlowFeatures:
        rows, columns = GRID
        fine, coarse = torch.zeros(1, SMALL.fine, rows, columns), torch.zeros(1, SMALL.coarse, rows // 2, columns // 2)
        return FlowFeatures(fine, coarse, next(self.flows))


def everywhere(right_px: float, down_px: float = 0.0) -> Tensor:
    """The flow that leads back where all moves like this."""
    return torch.tensor([-right_px, -down_px]).reshape(1, 2, 1, 1).expand(1, 2, *GRID)


def made(config: VideoEdeConfig = SMALL, seed: int = 0) -> VideoEde:
    torch.manual_seed(seed)
    network = VideoEde(config).eval()
    init_he(network)  # or what is seen would fade from layer to layer, and all frames score alike
    return network


def told(*flows: Tensor, **settings: float) -> list[ScoreMaps]:
    """The terms of as many grey frames as there are flows, after a first one; windows of one cell, no spread unless set."""
    plain = {"window": 1, "steady_spreads": 0.0, "jerky_spreads": 0.0}
    network = made(SMALL.model_copy(update={**plain, **settings}))
    network.motion = ToldMotion([everywhere(9.0), *flows])
    return looks(network, np.full((1 + len(flows), HEIGHT_PX, WIDTH_PX), 128, np.uint8))


@torch.inference_mode()
def looks(network: VideoEde, frames: np.ndarray) -> list[ScoreMaps]:
    state, found = nothing_seen(), []
    for frame in frames:
        terms, state = network.score_maps(as_clip(frame), state)
        found.append(terms)
    return found


@torch.inference_mode()
def scored(network: VideoEde, frames: np.ndarray) -> tuple[np.ndarray, Tensor]:
    """Scores of one camera's frames, (n,), and the state after them."""
    state, scores = nothing_seen(), []
    for frame in frames:
        score, _, state = network(as_clip(frame), state)
        scores.append(score.item())
    return np.array(scores), state


def nothing_seen() -> Tensor:
    return torch.zeros(1, *SMALL.state_shape)


def as_clip(frame: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frame)[None, None, ..., None])


@pytest.fixture(scope="module")
def network() -> VideoEde:
    return made()


@pytest.fixture(scope="module")
def frames(street) -> np.ndarray:
    return np.concatenate([street(12, 1.0, 1), street(12, 2.5, 2)])


def test_score_heat_map_and_next_state_have_the_shapes_of_the_spec(network, frames):
    spec = SMALL.spec(12.0)
    clips = torch.from_numpy(frames[:5, None, :, :, None])
    with torch.inference_mode():
        score, heatmap, following = network(clips, torch.zeros(5, *spec.state_shape))
    assert clips.shape[1:] == spec.clip_shape
    assert (score.shape, heatmap.shape, following.shape) == ((5,), (5, *GRID), (5, *spec.state_shape))
    assert (score.dtype, heatmap.dtype, following.dtype) == (torch.float32,) * 3
    assert torch.equal(score, heatmap.amax((1, 2)))
    assert (spec.fps, spec.length, spec.warmup_frames) == (12.0, 1, WARMUP_FRAMES)


def test_a_first_frame_has_no_motion_whatever_the_motion_net_believes_and_is_scored_by_its_looks_alone(frames):
    one, other = made(), made()
    one.motion, other.motion = ToldMotion([everywhere(0.0)]), ToldMotion([everywhere(7.0, -3.0)])
    (seen,), (moving,) = looks(one, frames[:1]), looks(other, frames[:1])
    assert float(seen.observed.max()) == 0.0
    assert float(moving.steady.max()) < 0.01
    assert torch.equal(moving.steady, seen.steady)
    assert torch.equal(one.scale(seen), one.scale.first(seen.anomaly))


def test_a_first_frame_is_shown_to_the_motion_net_as_its_own_past(frames):
    network, shown = made(), []
    network.motion.register_forward_pre_hook(lambda _, given: shown.append(given[0][0].clone()))
    scored(network, frames[:4])
    order = [[int(np.flatnonzero([np.array_equal(part, frame) for frame in frames])[0]) for part in given] for given in shown]
    assert order == [[max(0, number - back) for back in (0, *HISTORY)] for number in range(4)]


def test_the_last_bits_of_the_flow_are_the_last_bits_of_all_that_is_remembered():
    """Engines add in different orders; no verdict of in or out of the picture, known or new, may turn that into another state."""
    states = []
    for hair_px in (0.0, 1e-3):
        network = made()
        slow = torch.linspace(-0.003, 0.003, GRID[0] * GRID[1]).reshape(1, 1, *GRID).expand(1, 2, *GRID) + hair_px
        network.motion = ToldMotion([everywhere(9.0), slow, slow, slow])
        states.append(scored(network, np.full((4, HEIGHT_PX, WIDTH_PX), 128, np.uint8))[1])
    assert torch.allclose(*states, atol=0.01)


def test_a_camera_is_known_from_its_sixth_frame_on():
    watched = [float(terms.observed.min()) for terms in told(*[everywhere(1.0)] * 7)]
    assert watched == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0], abs=1e-4)
    assert watched == [float(terms.observed.max()) for terms in told(*[everywhere(1.0)] * 7)]


def test_the_second_frame_of_a_camera_is_taken_for_what_it_shows():
    assert float((told(everywhere(2.0))[-1].steady - 2.0).abs().max()) < 0.01


def test_what_moves_on_at_an_uneven_pace_takes_its_average_along():
    """A patch of three by three cells that goes one cell a frame, give or take a half; all else stands still."""
    speeds_px = CELL_PX * np.tile([0.5, 1.5], 8)
    lefts = 2 + np.cumsum(speeds_px) / CELL_PX
    flows = []
    for left, speed_px in zip(lefts, speeds_px, strict=True):
        flow = torch.zeros(1, 2, *GRID)
        flow[:, 0, 6:10, int(left) : int(left) + 4] = -speed_px
        flows.append(flow)
    terms = told(*flows)
    middles = [int(left) + 1 for left in lefts]
    found = [float(term.steady[0, 8, middle]) for term, middle in zip(terms[1:], middles, strict=True)]
    assert found[0] == pytest.approx(0.5 * CELL_PX, abs=0.01)
    assert found[-4:] == pytest.approx([CELL_PX] * 4, rel=0.15)
    assert float(terms[-1].steady[0, 2].max()) < 0.01


def test_an_even_motion_loses_its_spread_and_an_uneven_one_keeps_it():
    even = told(*[everywhere(1.0)] * 20, jerky_spreads=1.0)[-1]
    uneven = told(*[everywhere(speed) for speed in [0.0, 2.0] * 10], jerky_spreads=1.0)[-1]
    middle = (0, GRID[0] // 2, GRID[1] - 2)
    assert float(even.jerky[middle] - even.steady[middle]) < 0.05
    assert float(uneven.jerky[middle] - uneven.steady[middle]) > 0.5


def test_what_enters_the_picture_begins_anew():
    """All stands still for long and then moves two cells to the right: the two columns at the left have just come in."""
    last = told(*[everywhere(0.0)] * 10, everywhere(2.0 * CELL_PX))[-1].steady[0]
    assert torch.allclose(last[:, :2], torch.full_like(last[:, :2], 2.0 * CELL_PX), atol=0.01)
    assert float(last[:, 2:].max()) < CELL_PX


def test_strangeness_is_averaged_along_the_way(frames):
    network = made()
    network.motion = ToldMotion([everywhere(0.0)] * 40)
    calm, strange = np.full((20, HEIGHT_PX, WIDTH_PX), 128, np.uint8), np.repeat(frames[:1], 20, axis=0)
    of_calm, *_, settled, first, second = (term.anomaly for term in looks(network, np.concatenate([calm, strange]))[:22])
    assert torch.allclose(settled, of_calm, atol=1e-5)
    # The average goes on in the same direction everywhere, in smaller steps.
    step = float((first - settled).abs().max())
    smaller = float((second - first).abs().max()) / step
    assert step > 1e-3
    assert 0.1 < smaller < 0.95
    assert torch.allclose(second - first, smaller * (first - settled), atol=0.01 * step)


def test_scores_and_states_do_not_depend_on_the_rest_of_a_batch_nor_on_its_order(network, frames):
    with torch.inference_mode():
        clips = torch.from_numpy(frames[:6, None, :, :, None])
        states = torch.cat([scored(network, frames[number : number + 3])[1] for number in range(5)] + [nothing_seen()])
        together = network(clips, states)
        alone = [network(clips[number : number + 1], states[number : number + 1]) for number in range(6)]
        order = torch.tensor([3, 0, 5, 1, 4, 2])
        shuffled = network(clips[order], states[order])
    for values, others, reordered in zip(together, zip(*alone, strict=True), shuffled, strict=True):
        assert torch.allclose(values, torch.cat(others), rtol=1e-4, atol=1e-4)
        assert torch.allclose(values[order], reordered, rtol=1e-4, atol=1e-4)


def test_nothing_is_remembered_outside_the_state(network, frames):
    before, weights = scored(network, frames[:6]), {name: value.clone() for name, value in network.state_dict().items()}
    scored(network, frames[10:])
    after = scored(network, frames[:6])
    assert np.array_equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def test_what_comes_later_changes_no_score(network, frames):
    whole, _ = scored(network, frames)
    other, _ = scored(network, np.concatenate([frames[:10], 255 - frames[10:]]))
    assert np.array_equal(whole[:10], other[:10])
    assert not np.allclose(whole[10:], other[10:], rtol=1e-3)


def test_after_the_warm_up_two_different_pasts_are_forgotten(network, street):
    common = street(WARMUP_FRAMES + 3, 1.0, 3)
    fast, noise = street(30, 4.0, 4), np.random.default_rng(0).integers(0, 256, (7, HEIGHT_PX, WIDTH_PX), np.uint8)
    ends = [scored(network, np.concatenate([past, common])) for past in (fast, noise, common[:0])]
    scores = np.array([row[-len(common) :] for row, _ in ends])
    assert np.allclose(scores[:, -3:], scores[0, -3:], rtol=1e-3)
    assert not np.allclose(scores[0, :2], scores[1, :2], rtol=1e-2)


def test_the_factory_builds_what_the_weights_fit(network):
    again = build_video_ede(SMALL.model_dump())
    again.load_state_dict(network.state_dict(), strict=True)
