import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from trainer.models.video_ede.learners import AnomalyLearner, FlowLearner, TrainableNetworks, focal_loss, split_scene_batch
from trainer.models.video_ede.networks import CELL_PX, AnomalyNet, AnomalyOutput, FlowFeatures, FlowNet, normalise_frames
from trainer.training.interfaces import Batch

HISTORY = (1, 2)
FINE, COARSE = 16, 12
SIDE_PX = 64


@pytest.fixture
def networks() -> TrainableNetworks:
    torch.manual_seed(0)
    return TrainableNetworks(FlowNet(len(HISTORY), 4, FINE, COARSE), AnomalyNet(FINE, COARSE, 12, 4), HISTORY, 3e-3)


def detector(networks: TrainableNetworks) -> nn.Module:
    return nn.ModuleDict({"motion": networks.flow_net, "judge": networks.anomaly_net})


def normal(samples: Tensor) -> Batch:
    return Batch(samples, torch.ones(len(samples)))


def motion_samples() -> Tensor:
    rng = torch.Generator().manual_seed(1)
    frames = 255 * torch.rand(4, 3, SIDE_PX, SIDE_PX, generator=rng)
    flow = torch.full((4, 2, SIDE_PX, SIDE_PX), 1.5)
    return torch.cat([frames, flow], dim=1)


def scene_samples() -> Tensor:
    """Two scenes, each with a patch of noise in all frames: anomalous in the first, ignored in the second."""
    rng = torch.Generator().manual_seed(2)
    clean = torch.full((2, 3, SIDE_PX, SIDE_PX), 110.0) + 6 * torch.randn(2, 3, SIDE_PX, SIDE_PX, generator=rng)
    frames, patch = clean.clone(), torch.zeros(2, 1, SIDE_PX, SIDE_PX)
    patch[:, :, 16:40, 24:48] = 1.0
    frames += patch * 60 * torch.randn(2, 3, SIDE_PX, SIDE_PX, generator=rng)
    anomalous, ignored = patch * torch.tensor([1.0, 0.0]).view(2, 1, 1, 1), patch * torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    return torch.cat([frames, clean, anomalous, ignored, torch.zeros(2, 2, SIDE_PX, SIDE_PX)], dim=1)


def values(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def changed(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if not torch.equal(before[name], parameter)}


def test_flow_step_trains_flow_net_only(networks, alone):
    learner = FlowLearner(detector(networks), networks)
    flow, anomaly = values(networks.flow_net), values(networks.anomaly_net)
    losses = [learner.learn(normal(motion_samples()), 0.0, alone) for _ in range(2)]
    assert changed(flow, networks.flow_net) == flow.keys()
    assert changed(anomaly, networks.anomaly_net) == set()
    assert all(torch.isfinite(value) for value in losses[-1].values())


def test_anomaly_step_keeps_flow_net_frozen(networks, alone):
    learner = AnomalyLearner(detector(networks), networks)
    flow, anomaly = values(networks.flow_net), values(networks.anomaly_net)
    for _ in range(2):
        learner.learn(normal(scene_samples()), 0.0, alone)
    assert changed(anomaly, networks.anomaly_net) == anomaly.keys()
    assert changed(flow, networks.flow_net) == set()
    assert all(parameter.grad is not None for parameter in networks.anomaly_net.parameters())
    assert all(parameter.grad is None for parameter in networks.flow_net.parameters())


@pytest.mark.parametrize(("make", "samples"), [(FlowLearner, motion_samples), (AnomalyLearner, scene_samples)])
def test_training_lowers_both_losses(networks, alone, make, samples):
    learner = make(detector(networks), networks)
    before = float(learner.validation_loss(samples()).detach())
    first = sum(map(float, learner.learn(normal(samples()), 0.0, alone).values()))
    for _ in range(60):
        learner.learn(normal(samples()), 0.2, alone)
    after = float(learner.validation_loss(samples()).detach())
    assert first == pytest.approx(before, rel=1e-4)
    assert after < 0.6 * before


@pytest.mark.parametrize("make", [FlowLearner, AnomalyLearner])
def test_learning_rate_schedule(networks, make):
    rates = [make(detector(networks), networks).rate_factor(share) for share in np.linspace(0, 1, 101)]
    assert 0 < rates[0] < 0.5
    highest = int(np.argmax(rates))
    assert 0 < highest < 10
    assert rates[highest:] == sorted(rates[highest:], reverse=True)
    assert rates[-1] == pytest.approx(0.0, abs=1e-9)


class FixedFlow(nn.Module):
    """Returns the same flow everywhere."""

    def __init__(self, flow_px: float) -> None:
        super().__init__()
        self.flow_px = nn.Parameter(torch.tensor(flow_px))

    def forward(self, frames: Tensor) -> FlowFeatures:
        flow = self.flow_px.expand(len(frames), 2, SIDE_PX // CELL_PX, SIDE_PX // CELL_PX)
        return FlowFeatures(flow, flow, flow)


class FixedScene(nn.Module):
    """Returns a fixed scene."""

    def __init__(self, scene: Tensor) -> None:
        super().__init__()
        self.scene = nn.Parameter(scene)

    def init_weights(self) -> None:
        pass

    def forward(self, frame: Tensor, seen: FlowFeatures, place: Tensor) -> AnomalyOutput:
        cells = SIDE_PX // CELL_PX
        return AnomalyOutput(
            torch.zeros(2, 1, cells, cells), torch.zeros(2, 1, cells // 2, cells // 2), self.scene, torch.zeros(())
        )


def test_moving_cells_weigh_more(networks):
    samples, errors = motion_samples(), []
    for true_px in (0.1, 2.0):
        samples[:, -2:] = true_px
        stubbed = replace(networks, flow_net=FixedFlow(true_px + 0.5))
        errors.append(float(FlowLearner(nn.ModuleDict(), stubbed).validation_loss(samples).detach()))
    assert errors[1] > 1.5 * errors[0] > 0


def test_ignored_cells_do_not_count(networks):
    learner = AnomalyLearner(detector(networks), networks)
    samples = scene_samples()
    other = samples.clone()
    split_scene_batch(other).anomalous[1] = split_scene_batch(samples).ignored[1]
    for name in ("anomaly", "latent_distance"):
        assert torch.equal(learner.losses(samples)[name], learner.losses(other)[name])
    split_scene_batch(other).ignored.zero_()
    for name in ("anomaly", "latent_distance"):
        assert not torch.allclose(learner.losses(samples)[name], learner.losses(other)[name])


def test_scene_target_is_clean(networks):
    samples = scene_samples()
    scenes = split_scene_batch(samples)
    with torch.no_grad():
        brightness = nn.functional.avg_pool2d(normalise_frames(scenes.clean[:, :1]), CELL_PX)
        stubbed = FixedScene(torch.cat([brightness, networks.flow_net(scenes.clean).flow], dim=1))
    learner = AnomalyLearner(nn.ModuleDict(), replace(networks, anomaly_net=stubbed))
    with_anomalies = torch.cat(scenes._replace(clean=scenes.frames), dim=1)
    assert float(learner.losses(samples)["scene"].detach()) == pytest.approx(0.0, abs=1e-6)
    assert float(learner.losses(with_anomalies)["scene"].detach()) > 1e-3


def test_splits_scene_batch():
    taken = split_scene_batch(torch.arange(10.0).reshape(1, 10, 1, 1).expand(2, 10, 4, 4))
    assert [part[0, :, 0, 0].tolist() for part in taken] == [[0, 1, 2], [3, 4, 5], [6], [7], [8, 9]]


logits = arrays(np.float32, (2, 1, 3, 4), elements=st.floats(-6, 6, width=32))
masks = arrays(np.float32, (2, 1, 3, 4), elements=st.sampled_from([0.0, 1.0]))


@given(logits, masks)
def test_focal_loss_falls_with_confidence(given_logits, given_masks):
    logit, anomalous = torch.from_numpy(given_logits), torch.from_numpy(given_masks)
    surer = logit + (2.0 * anomalous - 1.0)
    nothing = torch.zeros_like(anomalous)
    assert 0 <= float(focal_loss(surer, anomalous, nothing)) < float(focal_loss(logit, anomalous, nothing))


@given(logits, masks, masks)
def test_focal_loss_skips_ignored_cells(given_logits, given_masks, given_ignored):
    logit, anomalous, ignored = map(torch.from_numpy, (given_logits, given_masks, given_ignored))
    loss = focal_loss(logit, anomalous, ignored)
    assert torch.equal(loss, focal_loss(logit + 3.0 * ignored, anomalous, ignored))
    assert torch.equal(loss, focal_loss(logit, torch.where(ignored > 0, 1.0 - anomalous, anomalous), ignored))
    assert math.isfinite(float(loss))
    assert not ignored.all() or float(loss) == 0.0


@given(logits, masks, masks)
def test_focal_loss_averages_samples(given_logits, given_masks, given_ignored):
    logit, anomalous, ignored = map(torch.from_numpy, (given_logits, given_masks, given_ignored))
    each = [focal_loss(logit[n : n + 1], anomalous[n : n + 1], ignored[n : n + 1]) for n in range(2)]
    assert float(focal_loss(logit, anomalous, ignored)) == pytest.approx(float(torch.stack(each).mean()), rel=1e-5, abs=1e-9)


def test_focal_loss_favours_hard_cells():
    nothing = torch.zeros(1, 1, 1, 1)
    sure, unsure = (float(focal_loss(torch.full((1, 1, 1, 1), logit), nothing, nothing)) for logit in (-4.0, 0.0))
    plain = [math.log1p(math.exp(logit)) for logit in (-4.0, 0.0)]
    assert sure / unsure < 0.1 * plain[0] / plain[1]


def test_focal_loss_skips_edges():
    logit, nothing = torch.full((1, 1, 1, 2), 2.0), torch.zeros(1, 1, 1, 2)
    half = torch.tensor([[[[0.0, 0.3]]]])
    assert float(focal_loss(logit, half, nothing)) == pytest.approx(
        float(focal_loss(logit[..., :1], half[..., :1], nothing[..., :1]))
    )
