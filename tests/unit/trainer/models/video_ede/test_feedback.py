"""Learning from annotations: the losses, and a short training that shows their effect."""

import numpy as np
import pytest
import torch

from tests.unit.trainer.pseudo_anomalies.walk import footage
from trainer.data.annotations import AnnotatedClip, Region
from trainer.models.video_ede.learners import (
    AnomalyLearner,
    AnomalyPrediction,
    FeedbackLearner,
    TrainableNetworks,
    annotated_entropy_loss,
    annotated_scene_loss,
    select_instances,
)
from trainer.models.video_ede.model import position_grid
from trainer.models.video_ede.networks import CELL_PX, AnomalyNet, AnomalyOutput, FlowNet, normalise_frames
from trainer.pseudo_anomalies.annotated_samples import AnnotatedSamples, find_annotated_frames
from trainer.pseudo_anomalies.samples import PseudoAnomalySamples, SceneSource
from trainer.pseudo_anomalies.segments import DisFlow, camera_views, segment_views

HISTORY = (1, 2)
GRID = (64 // CELL_PX, 96 // CELL_PX)
STEPS = 30


UNLABELLED, NORMAL, ANOMALY, IGNORED, POSSIBLE = (0, 0, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (1, 1, 1)
"""A cell: anomalous, ignored, annotated."""


def row(values):
    return torch.tensor(values, dtype=torch.float32)[None, None, None]


def predicted(cells, logit=0.0, drawn=0.0, scene=0.0, code=None):
    """A prediction for a row of cells, and which of them are annotated."""
    anomalous, ignored, annotated = (row(part) for part in zip(*cells, strict=True))
    zeros = torch.zeros_like(anomalous)
    scenes = [(zeros + torch.as_tensor(scene)).expand(1, 3, 1, len(cells)) for scene in (drawn, scene)]
    output = AnomalyOutput(zeros + torch.as_tensor(logit), zeros, scenes[0], code)
    return AnomalyPrediction(output, scenes[1], anomalous, ignored), annotated > 0.5


def test_selects_highest_tenth_of_cells():
    logits = torch.linspace(-6.0, 3.0, 30)
    selected = select_instances(predicted([POSSIBLE] * 30, logits)[0])
    assert (selected.ignored[0, 0, 0] == 0).nonzero().flatten().tolist() == [26, 27, 28, 29]
    assert select_instances(predicted([POSSIBLE] * 30, logits - 5.0)[0]).ignored.min() == 1
    others, _ = predicted([UNLABELLED, NORMAL, ANOMALY, IGNORED], 9.0)
    assert torch.equal(select_instances(others).ignored, others.ignored)


@pytest.mark.parametrize(
    ("cells", "drawn", "loss"),
    [
        ([NORMAL, ANOMALY, IGNORED, UNLABELLED], [1.0, 0.0, 9.0, 9.0], 0.0),
        ([NORMAL, ANOMALY, IGNORED, UNLABELLED], [1.0, 2.0, 9.0, 9.0], 2.0 / 4),
        ([NORMAL, ANOMALY, IGNORED, UNLABELLED], [0.0, 0.0, 9.0, 9.0], 1.0 / 4),
        ([UNLABELLED, UNLABELLED, IGNORED, UNLABELLED], [0.0, 0.0, 4.0, 8.0], 3.0 / 4),
    ],
)
def test_scene_loss_of_annotated_cells(cells, drawn, loss):
    found = annotated_scene_loss(*predicted(cells, drawn=torch.tensor(drawn), scene=torch.tensor([1.0, 2.0, 4.0, 8.0])))
    assert float(found) == pytest.approx(loss)


@pytest.mark.parametrize(
    ("cells", "loss"),
    [([NORMAL, ANOMALY], 5.0 + 2.0), ([ANOMALY, NORMAL], 0.2 + 0.5), ([NORMAL, NORMAL], 2.75), ([UNLABELLED, IGNORED], 0.0)],
)
def test_entropy_loss_of_annotated_cells(cells, loss):
    code = torch.tensor([[3.0, 0.5], [4.0, 0.0]])[None, :, None, :]  # lengths 5 and 0.5
    seen, annotated = predicted(cells, code=code)
    fine = seen._replace(anomalous=seen.anomalous.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert float(annotated_entropy_loss(fine, annotated.repeat_interleave(2, 2).repeat_interleave(2, 3))) == pytest.approx(loss)


def striped_object(street, seed):
    """A street with a striped object at normal speed, and the box that it crosses."""
    frames = street(14, 1.0, seed)
    top, left = 6 + 9 * seed, 20
    stripes = np.tile(np.repeat([20, 235], 4), 3)[None, :].repeat(16, axis=0).astype(np.uint8)
    for number, frame in enumerate(frames):
        frame[top : top + 16, left + number : left + number + 24] = stripes
    return frames, Region(left, top, 24 + len(frames), 16)


@pytest.fixture(scope="module")
def views(street):
    return segment_views(camera_views([footage(street(60, 1.0, seed)) for seed in range(4)]), 60, DisFlow(), lambda: None)


def network():
    torch.manual_seed(0)
    return TrainableNetworks(FlowNet(len(HISTORY), 4, 12, 8), AnomalyNet(12, 8, 12, 4), HISTORY, 1e-2)


def object_anomaly(networks, street):
    """The mean anomaly of the object in a video and a place where it was not annotated."""
    frames, region = striped_object(street, 3)
    rows, columns = (slice(a // CELL_PX, (a + s) // CELL_PX) for a, s in ((region.y, region.height), (region.x, region.width)))
    clips = torch.from_numpy(np.stack([frames[[n, n - 1, n - 2]] for n in range(2, len(frames))])).float()
    with torch.no_grad():
        place = position_grid(GRID).expand(len(clips), -1, -1, -1)
        output = networks.anomaly_net(normalise_frames(clips[:, :1]), networks.flow_net(clips), place)
    return float(torch.sigmoid(output.anomaly[:, 0, rows, columns]).mean())


def trained(views, street, alone, *, anomalous):
    """The anomaly of the object after a short training in which it was annotated."""
    frames, region = striped_object(street, 0)
    networks = network()
    mark = AnnotatedClip(footage(frames), 2, len(frames) - 1, anomalous, region, "line 2")
    frames_found = find_annotated_frames([mark], views, HISTORY[-1], 20, DisFlow(), lambda: None)
    learner = FeedbackLearner(networks.anomaly_net, networks)
    samples = AnnotatedSamples(SceneSource(views, HISTORY), *((frames_found, []) if anomalous else ([], frames_found)))
    for step in range(STEPS):
        learner.learn(samples.draw(torch.arange(8) + 8 * step), 0.1 + 0.9 * step / STEPS, alone)
    return object_anomaly(networks, street)


def test_annotations_generalise_to_other_places(views, street, alone):
    assert trained(views, street, alone, anomalous=True) > 0.2 + trained(views, street, alone, anomalous=False)


def test_validation_ignores_annotations(views):
    samples = PseudoAnomalySamples(SceneSource(views, HISTORY)).draw(torch.arange(4)).samples
    networks = network()
    plain, feedback = AnomalyLearner(networks.anomaly_net, networks), FeedbackLearner(networks.anomaly_net, networks)
    torch.manual_seed(0)
    networks.anomaly_net.init_weights()
    assert float(feedback.validation_loss(samples).detach()) == float(plain.validation_loss(samples).detach())
