import numpy as np
import pytest
import torch
from torch import Tensor

from deploy.profile_learning import normal_tail
from trainer.models.tiles import RandomTiles, TileConfig, TiledNetwork, cut_tiles, tiled
from trainer.training.interfaces import Detector, Recipe, Settings


class Brightness(Detector):
    """Scores a tile by its mean."""

    def __init__(self, settings: Settings, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.settled_on = 0

    def fit_scale(self, normals: Tensor) -> None:
        self.settled_on = len(normals)

    def forward(self, samples: Tensor) -> Tensor:
        return self.weight * samples.mean(dim=(1, 2, 3))


RECIPE = Recipe("brightness", Settings.model_validate, Brightness, lambda detector, settings: (detector, settings))
STILL = TileConfig(length=1, height_px=64, width_px=96)


def test_tiles_overlap_and_cover_view():
    view = torch.arange(32 * 48).float().view(1, 1, 32, 48)
    tiles = cut_tiles(view, 16, 8)
    assert tiles.shape == (1, 3, 5, 1, 16, 16)
    assert torch.equal(tiles[0, 1, 2, 0], view[0, 0, 8:24, 16:32])
    assert torch.equal(tiles[0, -1, -1, 0], view[0, 0, 16:, 32:])


def test_score_is_maximum_of_tiles():
    clips = torch.zeros(2, 1, 64, 96, 1, dtype=torch.uint8)
    clips[1, :, 32:, 64:] = 255
    with torch.inference_mode():
        score, heatmap = TiledNetwork(RECIPE, STILL).eval()(clips)
    assert score.tolist() == pytest.approx([-1.0, 1.0])
    assert heatmap.shape == (2, 3, 5)
    assert heatmap[1].argmax() == 14
    assert float(heatmap[1, 0, 0]) == pytest.approx(-1.0)


def test_scores_ignore_batch_and_order(street):
    frames = street(8, 1.0)
    clips = torch.from_numpy(frames)[:, None, :, :, None]
    network = TiledNetwork(RECIPE, STILL).eval()
    with torch.inference_mode():
        batched = network(clips)[0]
        assert torch.equal(batched.flip(0), network(clips.flip(0))[0])
        assert torch.equal(batched[3:4], network(clips[3:4])[0])


def test_views_have_motion_channels():
    assert TiledNetwork(RECIPE, TileConfig(length=5)).detector.shape == (3, 16, 16)
    assert TiledNetwork(RECIPE, STILL).detector.shape == (1, 16, 16)


def test_scale_fits_validation_clips(street):
    network = TiledNetwork(RECIPE, STILL).eval()
    held_out = [street(40, 1.0, seed=seed)[:, None, :, :, None] for seed in (1, 2)]
    network.fit_clips(held_out, held_out)
    assert network.detector.settled_on == 2 * 10 * 15
    with torch.inference_mode():
        scores = torch.cat([network(torch.from_numpy(clips))[0] for clips in held_out])
    assert normal_tail(scores.numpy())[:2] == pytest.approx((0.0, 1.0), abs=1e-3)


def test_random_tiles_prefer_texture():
    torch.manual_seed(0)
    views = torch.arange(200).float()[:, None, None, None].expand(-1, 1, 40, 60).clone()
    views[:, :, :20, :30] += 0.5 * torch.rand(200, 1, 20, 30)  # something to see in a quarter of each
    drawn, labels = RandomTiles(views, 16).draw(torch.arange(100, 200))
    assert drawn.shape == (100, 1, 16, 16)
    assert torch.equal(drawn.amin(dim=(1, 2, 3)).floor(), torch.arange(100.0, 200.0))
    assert labels.tolist() == [1.0] * 100
    lively = drawn.var(dim=(1, 2, 3)) > 1e-4
    assert lively[::2].float().mean() > lively[1::2].float().mean() + 0.2


def test_configure_overrides_defaults():
    configure = tiled(RECIPE, {}).configure
    assert configure({"height_px": 64}).height_px == 64
    assert configure({"network": {}}).network == {}
    with pytest.raises(ValueError, match="step"):
        configure({"step": 0})


def test_validation_takes_all_tiles():
    network = TiledNetwork(RECIPE, STILL)
    views = torch.from_numpy(np.random.default_rng(0).random((100, 1, 32, 48), np.float32))
    found = network.validation(views)
    assert found.shape == (24 * 15, 1, 16, 16)
    assert torch.equal(found, network.validation(views))
    assert torch.equal(found[0], views[0, :, :16, :16])
    assert torch.equal(found[-1], views[-1, :, 16:, 32:])
