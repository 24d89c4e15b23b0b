import math
from dataclasses import replace

import pytest
import torch

from tests.harness.toy_model import ToyLearner
from trainer.errors import TrainingDiverged
from trainer.training.loop import Callback, LoopSettings, Progress, TensorSamples, TrainingData, run_loop

ROWS = torch.randn(50, 4, generator=torch.Generator().manual_seed(3))
DATA = TrainingData(TensorSamples(ROWS, torch.ones(50)))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Recorder(Callback):
    def __init__(self) -> None:
        self.losses, self.validations, self.threads = [], [], set()

    def on_step_end(self, learner, state, losses):
        self.losses.append(losses)
        self.threads.add(torch.get_num_threads())

    def on_validation_end(self, learner, state, loss):
        self.validations.append(loss)

    def last_checkpoint(self):
        return "the last good checkpoint is X"


def settings(**changes) -> LoopSettings:
    return LoopSettings(**{"seed": 1, "batch": 8, "steps": 12, **changes})


def test_epochs_are_shuffled(alone):
    learner = ToyLearner()
    run_loop(learner, DATA, settings(), alone, Callback())
    first, second = torch.cat(learner.seen[:6]), torch.cat(learner.seen[6:])
    assert len({tuple(row.tolist()) for row in first}) == len(first) == 48
    assert not torch.equal(first, second)
    assert {row.tobytes() for row in first.numpy()} <= {row.tobytes() for row in ROWS.numpy()}


def test_seed_determines_weights(alone):
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        learner = ToyLearner()
        run_loop(learner, DATA, settings(seed=seed), alone, Callback())
        weights.append(learner.detector.body[0].weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_learning_rate_schedule(alone):
    learner = ToyLearner(rate=0.4)
    run_loop(learner, DATA, settings(steps=4), alone, Callback())
    assert learner.shares == [0.0, 0.25, 0.5, 0.75]
    assert learner.optimisers["detector"].param_groups[0]["lr"] == pytest.approx(0.4 * 0.25)


def test_ends_after_max_minutes(alone):
    progress = run_loop(ToyLearner(), DATA, settings(steps=None, max_minutes=0.001), alone, Callback())
    assert progress.step > 0
    assert progress.elapsed_s >= 0.06


def test_fewer_samples_than_a_batch(alone):
    learner = ToyLearner()
    run_loop(learner, TrainingData(TensorSamples(ROWS[:3], torch.ones(3))), settings(steps=2), alone, Callback())
    assert [len(batch) for batch in learner.seen] == [3, 3]


def test_loss_decreases(alone):
    recorder = Recorder()
    run_loop(ToyLearner(), DATA, settings(steps=300), alone, recorder)
    assert recorder.losses[-1]["error"] < 0.6 * recorder.losses[0]["error"]


def test_early_stopping_keeps_best_weights(alone):
    """The learning rate is far too high, so the loss soon stops decreasing."""
    recorder, learner = Recorder(), ToyLearner(rate=30.0)
    data = TrainingData(DATA.samples, ROWS[:8])
    progress = run_loop(learner, data, settings(steps=500, validate_every_steps=5, patience=3), alone, recorder)
    assert progress.step < 500
    assert progress.stale_validations == 3
    assert len(recorder.validations) == progress.step // 5
    assert progress.best_loss == min(recorder.validations)
    assert progress.best_step == 5 * (recorder.validations.index(progress.best_loss) + 1)
    assert float(learner.validation_loss(ROWS[:8]).detach()) == progress.best_loss < recorder.validations[-1]


def test_validation_loss_is_mean_over_parts(alone):
    recorder, learner = Recorder(), ToyLearner()
    run_loop(learner, TrainingData(DATA.samples, ROWS.repeat(3, 1)), settings(steps=4, validate_every_steps=4), alone, recorder)
    assert recorder.validations == [pytest.approx(float(learner.validation_loss(ROWS).detach()), rel=1e-5)]


def test_nan_loss_ends_run_and_spoils_no_weight(alone):
    learner = ToyLearner(poison_at=5)
    with pytest.raises(TrainingDiverged, match=r"step 5: detector: the term shaken is nan; the last good checkpoint is X"):
        run_loop(learner, DATA, settings(), alone, Recorder())
    assert learner.steps == 6
    assert all(torch.isfinite(parameter).all() for parameter in learner.detector.parameters())


def test_progress_counts_stale_validations():
    progress = Progress(step=10).after_validation(2.0)
    assert (progress.best_loss, progress.best_step, progress.stale_validations) == (2.0, 10, 0)
    assert progress.after_validation(2.0).after_validation(math.nan).stale_validations == 2
    assert progress.after_validation(1.0).stale_validations == 0


def test_prefetch_keeps_order_and_frees_a_thread(alone):
    batches, recorder = [], Recorder()
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for data in (DATA, replace(DATA, prefetch=True)):
            learner, recorder = ToyLearner(), Recorder()
            run_loop(learner, data, settings(), alone, recorder)
            batches.append(torch.cat(learner.seen))
        assert torch.equal(*batches)
        assert (recorder.threads, torch.get_num_threads()) == ({2}, 3)
    finally:
        torch.set_num_threads(before)
