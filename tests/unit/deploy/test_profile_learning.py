import numpy as np
import pytest
import torch

from deploy.profile_learning import Grid, Normal, Range, ScoreMaps, UsualMaps, state_maps
from trainer.models.video_ede.model import VideoEde, VideoEdeConfig
from trainer.models.video_ede.score_scale import heat_map, unpack_profile

GRID = Grid((16, 20), 3, 0.25)
RNG = np.random.default_rng(0)


def random_maps(count: int) -> ScoreMaps:
    steady, anomaly = (RNG.random((count, *GRID.shape), np.float32) for _ in range(2))
    return ScoreMaps(4 * steady, anomaly, np.ones_like(steady))


@torch.inference_mode()
def test_state_shows_the_maps_of_the_network():
    network = VideoEde(VideoEdeConfig(height_px=64, width_px=80, first=4, fine=12, coarse=8, width=12, latent=4))
    state = torch.zeros(2, *network.config.state_shape)
    for _ in range(3):
        clips = torch.from_numpy(RNG.integers(0, 256, (2, 1, 64, 80, 1), np.uint8))
        maps, state = network.score_maps(clips, state)
        for actual, expected in zip(state_maps(state.numpy(), GRID), maps.numpy(), strict=True):
            np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_scores_are_those_of_the_graph():
    usual = random_maps(1)
    normal = Normal(usual.anomaly[0] / 4, usual.steady[0, :, :1] + 0.5, Range(0.5, 0.2), Range(0.3, 0.1), Range(2.0, 3.0))
    maps = random_maps(5)
    profile = torch.from_numpy(normal.values())[None].expand(5, -1)
    heat = heat_map(type(maps)(*map(torch.from_numpy, maps)), unpack_profile(profile, GRID.shape))
    np.testing.assert_allclose(normal.scores(maps), heat.amax((1, 2)).numpy(), rtol=1e-5)


@pytest.mark.parametrize("anomaly", [0.0, 0.39, 0.6, 0.83, 1.0])
def test_usual_anomaly_is_the_median_beyond_0_4(anomaly):
    usual = UsualMaps(GRID.shape)
    for noise in RNG.normal(0, 0.05, 200):
        level = np.full((1, *GRID.shape), np.clip(anomaly + noise, 0, 1), np.float32)
        usual.add(ScoreMaps(level, level, level))
    np.testing.assert_allclose(usual.anomaly(), max(0.0, anomaly - 0.4), atol=0.03)


def test_usual_maps_go_on_from_their_counts():
    parts = [random_maps(40), random_maps(40)]
    whole, begun = UsualMaps(GRID.shape), UsualMaps(GRID.shape)
    for part in parts:
        whole.add(part)
    begun.add(parts[0])
    resumed = UsualMaps(GRID.shape, **{name: counts.copy() for name, counts in begun.arrays().items()})
    resumed.add(parts[1])
    assert np.array_equal(resumed.anomaly(), whole.anomaly())
    assert np.array_equal(resumed.speed(), whole.speed())
