"""Run by torchrun: one step of every model on a batch that the processes share; the first one saves all gradients.

In double precision, so that nothing but a mistake can make the gradients differ. Then the command whose arguments follow, if any.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from trainer import cli
from trainer.models.registry import RECIPES, recipe
from trainer.models.video_ede.learners import AnomalyLearner, FeedbackLearner, FlowLearner, TrainableNetworks
from trainer.models.video_ede.model import HISTORY, VideoEde, VideoEdeConfig
from trainer.models.video_ganomaly import VideoGanomalyConfig, VideoGanomalyLearner, VideoGenerator
from trainer.training.distributed import DistributedContext
from trainer.training.interfaces import ANOMALY, Batch, Learner

BATCH = 8
SMALL = {"ganomaly": {"width": 4, "latent": 6}, "ama": {}, "esad": {}}


def learners() -> dict[str, Learner]:
    config = VideoGanomalyConfig(width=4, latent_channels=4)
    found: dict[str, Learner] = {"video-ganomaly": VideoGanomalyLearner(VideoGenerator(config), config)}
    for name in RECIPES:
        settings = recipe(name).configure(SMALL[name])
        for shape in ((1, 16, 16), (7,)):
            found[f"{name}/{len(shape)}"] = recipe(name).learner(recipe(name).detector(settings, shape), settings)
    return found | video_ede_learners()


def video_ede_learners() -> dict[str, Learner]:
    found: dict[str, Learner] = {}
    for name, make in (("flow", FlowLearner), ("anomaly", AnomalyLearner), ("feedback", FeedbackLearner)):
        config = VideoEdeConfig(first=4, fine=12, coarse=12, width=12, latent=4)
        network = VideoEde(config)
        found[f"video-ede/{name}"] = make(
            network, TrainableNetworks(network.motion, network.judge, HISTORY, config.learning_rate)
        )
    return found


def batch_for(name: str) -> Batch:
    if name.startswith("video-ede"):
        return Batch(video_ede_samples(name), torch.ones(BATCH))
    shape = {"video-ganomaly": (3, 16, 16)}.get(name, (7,) if name.endswith("/1") else (1, 16, 16))
    labels = torch.ones(BATCH)
    if "esad" in name or "ama" in name:
        labels[[1, 6, 7]] = ANOMALY  # unequally spread over the processes
    return Batch(torch.rand(BATCH, *shape) * 2 - 1, labels)


def video_ede_samples(name: str) -> torch.Tensor:
    frames = 1 + len(HISTORY)
    if name.endswith("flow"):
        return torch.cat([255 * torch.rand(BATCH, frames, 64, 64), torch.randn(BATCH, 2, 64, 64)], dim=1)
    pictures, place = 255 * torch.rand(BATCH, 2 * frames, 64, 64), torch.rand(BATCH, 2, 64, 64)
    marks = torch.kron(torch.rand(BATCH, 3, 4, 4) ** 2, torch.ones(16, 16)).round()  # unequally spread over the processes
    samples = [pictures, marks[:, :2], place, marks[:, 2:]]
    return torch.cat(samples if name.endswith("feedback") else samples[:-1], dim=1)


def gradients(learner: Learner) -> dict[str, torch.Tensor]:
    return {
        f"{player}/{name}": parameter.grad
        for player, module in learner.modules.items()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def save_gradients(out: Path) -> None:
    torch.set_default_dtype(torch.float64)
    context = DistributedContext(accelerator="cpu")
    torch.manual_seed(0)
    saved = {}
    for name, learner in learners().items():
        torch.manual_seed(1)
        batch = Batch(*(context.local_part(part) for part in batch_for(name)))
        learner.learn(batch, 0.5, context)
        saved |= {f"{name}/{key}": gradient.contiguous() for key, gradient in gradients(learner).items()}
    if context.rank == 0:
        save_file(saved, out)


if __name__ == "__main__":
    save_gradients(Path(sys.argv.pop(1)))
    if len(sys.argv) > 1:
        torch.set_default_dtype(torch.float32)
        cli.main()
