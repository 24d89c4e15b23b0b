"""The recurrent graph. FlowNet is replaced by a fixed flow where a test is about what is build of the flow."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deploy.dwell import PLACE_PX, empty_background
from deploy.memory import followed_by, remembered, with_remembered
from deploy.profile_learning import Normal
from deploy.score_maps import dwell_of, place_grid
from trainer.models.registry import build_video_ede
from trainer.models.video_ede.dwell import Background
from trainer.models.video_ede.model import HISTORY, WARMUP_FRAMES, VideoEde, VideoEdeConfig
from trainer.models.video_ede.networks import CELL_PX, FlowFeatures, init_he
from trainer.models.video_ede.score_scale import ScoreMaps, heat_map, unpack_profile

HEIGHT_PX, WIDTH_PX = 64, 96
SMALL = VideoEdeConfig(height_px=HEIGHT_PX, width_px=WIDTH_PX, first=4, fine=16, coarse=12, width=12, latent=4)
GRID = SMALL.grid


class FixedFlow(nn.Module):
    """Returns the given flow for each frame, in pixels to where things were, and no features."""

    def __init__(self, flows: Iterable[Tensor]) -> None:
        super().__init__()
        self.flows = iter(flows)

    def forward(self, frames: Tensor) -> FlowFeatures:
        rows, columns = GRID
        fine, coarse = torch.zeros(1, SMALL.fine, rows, columns), torch.zeros(1, SMALL.coarse, rows // 2, columns // 2)
        return FlowFeatures(fine, coarse, next(self.flows))


def everywhere(right_px: float, down_px: float = 0.0) -> Tensor:
    """The flow when everything moves by so many pixels."""
    return torch.tensor([-right_px, -down_px]).reshape(1, 2, 1, 1).expand(1, 2, *GRID)


def build(config: VideoEdeConfig = SMALL, seed: int = 0) -> VideoEde:
    torch.manual_seed(seed)
    network = VideoEde(config).eval()
    init_he(network)  # otherwise activations fade from layer to layer and all frames score alike
    return network


def maps_of_flows(*flows: Tensor, **settings: float) -> list[ScoreMaps]:
    """Score maps of one grey frame per flow after a first one; windows of one cell, no spread unless set."""
    plain = {"window": 1, "steady_spreads": 0.0}
    network = build(SMALL.model_copy(update={**plain, **settings}))
    network.motion = FixedFlow([everywhere(9.0), *flows])
    return score_maps_of(network, np.full((1 + len(flows), HEIGHT_PX, WIDTH_PX), 128, np.uint8))


@torch.inference_mode()
def score_maps_of(network: VideoEde, frames: np.ndarray) -> list[ScoreMaps]:
    state, found = empty_state(), []
    for frame in frames:
        maps, state = network.score_maps(as_clip(frame), state, background())
        found.append(maps)
    return found


@torch.inference_mode()
def scored(network: VideoEde, frames: np.ndarray) -> tuple[np.ndarray, Tensor]:
    """Scores of one camera's frames, (n,), and the state after them."""
    state, scores = empty_state(), []
    for frame in frames:
        score, _, state = network(as_clip(frame), state, profile())
        scores.append(score.item())
    return np.array(scores), state


def profile(count: int = 1) -> Tensor:
    """Nothing is usual, and all ranges are 0 to 1."""
    none = np.zeros(GRID, np.float32)
    normal = Normal(none, none, np.ones((GRID[0], 1), np.float32), empty_background(place_grid(GRID)), 0.01)
    values = np.concatenate([np.zeros(SMALL.adaptation_size, np.float32), normal.values()])
    return torch.from_numpy(values).expand(count, -1)


def background(count: int = 1) -> Background:
    return unpack_profile(profile(count)[:, SMALL.adaptation_size :], GRID).background


def empty_state() -> Tensor:
    return torch.zeros(1, *SMALL.state_shape)


def as_clip(frame: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frame)[None, None, ..., None])


@pytest.fixture(scope="module")
def network() -> VideoEde:
    return build()


@pytest.fixture(scope="module")
def frames(street) -> np.ndarray:
    return np.concatenate([street(12, 1.0, 1), street(12, 2.5, 2)])


def test_output_shapes_match_spec(network, frames):
    spec = SMALL.spec(12.0)
    clips = torch.from_numpy(frames[:5, None, :, :, None])
    with torch.inference_mode():
        score, heatmap, following = network(clips, torch.zeros(5, *spec.state_shape), profile(5))
    assert clips.shape[1:] == spec.clip_shape
    assert (score.shape, heatmap.shape, following.shape) == ((5,), (5, *GRID), (5, *spec.state_shape))
    assert (score.dtype, heatmap.dtype, following.dtype) == (torch.float32,) * 3
    assert torch.equal(score, heatmap.amax((1, 2)))
    assert (spec.fps, spec.length, spec.warmup_frames) == (12.0, 1, WARMUP_FRAMES)


def test_first_frame_is_scored_by_looks(frames):
    one, other = build(), build()
    one.motion, other.motion = FixedFlow([everywhere(0.0)]), FixedFlow([everywhere(7.0, -3.0)])
    (still,), (moving,) = score_maps_of(one, frames[:1]), score_maps_of(other, frames[:1])
    assert float(still.observed.max()) == 0.0
    assert float(moving.steady.max()) < 0.01
    assert torch.equal(moving.steady, still.steady)
    assert torch.equal(heat_map(still, unpack_profile(profile()[:, SMALL.adaptation_size :], GRID)), still.anomaly)


def test_first_frame_is_its_own_past(frames):
    network, inputs = build(), []
    network.motion.register_forward_pre_hook(lambda _, given: inputs.append(given[0][0].clone()))
    scored(network, frames[:4])
    order = [[int(np.flatnonzero([np.array_equal(part, frame) for frame in frames])[0]) for part in given] for given in inputs]
    assert order == [[max(0, number - back) for back in (0, *HISTORY)] for number in range(4)]


def test_rounding_errors_stay_small_in_state():
    """Engines add in different orders; a yes-or-no decision must not turn that into another state."""
    states = []
    for hair_px in (0.0, 1e-3):
        network = build()
        slow = torch.linspace(-0.003, 0.003, GRID[0] * GRID[1]).reshape(1, 1, *GRID).expand(1, 2, *GRID) + hair_px
        network.motion = FixedFlow([everywhere(9.0), slow, slow, slow])
        states.append(scored(network, np.full((4, HEIGHT_PX, WIDTH_PX), 128, np.uint8))[1])
    assert torch.allclose(*states, atol=0.01)


def test_observed_is_1_from_sixth_frame():
    observed = [float(maps.observed.min()) for maps in maps_of_flows(*[everywhere(1.0)] * 7)]
    assert observed == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0], abs=1e-4)
    assert observed == [float(maps.observed.max()) for maps in maps_of_flows(*[everywhere(1.0)] * 7)]


def test_second_frame_starts_averages():
    assert float((maps_of_flows(everywhere(2.0))[-1].steady - 2.0).abs().max()) < 0.01


def test_averages_follow_motion():
    """A patch of 3 x 3 cells moves 0.5 and 1.5 cells per frame in turn; everything else stands still."""
    speeds_px = CELL_PX * np.tile([0.5, 1.5], 8)
    lefts = 2 + np.cumsum(speeds_px) / CELL_PX
    flows = []
    for left, speed_px in zip(lefts, speeds_px, strict=True):
        flow = torch.zeros(1, 2, *GRID)
        flow[:, 0, 6:10, int(left) : int(left) + 4] = -speed_px
        flows.append(flow)
    maps = maps_of_flows(*flows)
    middles = [int(left) + 1 for left in lefts]
    found = [float(term.steady[0, 8, middle]) for term, middle in zip(maps[1:], middles, strict=True)]
    assert found[0] == pytest.approx(0.5 * CELL_PX, abs=0.01)
    assert found[-4:] == pytest.approx([CELL_PX] * 4, rel=0.15)
    assert float(maps[-1].steady[0, 2].max()) < 0.01


def test_uneven_motion_is_slower():
    even = maps_of_flows(*[everywhere(1.0)] * 20, steady_spreads=1.0)[-1]
    uneven = maps_of_flows(*[everywhere(speed) for speed in [0.0, 2.0] * 10], steady_spreads=1.0)[-1]
    middle = (0, GRID[0] // 2, GRID[1] - 2)
    assert float(even.steady[middle]) == pytest.approx(1.0, abs=0.05)
    assert float(uneven.steady[middle]) < 0.6


def test_entering_objects_start_anew():
    """Everything stands still and then moves two cells to the right: the two columns at the left have just entered."""
    last = maps_of_flows(*[everywhere(0.0)] * 10, everywhere(2.0 * CELL_PX))[-1].steady[0]
    assert torch.allclose(last[:, :2], torch.full_like(last[:, :2], 2.0 * CELL_PX), atol=0.01)
    assert float(last[:, 2:].max()) < CELL_PX


def test_anomaly_is_averaged(frames):
    network = build()
    network.motion = FixedFlow([everywhere(0.0)] * 40)
    calm, strange = np.full((20, HEIGHT_PX, WIDTH_PX), 128, np.uint8), np.repeat(frames[:1], 20, axis=0)
    of_calm, *_, settled, first, second = (
        torch.sigmoid(term.anomaly) for term in score_maps_of(network, np.concatenate([calm, strange]))[:22]
    )
    assert torch.allclose(settled, of_calm, atol=1e-5)
    # The average moves in the same direction everywhere, in smaller steps.
    step = float((first - settled).abs().max())
    smaller = float((second - first).abs().max()) / step
    assert step > 1e-3
    assert 0.1 < smaller < 0.95
    assert torch.allclose(second - first, smaller * (first - settled), atol=0.01 * step)


def test_outputs_ignore_batch_and_order(network, frames):
    with torch.inference_mode():
        clips = torch.from_numpy(frames[:6, None, :, :, None])
        states = torch.cat([scored(network, frames[number : number + 3])[1] for number in range(5)] + [empty_state()])
        together = network(clips, states, profile(len(clips)))
        alone = [network(clips[number : number + 1], states[number : number + 1], profile()) for number in range(6)]
        order = torch.tensor([3, 0, 5, 1, 4, 2])
        shuffled = network(clips[order], states[order], profile(len(order)))
    for values, others, reordered in zip(together, zip(*alone, strict=True), shuffled, strict=True):
        assert torch.allclose(values, torch.cat(others), rtol=1e-4, atol=1e-4)
        assert torch.allclose(values[order], reordered, rtol=1e-4, atol=1e-4)


def test_network_keeps_no_hidden_state(network, frames):
    before, weights = scored(network, frames[:6]), {name: value.clone() for name, value in network.state_dict().items()}
    scored(network, frames[10:])
    after = scored(network, frames[:6])
    assert np.array_equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def test_scores_are_causal(network, frames):
    whole, _ = scored(network, frames)
    other, _ = scored(network, np.concatenate([frames[:10], 255 - frames[10:]]))
    assert np.array_equal(whole[:10], other[:10])
    assert not np.allclose(whole[10:], other[10:], rtol=1e-3)


def test_warm_up_forgets_the_past(network, street):
    common = street(WARMUP_FRAMES + 3, 1.0, 3)
    fast, noise = street(30, 4.0, 4), np.random.default_rng(0).integers(0, 256, (7, HEIGHT_PX, WIDTH_PX), np.uint8)
    ends = [scored(network, np.concatenate([past, common])) for past in (fast, noise, common[:0])]
    scores = np.array([row[-len(common) :] for row, _ in ends])
    assert np.allclose(scores[:, -3:], scores[0, -3:], rtol=1e-3)
    assert not np.allclose(scores[0, :2], scores[1, :2], rtol=1e-2)


@torch.inference_mode()
def test_a_thing_that_was_left_dwells_and_leaves_no_trace(network, frames):
    """It stands there for 40 frames, is hidden for one, and is gone after 10 more."""
    ordinary = frames[0]
    places = ordinary.reshape(HEIGHT_PX // PLACE_PX, PLACE_PX, -1, PLACE_PX).mean((1, 3), dtype=np.float32)
    usual = np.stack([places, places])
    differences = torch.full((1, *usual.shape), 3.0)
    own = Background(torch.from_numpy(usual)[None], differences, torch.full((1, 1, 1, 1), 0.01))
    left = ordinary.copy()
    left[24:48, 40:64] = 255 - left[24:48, 40:64] // 2
    state, dwelt = empty_state(), []
    for frame in [ordinary] * 3 + [left] * 40 + [ordinary] + [left] * 10 + [ordinary]:
        _, state = network.score_maps(as_clip(frame), state, own)
        dwelt.append(dwell_of(state.numpy())[0])
    middle = [float(maps[4, 6]) * 100 for maps in dwelt]
    assert middle == pytest.approx([0.0] * 3 + list(range(1, 41)) + [0.0] + list(range(1, 11)) + [0.0], abs=1e-3)
    assert max(float(maps[0].max()) for maps in dwelt) == 0.0


@torch.inference_mode()
def test_state_is_the_two_newest_frames_and_what_is_remembered(network, frames):
    """So that a restart needs no network to put it together again."""
    own = Background(*(torch.from_numpy(part)[None] for part in empty_background(place_grid(GRID))), torch.zeros(1, 1, 1, 1))
    state, rebuilt = empty_state(), None
    for frame in frames[:5]:
        _, state = network.score_maps(as_clip(frame), state, own)
        found = state[0].numpy()
        rebuilt = with_remembered(followed_by(rebuilt, frame[..., None], SMALL.state_shape), remembered(found))
        assert rebuilt.tobytes() == found.tobytes()


def test_profile_for_unknown_cameras_has_what_is_common_and_no_background(network):
    normal = Normal.from_values(profile()[0, SMALL.adaptation_size :].numpy(), GRID)
    places = np.full((2, *place_grid(GRID)), 90, np.float32)
    own = [
        normal._replace(speed=normal.speed * speed, background=normal.background._replace(pictures=places)) for speed in (1, 3, 5)
    ]
    adaptation = np.zeros(SMALL.adaptation_size, np.float32)
    joined = network.join_profiles(torch.stack([torch.from_numpy(np.concatenate([adaptation, each.values()])) for each in own]))
    found = Normal.from_values(joined[SMALL.adaptation_size :].numpy(), GRID)
    assert np.all(found.speed == 3)
    assert np.array_equal(found.background, empty_background(place_grid(GRID)))


def test_builder_matches_weights(network):
    again = build_video_ede(SMALL.model_dump())
    again.load_state_dict(network.state_dict(), strict=True)


@torch.inference_mode()
def test_each_clip_is_adapted_alone(network, frames):
    clips = torch.cat([as_clip(frame) for frame in frames[:3]])
    states, profiles = torch.zeros(3, *SMALL.state_shape), profile(3).clone()
    profiles[1, : SMALL.adaptation_size] += 0.1
    plain, adapted = network(clips, states, profile(3))[0], network(clips, states, profiles)[0]
    assert torch.equal(plain[[0, 2]], adapted[[0, 2]])
    assert abs(float(plain[1] - adapted[1])) > 1e-6
    unadapted, _ = network.score_maps(clips, states, background(3))
    same, _ = network.score_maps(clips, states, background(3), profile(3)[:, : SMALL.adaptation_size])
    assert torch.equal(unadapted.anomaly, same.anomaly)
