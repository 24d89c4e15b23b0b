import numpy as np
import pytest
import torch

from deploy.profile_learning import normal_tail
from trainer.models.ganomaly import Reconstruction
from trainer.models.layers import window_means
from trainer.models.optical_flow import MotionView, corrupt_motion
from trainer.models.registry import build_video_ganomaly
from trainer.models.video_ganomaly import (
    MARGIN,
    VideoGanomaly,
    VideoGanomalyConfig,
    VideoGanomalyLearner,
    VideoGenerator,
    margin_loss,
)
from trainer.training.interfaces import Batch

CONFIG = VideoGanomalyConfig(height_px=64, width_px=96, length=4, width=4)

LEARNED = VideoGanomalyConfig(height_px=32, width_px=32, width=4, latent_channels=4)


@pytest.fixture(scope="module")
def network() -> VideoGanomaly:
    torch.manual_seed(0)
    return VideoGanomaly(CONFIG).eval()


@pytest.fixture(scope="module")
def clips(street) -> torch.Tensor:
    frames = street(20, 1.0)
    return torch.from_numpy(np.stack([frames[first : first + 4] for first in range(12)])[..., None])


def test_scores_ignore_batch_and_order(network, clips):
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        batched = network(clips)
        alone = [network(clips[number : number + 1]) for number in range(len(clips))]
        shuffled = network(clips[order])
    assert torch.allclose(batched[0], torch.cat([score for score, _ in alone]), rtol=1e-5)
    assert torch.allclose(batched[1], torch.cat([heatmap for _, heatmap in alone]), rtol=1e-4, atol=1e-6)
    assert torch.allclose(batched[0][order], shuffled[0], rtol=1e-5)


def test_output_shapes(network, clips):
    with torch.inference_mode():
        score, heatmap = network(clips[:3])
    assert (score.shape, score.dtype) == ((3,), torch.float32)
    assert (heatmap.shape, heatmap.dtype) == ((3, 4, 6), torch.float32)


def test_fit_sets_normal_ranges(clips):
    torch.manual_seed(0)
    network = VideoGanomaly(CONFIG).eval()
    network.fit_clips([clips[:4].numpy()], [clips[:8].numpy(), clips[8:].numpy()])
    with torch.inference_mode():
        terms = network.terms(clips)
        ranges = network.latent_range, network.motion_range, network.scene_range
        largest = [measured(term).amax((1, 2)) for measured, term in zip(ranges, terms, strict=True)]
        score, _ = network(clips)
    for term in largest:
        assert normal_tail(term.numpy())[:2] == pytest.approx((0.0, 1.0), abs=1e-3)
    assert torch.allclose(score, torch.stack(largest).amax(0), atol=1e-4)


def test_covered_lens_raises_scene_term(clips):
    torch.manual_seed(0)
    network = VideoGanomaly(CONFIG).eval()
    network.fit_clips([clips[:8].numpy()], [clips[8:].numpy()])
    covered = torch.full_like(clips[:1], 12)
    with torch.inference_mode():
        scene = network.scene_range(network.terms(torch.cat([clips, covered])).scene)[:, 0, 0]
    assert float(scene[-1]) > 3 * float(scene[:-1].max())


def test_builder_matches_weights(network):
    again = build_video_ganomaly(CONFIG.model_dump())
    again.load_state_dict(network.state_dict(), strict=True)


def moved_texture(right_px: float, down_px: float, contrast: float = 60.0) -> torch.Tensor:
    """A smooth texture that moves as a whole, uint8 (1, 5, 64, 96, 1)."""
    y, x = np.mgrid[:64, :96].astype(np.float64)
    frames = [
        128 + contrast * (np.sin((x - right_px * t) / 3.0) + np.sin((y - down_px * t) / 4.0 + (x - right_px * t) / 9.0)) / 2
        for t in range(5)
    ]
    return torch.from_numpy(np.stack(frames).round().astype(np.uint8)[None, ..., None])


@pytest.mark.parametrize(("right_px", "down_px"), [(1.0, 0.0), (-0.5, 0.5), (0.0, -1.0), (2.0, 0.0)])
@pytest.mark.parametrize("contrast", [60.0, 30.0])
def test_flow_is_in_pixels_at_any_contrast(right_px, down_px, contrast):
    view = MotionView(full_scale_px=2.0, window=7, motion=True)
    motion = torch.atanh(view(moved_texture(right_px, down_px, contrast))[0, 1:, 4:-4, 4:-4]) * 2.0
    assert motion.mean(dim=(1, 2)).tolist() == pytest.approx([right_px, down_px], abs=0.3)


def test_still_scene_has_no_motion():
    views = MotionView(full_scale_px=2.0, window=7, motion=True)(torch.full((1, 5, 64, 96, 1), 255, dtype=torch.uint8))
    assert torch.equal(views[:, 0], torch.ones(1, 32, 48))
    assert torch.count_nonzero(views[:, 1:]) == 0


def test_motion_can_be_switched_off():
    views = MotionView(full_scale_px=2.0, window=7, motion=False)(moved_texture(1.0, 0.0))
    assert torch.count_nonzero(views[:, 1:]) == 0
    assert float(views[:, 0].std()) > 0


def test_window_means_of_small_maps():
    assert window_means(torch.arange(6.0).reshape(1, 1, 2, 3), 9).tolist() == [[[2.5]]]
    assert window_means(torch.arange(6.0).reshape(1, 1, 2, 3), 2).tolist() == [[[2.0, 3.0]]]


def test_margin_loss_counts_fast_cells():
    latent = torch.zeros(1, 2, 1, 3)
    again = torch.zeros(1, 2, 1, 3)
    again[..., 1] = (MARGIN / 4) ** 0.5
    again[..., 2] = (MARGIN * 2) ** 0.5
    too_fast = torch.zeros(1, 1, 2, 6, dtype=torch.bool)
    outputs = Reconstruction(latent, torch.zeros(1), again)
    assert float(margin_loss(outputs, too_fast)) == 0.0
    too_fast[..., 2] = True  # half of the middle cell
    assert float(margin_loss(outputs, too_fast)) == pytest.approx(0.75)
    too_fast[..., 4:] = True
    assert float(margin_loss(outputs, too_fast)) == pytest.approx((0.75 + 0.0) / 2)


@pytest.fixture
def learner() -> VideoGanomalyLearner:
    torch.manual_seed(0)
    return VideoGanomalyLearner(VideoGenerator(LEARNED), LEARNED)


def weights(learner: VideoGanomalyLearner) -> list[torch.Tensor]:
    return [parameter.detach().clone() for module in learner.modules.values() for parameter in module.parameters()]


def normal(views: torch.Tensor) -> Batch:
    return Batch(views, torch.ones(len(views)))


def test_step_trains_both_players(learner, alone):
    before = weights(learner)
    losses = learner.learn(normal(torch.rand(4, 3, 16, 16) * 2 - 1), 0.0, alone)
    assert all(not torch.equal(old, new) for old, new in zip(before, weights(learner), strict=True))
    assert list(losses) == ["adversarial", "contextual", "encoder", "margin", "discriminator"]


def test_training_lowers_both_losses(learner, alone):
    views = torch.full((4, 3, 16, 16), 0.5)
    before = float(learner.validation_loss(views).detach())
    losses = [float(learner.learn(normal(views), 0.0, alone)["contextual"]) for _ in range(200)]
    assert losses[-1] < losses[0] / 2
    assert float(learner.validation_loss(views).detach()) < before / 2


def test_corrupts_speeds_only(alone):
    torch.manual_seed(0)
    views = torch.full((8, 3, 40, 60), 0.3)
    views[:, :, :20] = 0.0
    corrupted, too_fast = corrupt_motion(views, alone)
    assert torch.equal(corrupted[:, 0], views[:, 0])
    assert torch.count_nonzero(corrupted[:, :, :20]) == 0
    changed = ((corrupted - views).abs() > 1e-5)[:, 1:, 20:].float().mean()
    assert 0.15 < float(changed) < 0.75
    assert float(corrupted.abs().max()) <= 1.0
    faster = corrupted[:, 1:].norm(dim=1, keepdim=True) > views[:, 1:].norm(dim=1, keepdim=True) + 0.1
    assert torch.equal(too_fast, faster)
    assert 0 < int(too_fast.sum()) < int(changed * too_fast.numel())
