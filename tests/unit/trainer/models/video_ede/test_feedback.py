"""What the judge learns from operators' marks: the terms, and a small training that shows their effect."""

import numpy as np
import pytest
import torch

from trainer.data.annotations import AnnotatedClip, Region
from trainer.data.dis_flow import DisFlow
from trainer.data.footage import Footage
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
from trainer.pseudo_anomalies.segments import camera_views, segment_views

HISTORY = (1, 2)
GRID = (64 // CELL_PX, 96 // CELL_PX)
STEPS = 30


NOBODY_SAID, NORMAL, ANOMALY, OUT, PERHAPS = (0, 0, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (1, 1, 1)
"""Of a cell: is it anomalous, is it left out, was it told?"""


def row(values):
    return torch.tensor(values, dtype=torch.float32)[None, None, None]


def looked(known, strange=0.0, drawn=0.0, scene=0.0, code=None):
    """A row of cells that are known to be so, and what the judge thought of them; and where they were told."""
    anomalous, ignored, told = (row(part) for part in zip(*known, strict=True))
    resize_to = torch.zeros_like(anomalous)
    pictures = [(resize_to + torch.as_tensor(picture)).expand(1, 3, 1, len(known)) for picture in (drawn, scene)]
    judgement = AnomalyOutput(resize_to + torch.as_tensor(strange), resize_to, pictures[0], code)
    return AnomalyPrediction(judgement, pictures[1], anomalous, ignored), told > 0.5


def test_of_what_is_perhaps_anomalous_the_strangest_tenth_is_taken_once_it_is_suspicious():
    logits = torch.linspace(-6.0, 3.0, 30)
    settled = select_instances(looked([PERHAPS] * 30, logits)[0])
    assert (settled.ignored[0, 0, 0] == 0).nonzero().flatten().tolist() == [26, 27, 28, 29]
    assert select_instances(looked([PERHAPS] * 30, logits - 5.0)[0]).ignored.min() == 1
    others, _ = looked([NOBODY_SAID, NORMAL, ANOMALY, OUT], 9.0)
    assert torch.equal(select_instances(others).ignored, others.ignored)


@pytest.mark.parametrize(
    ("known", "drawn", "loss"),
    [
        ([NORMAL, ANOMALY, OUT, NOBODY_SAID], [1.0, 0.0, 9.0, 9.0], 0.0),
        ([NORMAL, ANOMALY, OUT, NOBODY_SAID], [1.0, 2.0, 9.0, 9.0], 2.0 / 4),
        ([NORMAL, ANOMALY, OUT, NOBODY_SAID], [0.0, 0.0, 9.0, 9.0], 1.0 / 4),
        ([NOBODY_SAID, NOBODY_SAID, OUT, NOBODY_SAID], [0.0, 0.0, 4.0, 8.0], 3.0 / 4),
    ],
)
def test_a_labelled_anomaly_should_be_drawn_as_nothing_and_a_labelled_normal_cell_as_it_is(known, drawn, loss):
    found = annotated_scene_loss(*looked(known, drawn=torch.tensor(drawn), scene=torch.tensor([1.0, 2.0, 4.0, 8.0])))
    assert float(found) == pytest.approx(loss)


@pytest.mark.parametrize(
    ("known", "loss"),
    [([NORMAL, ANOMALY], 5.0 + 2.0), ([ANOMALY, NORMAL], 0.2 + 0.5), ([NORMAL, NORMAL], 2.75), ([NOBODY_SAID, OUT], 0.0)],
)
def test_codes_should_be_short_where_a_false_alarm_was_and_long_where_an_anomaly_was(known, loss):
    code = torch.tensor([[3.0, 0.5], [4.0, 0.0]])[None, :, None, :]  # lengths 5 and 0.5
    seen, told = looked(known, code=code)
    fine = seen._replace(anomalous=seen.anomalous.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert float(annotated_entropy_loss(fine, told.repeat_interleave(2, 2).repeat_interleave(2, 3))) == pytest.approx(loss)


def thing_in(street, seed):
    """A street with a striped thing in it that goes as fast as everybody does, and the box that it crosses."""
    frames = street(14, 1.0, seed)
    top, left = 6 + 9 * seed, 20
    stripes = np.tile(np.repeat([20, 235], 4), 3)[None, :].repeat(16, axis=0).astype(np.uint8)
    for number, frame in enumerate(frames):
        frame[top : top + 16, left + number : left + number + 24] = stripes
    return frames, Region(left, top, 24 + len(frames), 16)


def footage(name, frames):
    return Footage(name, frames[..., None], np.arange(len(frames)), len(frames), ())


@pytest.fixture(scope="module")
def crowds(street):
    return segment_views(
        camera_views([footage(str(seed), street(60, 1.0, seed)) for seed in range(4)]), 60, DisFlow(), lambda: None
    )


def network():
    torch.manual_seed(0)
    return TrainableNetworks(FlowNet(len(HISTORY), 4, 12, 8), AnomalyNet(12, 8, 12, 4), HISTORY, 1e-2)


def strangeness_of_the_thing(parts, street):
    """On average, in a video and a place in which nobody marked it."""
    frames, region = thing_in(street, 3)
    rows, columns = (slice(a // CELL_PX, (a + s) // CELL_PX) for a, s in ((region.y, region.height), (region.x, region.width)))
    clips = torch.from_numpy(np.stack([frames[[n, n - 1, n - 2]] for n in range(2, len(frames))])).float()
    with torch.no_grad():
        place = position_grid(GRID).expand(len(clips), -1, -1, -1)
        judged = parts.anomaly_net(normalise_frames(clips[:, :1]), parts.flow_net(clips), place)
    return float(torch.sigmoid(judged.anomaly[:, 0, rows, columns]).mean())


def trained(crowds, street, alone, *, anomalous):
    """The strangeness of the thing after a short training in which it was marked."""
    frames, region = thing_in(street, 0)
    parts = network()
    mark = AnnotatedClip(footage("marked", frames), 2, len(frames) - 1, anomalous, region, "here")
    shown = find_annotated_frames([mark], crowds, HISTORY[-1], 20, DisFlow(), lambda: None)
    learner = FeedbackLearner(parts.anomaly_net, parts)
    samples = AnnotatedSamples(SceneSource(crowds, HISTORY), *((shown, []) if anomalous else ([], shown)))
    for step in range(STEPS):
        learner.learn(samples.draw(torch.arange(8) + 8 * step), 0.1 + 0.9 * step / STEPS, alone)
    return strangeness_of_the_thing(parts, street)


def test_what_was_marked_as_an_anomaly_becomes_strange_elsewhere_and_what_was_a_false_alarm_does_not(crowds, street, alone):
    assert trained(crowds, street, alone, anomalous=True) > 0.2 + trained(crowds, street, alone, anomalous=False)


def test_validation_is_that_of_a_run_without_marks(crowds):
    samples = PseudoAnomalySamples(SceneSource(crowds, HISTORY)).draw(torch.arange(4)).samples
    parts = network()
    plain, taught = AnomalyLearner(parts.anomaly_net, parts), FeedbackLearner(parts.anomaly_net, parts)
    torch.manual_seed(0)
    parts.anomaly_net.init_weights()
    assert float(taught.validation_loss(samples).detach()) == float(plain.validation_loss(samples).detach())
