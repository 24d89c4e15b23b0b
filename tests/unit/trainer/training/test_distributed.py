import pytest
import torch

from tests.harness.toy_model import ToyLearner
from trainer.errors import TrainingDiverged
from trainer.models.registry import RECIPES, recipe
from trainer.training.distributed import DistributedContext
from trainer.training.loop import Callback, LoopSettings, TensorSamples, TrainingData, run_loop

SMALL = {"ganomaly": {"width": 4, "latent": 6}, "ama": {"critic_width": 4, "generator_width": 4}, "esad": {}}


def test_single_process(alone):
    values = torch.arange(6)
    assert (alone.rank, alone.world_size) == (0, 1)
    assert torch.equal(alone.local_part(values), values)
    torch.manual_seed(3)
    uniform, normal = alone.rand(4, 2), alone.randn(2)
    torch.manual_seed(3)
    assert torch.equal(uniform, torch.rand(4, 2))
    assert torch.equal(normal, torch.randn(2))


def test_update_of_given_parameters(alone):
    moved, left = (torch.nn.Parameter(torch.tensor([1.0])) for _ in range(2))
    optimiser = torch.optim.SGD([moved, left], lr=0.1)
    alone.update("player", optimiser, {"one": (moved * left * 2).sum(), "other": moved.square().sum()}, [moved])
    assert moved.tolist() == pytest.approx([1.0 - 0.1 * (2.0 + 2.0)])
    assert left.tolist() == [1.0]


def test_update_rejects_infinite_gradient(alone):
    learner = ToyLearner()
    weight = learner.detector.body[0].weight
    terms = {"kinked": (weight.sum() * 0 + torch.zeros(())).sqrt()}  # 0, with an infinite slope
    with pytest.raises(TrainingDiverged, match="every term is finite, but not the gradient"):
        alone.update("detector", learner.optimisers["detector"], terms, [weight])


@pytest.mark.parametrize("model", RECIPES)
def test_every_model_trains_in_bfloat16(model):
    context = DistributedContext("bf16", accelerator="cpu")
    torch.manual_seed(0)
    config = recipe(model).configure(SMALL[model])
    detector = recipe(model).detector(config, (1, 16, 16))
    learner = recipe(model).learner(detector, config)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    pictures = torch.rand(16, 1, 16, 16) * 2 - 1
    data = TrainingData(TensorSamples(pictures, torch.ones(16)))
    run_loop(learner, data, LoopSettings(seed=0, batch=8, steps=4), context, Callback())
    weights = dict(detector.named_parameters())
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert any(not torch.equal(value, before[name]) for name, value in weights.items())
    with torch.inference_mode():
        assert torch.isfinite(detector.eval()(pictures)).all()
    with context.autocast():
        assert (pictures[0, 0] @ pictures[0, 0]).dtype == torch.bfloat16
