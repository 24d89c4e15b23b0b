import math
from dataclasses import replace

import pytest
import torch

from tests.harness.toy_model import ToyLearner
from trainer.errors import TrainingDiverged
from trainer.training.loop import Callback, LoopSettings, Progress, TensorSamples, TrainingData, run_loop, steps_of

ROWS = torch.randn(50, 4, generator=torch.Generator().manual_seed(3))
DATA = TrainingData(TensorSamples(ROWS, torch.ones(50)))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Listener(Callback):
    def __init__(self) -> None:
        self.losses, self.validations = [], []

    def on_step_end(self, learner, state, losses):
        self.losses.append(losses)

    def on_validation_end(self, learner, state, loss):
        self.validations.append(loss)


def settings(**changes) -> LoopSettings:
    return LoopSettings(**{"seed": 1, "batch": 8, "steps": 12, **changes})


def test_an_epoch_shows_every_sample_once_but_the_odd_ones_and_the_next_in_another_order(alone):
    learner = ToyLearner()
    run_loop(learner, DATA, settings(), alone, Callback())
    first, second = torch.cat(learner.seen[:6]), torch.cat(learner.seen[6:])
    assert len({tuple(row.tolist()) for row in first}) == len(first) == 48
    assert not torch.equal(first, second)
    assert {row.tobytes() for row in first.numpy()} <= {row.tobytes() for row in ROWS.numpy()}


def test_the_same_seed_gives_the_same_weights_and_another_one_others(alone):
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        learner = ToyLearner()
        run_loop(learner, DATA, settings(seed=seed), alone, Callback())
        found.append(learner.detector.body[0].weight.detach())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_rates_follow_the_share_of_the_run_that_is_over(alone):
    learner = ToyLearner(rate=0.4)
    run_loop(learner, DATA, settings(steps=4), alone, Callback())
    assert learner.shares == [0.0, 0.25, 0.5, 0.75]
    assert learner.optimisers["detector"].param_groups[0]["lr"] == pytest.approx(0.4 * 0.25)


def test_time_ends_a_run_as_well_as_steps_do(alone):
    progress = run_loop(ToyLearner(), DATA, settings(steps=None, max_minutes=0.001), alone, Callback())
    assert progress.step > 0
    assert progress.elapsed_s >= 0.06


def test_fewer_samples_than_a_batch_are_a_batch(alone):
    learner = ToyLearner()
    run_loop(learner, TrainingData(TensorSamples(ROWS[:3], torch.ones(3))), settings(steps=2), alone, Callback())
    assert [len(seen) for seen in learner.seen] == [3, 3]


def test_training_makes_the_loss_small(alone):
    listener = Listener()
    run_loop(ToyLearner(), DATA, settings(steps=300), alone, listener)
    assert listener.losses[-1]["error"] < 0.6 * listener.losses[0]["error"]


def test_a_run_stops_when_held_out_samples_get_no_better_and_keeps_the_best_weights(alone):
    """The rate is far too high, so the loss does not go down for long."""
    listener, learner = Listener(), ToyLearner(rate=30.0)
    data = TrainingData(DATA.samples, ROWS[:8])
    progress = run_loop(learner, data, settings(steps=500, validate_every_steps=5, patience=3), alone, listener)
    assert progress.step < 500
    assert progress.stale == 3
    assert len(listener.validations) == progress.step // 5
    assert progress.best_loss == min(listener.validations)
    assert progress.best_step == 5 * (listener.validations.index(progress.best_loss) + 1)
    assert float(learner.validation_loss(ROWS[:8]).detach()) == progress.best_loss < listener.validations[-1]


def test_validation_of_many_samples_is_the_mean_over_all_of_them(alone):
    listener, learner = Listener(), ToyLearner()
    run_loop(learner, TrainingData(DATA.samples, ROWS.repeat(3, 1)), settings(steps=4, validate_every_steps=4), alone, listener)
    assert listener.validations == [pytest.approx(float(learner.validation_loss(ROWS).detach()), rel=1e-5)]


def test_a_loss_that_is_no_number_ends_the_run_with_step_term_and_checkpoint_and_spoils_no_weight(alone):
    class Kept(Callback):
        def last_checkpoint(self):
            return "the last good checkpoint is X"

    learner = ToyLearner(poison_at=5)
    with pytest.raises(TrainingDiverged, match=r"step 5: detector: the term shaken is nan; the last good checkpoint is X"):
        run_loop(learner, DATA, settings(), alone, Kept())
    assert learner.steps == 6
    assert all(torch.isfinite(parameter).all() for parameter in learner.detector.parameters())


def test_a_gradient_that_is_no_number_is_told_from_a_term_that_is_none(alone):
    learner = ToyLearner()
    root = torch.zeros(())
    weight = learner.detector.body[0].weight
    terms = {"kinked": (weight.sum() * 0 + root).sqrt()}  # 0, with an infinite slope
    with pytest.raises(TrainingDiverged, match="every term is finite, but not the gradient"):
        alone.update("detector", learner.optimisers["detector"], terms, [weight])


def test_the_number_of_steps_of_some_epochs_leaves_out_odd_samples():
    assert steps_of(2, 50, 8) == 12
    assert steps_of(0.5, 50, 8) == 3
    assert steps_of(3, 5, 8) == 3


def test_progress_counts_validations_since_the_best():
    progress = Progress(step=10).validated(2.0)
    assert (progress.best_loss, progress.best_step, progress.stale) == (2.0, 10, 0)
    assert progress.validated(2.0).validated(math.nan).stale == 2
    assert progress.validated(1.0).stale == 0


def test_samples_drawn_ahead_are_those_that_would_have_been_drawn(alone):
    seen = []
    for data in (DATA, replace(DATA, ahead=True)):
        learner = ToyLearner()
        run_loop(learner, data, settings(), alone, Callback())
        seen.append(torch.cat(learner.seen))
    assert torch.equal(*seen)


def test_the_thread_that_draws_ahead_takes_the_place_of_one_of_torchs(alone):
    class Counting(Callback):
        def on_step_end(self, learner, state, losses):
            counted.add(torch.get_num_threads())

    counted: set[int] = set()
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        run_loop(ToyLearner(), replace(DATA, ahead=True), settings(steps=2), alone, Counting())
        assert (counted, torch.get_num_threads()) == ({2}, 3)
    finally:
        torch.set_num_threads(before)
