import pytest
import torch
from torch import nn

from trainer.checkpoint import Progress, Trained, drop_checkpoint, load_checkpoint, save_checkpoint
from trainer.errors import CheckpointUnusable

IDENTITY = {"seed": 1, "footage": [["a", 10]]}


def trained(seed: int, steps: int) -> Trained:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    optimiser = torch.optim.Adam(module.parameters())
    for _ in range(steps):
        optimiser.zero_grad()
        module(torch.randn(2, 1, 4, 4)).square().sum().backward()
        optimiser.step()
    return Trained({"net": module}, {"net_optimiser": optimiser})


def test_modules_and_optimisers_come_back_bit_for_bit(tmp_path):
    saved = trained(1, steps=3)
    save_checkpoint(tmp_path, saved, Progress(3, 4.5), IDENTITY)
    loaded = trained(2, steps=0)
    assert load_checkpoint(tmp_path, loaded, IDENTITY) == Progress(3, 4.5)
    for before, after in zip(
        saved.modules["net"].state_dict().values(), loaded.modules["net"].state_dict().values(), strict=True
    ):
        assert torch.equal(before, after)
    states = (checkpoint.optimisers["net_optimiser"].state_dict()["state"] for checkpoint in (saved, loaded))
    for before, after in zip(*(state.values() for state in states), strict=True):
        assert all(torch.equal(before[key], after[key]) for key in ("step", "exp_avg", "exp_avg_sq"))


def test_no_checkpoint_is_no_error(tmp_path):
    assert load_checkpoint(tmp_path / "none", trained(1, steps=0), IDENTITY) is None


def test_only_the_newest_checkpoint_is_kept(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, trained(1, steps=step), Progress(step, 1.0), IDENTITY)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["step-00000002.safetensors"]


def test_a_write_that_was_cut_short_leaves_the_checkpoint_before_it(tmp_path):
    save_checkpoint(tmp_path, trained(1, steps=1), Progress(1, 1.0), IDENTITY)
    (tmp_path / "step-00000002.safetensors").write_bytes(b"cut short")
    (tmp_path / "state.json.new").write_text('{"file": "step-00')
    assert load_checkpoint(tmp_path, trained(2, steps=0), IDENTITY) == Progress(1, 1.0)


def test_another_runs_checkpoint_is_refused_and_the_difference_named(tmp_path):
    save_checkpoint(tmp_path, trained(1, steps=1), Progress(1, 1.0), IDENTITY)
    with pytest.raises(CheckpointUnusable, match=r"made with seed = 1, this run has 2; .*delete the folder"):
        load_checkpoint(tmp_path, trained(1, steps=0), {**IDENTITY, "seed": 2})


def test_a_damaged_checkpoint_says_what_to_do(tmp_path):
    save_checkpoint(tmp_path, trained(1, steps=1), Progress(1, 1.0), IDENTITY)
    next(tmp_path.glob("*.safetensors")).write_bytes(b"\x00" * 40)
    with pytest.raises(CheckpointUnusable, match=r"damaged .* delete the folder to begin again"):
        load_checkpoint(tmp_path, trained(1, steps=0), IDENTITY)


def test_a_finished_run_leaves_nothing(tmp_path):
    save_checkpoint(tmp_path / "c", trained(1, steps=1), Progress(1, 1.0), IDENTITY)
    drop_checkpoint(tmp_path / "c")
    assert not (tmp_path / "c").exists()
