import pytest
import torch

from tests.harness.toy_model import ToyLearner
from trainer.errors import CheckpointUnusable
from trainer.models.registry import RECIPES, recipe
from trainer.training.callbacks import drop_checkpoint, load_checkpoint, save_checkpoint
from trainer.training.loop import Callback, LoopSettings, Progress, TensorSamples, TrainingData, TrainingState, run_loop

SMALL = {
    "ganomaly": {"width": 4, "latent": 6, "hidden": (8,)},
    "ama": {"encoder_width": 4, "critic_width": 4, "generator_width": 4, "warm_up_share": 0.0},
    "esad": {"widths": (4, 6)},
}
IDENTITY = {"seed": 1, "footage": [["a", 10]]}
ROWS = torch.randn(40, 4, generator=torch.Generator().manual_seed(3))
MATERIAL = TrainingData(TensorSamples(ROWS, torch.ones(40)), ROWS[:8])


def fresh(seed: int) -> ToyLearner:
    torch.manual_seed(seed)
    return ToyLearner()


def save(folder, step: int) -> ToyLearner:
    learner = fresh(1)
    save_checkpoint(folder, learner, TrainingState(Progress(step, 1.0)), IDENTITY)
    return learner


class Saver(Callback):
    """Saves after some step and is then interrupted; or goes on from there."""

    def __init__(self, folder, stop_after: int | None) -> None:
        self.folder, self.stop_after = folder, stop_after

    def resume(self, learner):
        return load_checkpoint(self.folder, learner, IDENTITY) or TrainingState()

    def on_step_end(self, learner, state, losses):
        if state.progress.step == self.stop_after:
            save_checkpoint(self.folder, learner, state, IDENTITY)
            raise KeyboardInterrupt


@pytest.mark.parametrize("patience", [None, 50])
def test_a_run_that_was_interrupted_and_goes_on_ends_with_the_same_bits(alone, tmp_path, patience):
    settings = LoopSettings(seed=5, batch=8, steps=23, validate_every_steps=3, patience=patience)
    whole, first, second = fresh(1), fresh(1), fresh(2)
    until = run_loop(whole, MATERIAL, settings, alone, Callback())
    with pytest.raises(KeyboardInterrupt):
        run_loop(first, MATERIAL, settings, alone, Saver(tmp_path, 13))
    resumed = run_loop(second, MATERIAL, settings, alone, Saver(tmp_path, None))
    assert second.steps == 10
    assert (resumed.step, resumed.best_loss, resumed.best_step, resumed.stale) == (
        until.step,
        until.best_loss,
        until.best_step,
        until.stale,
    )
    for name, value in whole.detector.state_dict().items():
        assert torch.equal(value, second.detector.state_dict()[name]), name
    states = (learner.optimisers["detector"].state_dict()["state"] for learner in (whole, second))
    for before, after in zip(*(state.values() for state in states), strict=True):
        assert all(torch.equal(before[key], after[key]) for key in ("step", "exp_avg", "exp_avg_sq"))


@pytest.mark.parametrize("model", RECIPES)
@pytest.mark.parametrize("shape", [(1, 16, 16), (6,)], ids=["pictures", "tables"])
def test_every_models_run_goes_on_to_the_same_bits(alone, tmp_path, model, shape):
    config = recipe(model).configure(SMALL[model])
    samples = torch.rand(24, *shape, generator=torch.Generator().manual_seed(4)) * 2 - 1
    data = TrainingData(TensorSamples(samples, torch.ones(24)), samples[:4])
    settings = LoopSettings(seed=5, batch=8, steps=6, validate_every_steps=2, patience=9)

    def run(seed: int, callback: Callback):
        torch.manual_seed(seed)
        learner = recipe(model).learner(recipe(model).detector(config, shape), config)
        run_loop(learner, data, settings, alone, callback)
        return learner

    whole = run(1, Callback())
    with pytest.raises(KeyboardInterrupt):
        run(1, Saver(tmp_path, 4))
    resumed = run(2, Saver(tmp_path, None))
    for player, module in whole.modules.items():
        for name, value in module.state_dict().items():
            assert torch.equal(value, resumed.modules[player].state_dict()[name]), f"{player} {name}"


def test_the_best_weights_so_far_come_back_too(tmp_path):
    learner = fresh(1)
    best = {name: value + 1 for name, value in learner.detector.state_dict().items()}
    save_checkpoint(tmp_path, learner, TrainingState(Progress(7, 1.0, 0.5, 4, 1), best), IDENTITY)
    found = load_checkpoint(tmp_path, fresh(2), IDENTITY)
    assert found.progress == Progress(7, 1.0, 0.5, 4, 1)
    assert all(torch.equal(found.best[name], value) for name, value in best.items())


def test_no_checkpoint_is_no_error(tmp_path):
    assert load_checkpoint(tmp_path / "none", fresh(1), IDENTITY) is None


def test_only_the_newest_checkpoint_is_kept(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["step-00000002.safetensors"]


def test_a_write_that_was_cut_short_leaves_the_checkpoint_before_it(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "step-00000002.safetensors").write_bytes(b"cut short")
    (tmp_path / "state.json.new").write_text('{"file": "step-00')
    assert load_checkpoint(tmp_path, fresh(2), IDENTITY).progress == Progress(1, 1.0)


def test_another_runs_checkpoint_is_refused_and_the_difference_named(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(CheckpointUnusable, match=r"made with seed = 1, this run has 2; .*delete the folder"):
        load_checkpoint(tmp_path, fresh(1), {**IDENTITY, "seed": 2})


def test_a_damaged_checkpoint_says_what_to_do(tmp_path):
    save(tmp_path, 1)
    next(tmp_path.glob("*.safetensors")).write_bytes(b"\x00" * 40)
    with pytest.raises(CheckpointUnusable, match=r"damaged .* delete the folder to begin again"):
        load_checkpoint(tmp_path, fresh(1), IDENTITY)


def test_a_finished_run_leaves_nothing(tmp_path):
    save(tmp_path / "c", 1)
    drop_checkpoint(tmp_path / "c")
    assert not (tmp_path / "c").exists()
