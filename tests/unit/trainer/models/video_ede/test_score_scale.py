import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.data.clips import ClipDataset
from trainer.data.footage import Footage
from trainer.models.video_ede.model import VideoEde, VideoEdeConfig
from trainer.models.video_ede.score_scale import MAX_FRAMES, ScoreMaps, ScoreScale, score_first_frames, score_footage
from trainer.statistics import normal_tail

GRID = (32, 40)
BATCH, BATCHES = 4, 30


def random_maps(count: int, seed: int, observed: float = 1.0) -> ScoreMaps:
    """Score maps (N, 32, 40) with exponential tails."""
    rng = torch.Generator().manual_seed(seed)
    speed, uneven, anomaly = (torch.empty(count, *GRID).exponential_(rate, generator=rng) for rate in (1.5, 4.0, 8.0))
    return ScoreMaps(speed, speed + uneven, anomaly.clamp(max=1.0), torch.full((count, *GRID), observed))


def normal_frames(seed: int, observed: float = 1.0) -> list[ScoreMaps]:
    return [random_maps(BATCH, 1000 * seed + number, observed) for number in range(BATCHES)]


def fitted(train: list[ScoreMaps], validation: list[ScoreMaps], first: list[ScoreMaps]) -> ScoreScale:
    scale = ScoreScale(GRID)
    scale.fit(train, validation, first)
    return scale


@pytest.fixture(scope="module")
def scale() -> ScoreScale:
    return fitted(normal_frames(1), normal_frames(2), normal_frames(3, observed=0.0))


def largest(scale: ScoreScale, frames: list[ScoreMaps]) -> np.ndarray:
    with torch.inference_mode():
        return np.concatenate([scale(maps).amax((1, 2)).numpy() for maps in frames])


def test_first_frames_range_from_0_to_1(scale):
    assert normal_tail(largest(scale, normal_frames(3, observed=0.0)))[:2] == pytest.approx((0.0, 1.0), abs=1e-3)


def test_fitted_frames_range_from_0_to_1(scale):
    assert normal_tail(largest(scale, normal_frames(2)))[:2] == pytest.approx((0.0, 1.0), abs=0.3)


def test_unseen_normal_frames_in_range(scale):
    scores = largest(scale, normal_frames(4))
    assert abs(float(np.median(scores))) < 0.3
    assert float((scores > 1.5).mean()) < 0.05


def raised(maps: ScoreMaps, name: str, by: float, cell: tuple[int, int]) -> ScoreMaps:
    more = getattr(maps, name).clone()
    more[:, *cell] += by
    return maps._replace(**{name: more})


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["steady", "jerky", "anomaly"]),
    st.floats(0, 20),
    st.tuples(st.integers(0, GRID[0] - 1), st.integers(0, GRID[1] - 1)),
    st.booleans(),
)
def test_score_is_monotone(scale, name, by, cell, begun):
    before = random_maps(2, 77, observed=float(begun))
    assert bool((scale(raised(before, name, by, cell)) >= scale(before)).all())


@pytest.mark.parametrize("name", ["steady", "jerky", "anomaly"])
def test_each_map_can_raise_score(scale, name):
    before = random_maps(2, 78)
    assert bool((scale(raised(before, name, 1000.0, (3, 5)))[:, 3, 5] > scale(before)[:, 3, 5] + 1.0).all())


def test_first_frame_uses_anomaly_only(scale):
    still = random_maps(3, 79, observed=0.0)
    other = still._replace(steady=still.steady + 5.0, jerky=torch.rand_like(still.jerky))
    assert torch.equal(scale(still), scale(other))
    assert not torch.equal(scale(still), scale(raised(still, "anomaly", 0.5, (0, 0))))


def walking(count: int, speed: Tensor) -> ScoreMaps:
    """Frames in which everything moves at ``speed``, broadcast to the grid."""
    steady = speed.expand(count, *GRID)
    return ScoreMaps(steady, steady + 0.1, torch.zeros(count, *GRID), torch.ones(count, *GRID))


def test_speed_is_relative_to_row():
    rows = torch.linspace(0.5, 3.0, GRID[0])[:, None]
    frames = [walking(BATCH, rows * factor) for factor in np.linspace(0.8, 1.2, BATCHES)]
    scale = fitted(frames, frames, frames)
    usual = scale.usual.flatten()
    assert torch.all(usual[1:] >= usual[:-1])
    fast = scale(walking(1, torch.tensor(2.0)))[0]
    assert float(fast[2].max()) > float(fast[-2].max()) + 1.0


def test_still_cells_keep_usual_speed():
    moving = [walking(1, torch.full((1, 1), 2.0))] * 20
    crowded, empty = fitted(moving, moving, moving), fitted([*moving, *[walking(1, torch.zeros(1, 1))] * 80], moving, moving)
    assert torch.allclose(crowded.usual, empty.usual)


def test_limits_spread_to_neighbours():
    calm = random_maps(BATCH, 5)
    road = calm._replace(jerky=raised(calm, "jerky", 30.0, (4, 4)).jerky)
    limits = fitted([road] * 3, [calm] * 3, [calm]).limits
    plain = fitted([calm] * 3, [calm] * 3, [calm]).limits
    assert bool((limits >= plain).all())
    assert float((limits - plain)[4, 4]) > 20.0
    assert float((limits - plain)[5, 7]) > 20.0
    assert float((limits - plain)[-1, -1]) == 0.0


def test_limits_are_per_place():
    calm = random_maps(BATCH, 5)
    road = calm._replace(jerky=raised(calm, "jerky", 30.0, (4, 4)).jerky)
    scale = fitted([road] * 3, [calm] * 3, [calm])
    fast = calm._replace(jerky=torch.full_like(calm.jerky, 30.0))
    assert float(scale(fast)[:, 28, 30].min()) > float(scale(fast)[:, 4, 4].max()) + 1.0


def test_early_frames_shrink_high_scores(scale):
    late, early = (raised(random_maps(2, 79, observed), "anomaly", 9.0, (3, 5)) for observed in (1.0, 0.25))
    with torch.inference_mode():
        whole, begun = scale(late), scale(early)
    assert bool((whole > 0).any() and (whole < 0).any())
    assert torch.allclose(begun, torch.where(whole > 0, whole / 2, whole), atol=1e-5)


def test_usual_anomaly_is_subtracted(scale):
    def with_a_corner(frames: list[ScoreMaps]) -> list[ScoreMaps]:
        return [raised(maps, "anomaly", 5.0, (31, 39)) for maps in frames]

    seen = [normal_frames(seed, observed) for seed, observed in ((1, 1.0), (2, 1.0), (3, 0.0))]
    cornered = fitted(*map(with_a_corner, seen))
    for frames in (normal_frames(4), normal_frames(5, observed=0.0)):
        np.testing.assert_allclose(largest(cornered, with_a_corner(frames)), largest(scale, frames), atol=0.02)
        stranger = [raised(maps, "anomaly", 10.0, (31, 39)) for maps in frames]
        assert (largest(cornered, stranger) > largest(scale, frames) + 1.0).all()


def test_still_footage_gives_finite_scores():
    still = [walking(BATCH, torch.zeros(1, 1))] * 5
    scale = fitted(still, still, still)
    for name, value in scale.state_dict().items():
        assert torch.isfinite(value).all(), name
    assert float(scale(still[0]).abs().max()) < 1.0
    assert torch.isfinite(scale(random_maps(3, 6))).all()


def clips_of(*videos: np.ndarray) -> ClipDataset:
    """Footage (n, H, W) as single-frame clips."""
    found = [Footage(str(number), video[..., None], np.arange(len(video)), len(video), ()) for number, video in enumerate(videos)]
    return ClipDataset(tuple(found), 1)


def brightness_maps(clips: Tensor, state: Tensor) -> tuple[ScoreMaps, Tensor]:
    """Score maps of the frame's brightness and the sum of the frames before; the state is that sum."""
    brightness = clips[:, 0, :1, :1, 0].float()
    maps = ScoreMaps(brightness, state[:, 0], brightness, (state[:, 0] > 0).float())
    return maps, state + brightness[:, None]


def numbered(count: int, first: int) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.uint8)[:, None, None] * np.ones((1, 8, 8), np.uint8)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=20))
def test_scores_frames_in_order(lengths):
    videos = [numbered(count, 1 + number) for number, count in enumerate(lengths)]
    seen = [
        (frame.item(), before.item())
        for maps in score_footage(brightness_maps, clips_of(*videos), (1, 1, 1))
        for frame, before in zip(maps.steady.flatten(), maps.jerky.flatten(), strict=True)
    ]
    expected = [
        (1 + number + place, sum(range(1 + number, 1 + number + place)))
        for number, count in enumerate(lengths)
        for place in range(1, count)
    ]
    assert sorted(seen) == sorted(expected)


def test_long_footage_is_sampled_evenly():
    video = np.repeat(np.arange(1, 256, dtype=np.uint8), 80)[:, None, None] * np.ones((1, 1, 1), np.uint8)
    seen = torch.cat([maps.steady.flatten() for maps in score_footage(brightness_maps, clips_of(video), (1, 1, 1))])
    assert MAX_FRAMES * 0.9 < len(seen) <= MAX_FRAMES
    assert (float(seen.min()), float(seen.max())) == (1.0, 255.0)


def test_first_frames_have_empty_state():
    (maps,) = score_first_frames(brightness_maps, clips_of(numbered(5, 1)), (1, 1, 1))
    assert float(maps.observed.max()) == 0.0
    assert maps.steady.flatten().tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_fits_network_to_still_footage(street):
    torch.manual_seed(0)
    config = VideoEdeConfig(height_px=64, width_px=96, first=4, fine=16, coarse=12, width=12, latent=4)
    for videos in ([street(30, 1.0, 1), street(30, 1.0, 2)], [np.full((30, 64, 96), 90, np.uint8)] * 2):
        network = VideoEde(config).eval()
        network.fit_scale(clips_of(videos[0]), clips_of(videos[1]))
        with torch.inference_mode():
            clips = torch.from_numpy(np.concatenate(videos)[::6, None, ..., None])
            score, heatmap, _ = network(clips, torch.zeros(len(clips), *config.state_shape))
        assert torch.isfinite(score).all()
        assert torch.isfinite(heatmap).all()
