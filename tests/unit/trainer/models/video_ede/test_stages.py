from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.trainer.pseudo_anomalies.walk import Frames, footage, road, walk
from trainer.data.clips import Split
from trainer.errors import TooLittleFootage
from trainer.models.base import TrainingStage
from trainer.models.video_ede.model import VideoEde, VideoEdeConfig

SMALL = VideoEdeConfig(height_px=64, width_px=96, first=4, fine=16, coarse=12, width=12, latent=4)


@contextmanager
def silent(what: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda _: None


def stages(learned: list[Frames], held_out: list[Frames], network: VideoEde | None = None) -> Iterator[TrainingStage]:
    split = Split(tuple(map(footage, learned)), tuple(map(footage, held_out)))
    return (network or VideoEde(SMALL)).stages(split, silent)


@pytest.fixture(scope="module")
def both() -> list[TrainingStage]:
    torch.manual_seed(0)
    return list(stages([walk(50, 1.5), walk(50, 1.5, top=40)], [walk(40, 1.5, top=10)]))


def test_flow_stage_precedes_anomaly_stage(both):
    assert [stage.name for stage in both] == ["flow", "anomaly"]
    assert sum(stage.time_share for stage in both) == pytest.approx(1.0)
    assert not any(stage.early_stopping for stage in both)


def test_stages_give_losses_and_images(both):
    for stage in both:
        held_out = stage.data.validation
        assert held_out is not None
        assert held_out.shape == stage.train_samples.shape
        assert not torch.equal(held_out, stage.train_samples)
        with torch.no_grad():
            losses = [float(stage.learner.validation_loss(samples[:4])) for samples in (held_out, stage.train_samples)]
            seen, drawn = stage.log_images(held_out[:3])
        assert np.isfinite(losses).all()
        assert seen.shape == drawn.shape
        assert len(seen) == 3


def test_stages_are_prepared_lazily(monkeypatch):
    begun = []
    monkeypatch.setattr("trainer.models.video_ede.stages.segment_views", lambda *_: begun.append(1) or [])
    next(stages([walk(50, 1.5)], [walk(40, 1.5)]))
    assert begun == []


def test_learners_train_the_served_network(both):
    network = VideoEde(SMALL)
    learners = [stage.learner for stage in stages([walk(20, 1.5)], [walk(20, 1.5)], network)]
    assert all(learner.modules["detector"] is network for learner in learners)
    taught: set[int] = set()
    for learner in learners:
        (optimiser,) = learner.optimisers.values()
        taught |= {id(parameter) for group in optimiser.param_groups for parameter in group["params"]}
    assert taught == {id(parameter) for parameter in network.parameters()}


def drawn(stage: TrainingStage, numbers: range) -> Tensor:
    return stage.data.samples.draw(torch.tensor(numbers)).samples


def test_skips_short_videos():
    """Two of four videos have two frames."""
    short = [walk(2, 1.5, street=road(seed)) for seed in (8, 9)]
    for stage in stages([walk(20, 1.5), short[0]], [walk(20, 1.5), short[1]]):
        assert torch.isfinite(drawn(stage, range(40))).all()


@pytest.mark.parametrize("part", ["learned", "held_out"])
def test_rejects_short_footage(part):
    long, short = [walk(20, 1.5)], [walk(2, 1.5), walk(1, 1.5)]
    with pytest.raises(TooLittleFootage, match="no video has 3 frames"):
        next(stages(short, long) if part == "learned" else stages(long, short))
