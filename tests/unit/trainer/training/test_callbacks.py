from dataclasses import replace

import pytest
import torch

from tests.harness.toy_model import ToyLearner
from trainer.errors import CheckpointUnusable
from trainer.models.registry import RECIPES, recipe
from trainer.training.callbacks import Checkpoints
from trainer.training.loop import Callback, LoopSettings, Progress, TensorSamples, TrainingData, TrainingState, run_loop

SMALL = {
    "ganomaly": {"width": 4, "latent": 6, "hidden": (8,)},
    "ama": {"encoder_width": 4, "critic_width": 4, "generator_width": 4, "warm_up_share": 0.0},
    "esad": {"widths": (4, 6)},
}
ROWS = torch.randn(40, 4, generator=torch.Generator().manual_seed(3))
DATA = TrainingData(TensorSamples(ROWS, torch.ones(40)), ROWS[:8])


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path, {"seed": 1, "footage": [["a", 10]]})


def new_learner(seed: int) -> ToyLearner:
    torch.manual_seed(seed)
    return ToyLearner()


def save(checkpoints: Checkpoints, step: int) -> None:
    checkpoints.save(new_learner(1), TrainingState(Progress(step, 1.0)))


class Interrupter(Callback):
    """Resumes; saves a checkpoint after a step and interrupts the run there."""

    def __init__(self, checkpoints: Checkpoints, stop_after: int | None) -> None:
        self.checkpoints, self.stop_after = checkpoints, stop_after

    def resume(self, learner):
        return self.checkpoints.load(learner) or TrainingState()

    def on_step_end(self, learner, state, losses):
        if state.progress.step == self.stop_after:
            self.checkpoints.save(learner, state)
            raise KeyboardInterrupt


@pytest.mark.parametrize("patience", [None, 50])
def test_resumed_run_is_bit_identical(alone, checkpoints, patience):
    settings = LoopSettings(seed=5, batch=8, steps=23, validate_every_steps=3, patience=patience)
    whole, first, second = new_learner(1), new_learner(1), new_learner(2)
    progress = run_loop(whole, DATA, settings, alone, Callback())
    with pytest.raises(KeyboardInterrupt):
        run_loop(first, DATA, settings, alone, Interrupter(checkpoints, 13))
    resumed = run_loop(second, DATA, settings, alone, Interrupter(checkpoints, None))
    assert second.steps == 10
    assert replace(resumed, elapsed_s=0.0) == replace(progress, elapsed_s=0.0)
    for name, value in whole.detector.state_dict().items():
        assert torch.equal(value, second.detector.state_dict()[name]), name
    states = (learner.optimisers["detector"].state_dict()["state"] for learner in (whole, second))
    for before, after in zip(*(state.values() for state in states), strict=True):
        assert all(torch.equal(before[key], after[key]) for key in ("step", "exp_avg", "exp_avg_sq"))


@pytest.mark.parametrize("model", RECIPES)
@pytest.mark.parametrize("shape", [(1, 16, 16), (6,)], ids=["pictures", "tables"])
def test_every_model_resumes_bit_identical(alone, checkpoints, model, shape):
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
        run(1, Interrupter(checkpoints, 4))
    resumed = run(2, Interrupter(checkpoints, None))
    for player, module in whole.modules.items():
        for name, value in module.state_dict().items():
            assert torch.equal(value, resumed.modules[player].state_dict()[name]), f"{player} {name}"


def test_best_weights_are_restored(checkpoints):
    learner, progress = new_learner(1), Progress(7, 1.0, 0.5, 4, 1)
    best = {name: value + 1 for name, value in learner.detector.state_dict().items()}
    checkpoints.save(learner, TrainingState(progress, best))
    loaded = checkpoints.load(new_learner(2))
    assert loaded.progress == progress
    assert all(torch.equal(loaded.best[name], value) for name, value in best.items())


def test_load_without_checkpoint(checkpoints):
    assert checkpoints.load(new_learner(1)) is None


def test_old_checkpoint_is_deleted(checkpoints):
    for step in (1, 2):
        save(checkpoints, step)
    assert [path.name for path in checkpoints.folder.glob("*.safetensors")] == ["step-00000002.safetensors"]


def test_interrupted_save_keeps_previous_checkpoint(checkpoints):
    save(checkpoints, 1)
    (checkpoints.folder / "step-00000002.safetensors").write_bytes(b"cut short")
    (checkpoints.folder / "state.json.new").write_text('{"file": "step-00')
    assert checkpoints.load(new_learner(2)).progress == Progress(1, 1.0)


def test_rejects_checkpoint_of_another_run(checkpoints):
    save(checkpoints, 1)
    other = replace(checkpoints, identity={**checkpoints.identity, "seed": 2})
    with pytest.raises(CheckpointUnusable, match=r"made with seed = 1, this run has 2; .*delete the folder"):
        other.load(new_learner(1))


def test_rejects_damaged_checkpoint(checkpoints):
    save(checkpoints, 1)
    next(checkpoints.folder.glob("*.safetensors")).write_bytes(b"\x00" * 40)
    with pytest.raises(CheckpointUnusable, match=r"damaged .* delete the folder to start again"):
        checkpoints.load(new_learner(1))
