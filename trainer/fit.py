"""The training run, top to bottom: footage in, bundle out."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor

from deploy.bundle import Bundle, ModelCard
from deploy.spec import ClipSpec
from trainer.calibrate import require_frames
from trainer.checkpoint import FOLDER_NAME, Progress, Trained, drop_checkpoint, load_checkpoint, save_checkpoint
from trainer.config import FitConfig, model_kind
from trainer.data import ClipBank, Split, frame_size, split_by_video
from trainer.finish import Finished, make_bundle
from trainer.footage import footage_shape, load_all, training_sources
from trainer.models.blocks import initialise
from trainer.models.motion import MotionView
from trainer.models.video_ganomaly import Discriminator, Serving
from trainer.report import TrainingBar, tell_footage, tell_resumed, tell_split
from trainer.step import Players, adam, check_finite, restart_collapsed, train_step

MAX_CLIPS = 20_000
"""More are thinned out: 60 KB a clip are held in memory."""
_STEPS_A_SEED = 1_000_000_007
"""Chance is seeded anew for each step, so that a resumed run throws the same dice."""


@dataclass(frozen=True, slots=True)
class Run:
    """All that does not change during a run."""

    config: FitConfig
    card: ModelCard
    spec: ClipSpec
    split: Split
    checkpoints: Path

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be gone on from."""
        return {
            "model": self.card.model_dump(),
            "seed": self.config.seed,
            "batch_clips": self.config.batch_clips,
            "learning_rate": self.config.learning_rate,
            "footage": [[video.name, len(video.frames)] for video in (*self.split.fit, *self.split.held_out)],
        }


def fit(data: Path, out: Path, config: FitConfig, console: Console) -> Bundle:
    """Train a model on the normal footage in ``data`` and write a bundle to ``out``; goes on where a stopped run was.

    Raises:
        OddsightError: no or too little footage, an unknown model, an unusable checkpoint, or a diverging loss.
    """
    run = prepare(data, out, config, console)
    network, metrics = train(run, console)
    with console.status("scale, calibration, export"):
        bundle = make_bundle(out, Finished(network, run.card, run.spec, metrics), run.split)
    drop_checkpoint(run.checkpoints)
    return bundle


def prepare(data: Path, out: Path, config: FitConfig, console: Console) -> Run:
    """Find, decode and split the footage, and settle what the network is; :func:`fit` without the training."""
    kind = model_kind(config.model)
    sources = training_sources(data)
    shape = footage_shape(sources)
    height_px, width_px = frame_size(shape, kind.frame_area_px)
    network = kind.configure({"height_px": height_px, "width_px": width_px, **config.network})
    spec = network.spec(shape.fps)
    footage = load_all(sources, spec, done=lambda clip: tell_footage(console, clip))
    split = split_by_video(footage, spec.length)
    require_frames(len(ClipBank(split.held_out, spec.length)))
    tell_split(console, split, spec)
    return Run(config, ModelCard(kind=kind.name, config=network.model_dump()), spec, split, out / FOLDER_NAME)


def train(run: Run, console: Console) -> tuple[Serving, dict[str, Any]]:
    """Train until time or steps are used up: the network to serve, and what to note of the run in the bundle."""
    torch.manual_seed(run.config.seed)
    fabric = Fabric(accelerator="auto", devices=1, precision="32-true")
    network = Serving(model_kind(run.config.model).configure(run.card.config)).to(fabric.device)
    players = _players(fabric, network, run.config.learning_rate)
    pictures = _pictures(network.view, ClipBank(run.split.fit, run.spec.length), console)
    progress = _resume(run, players, console)
    losses: dict[str, float] = {}
    started_s, saved_s = time.monotonic() - progress.elapsed_s, progress.elapsed_s
    with TrainingBar(console, run.config, progress) as bar:
        while _goes_on(run.config, progress):
            torch.manual_seed(run.config.seed * _STEPS_A_SEED + progress.step)
            drawn = pictures[torch.randint(len(pictures), (run.config.batch_clips,))]
            losses = _learn(players, fabric.to_device(drawn.float()), progress.step)
            progress = Progress(progress.step + 1, time.monotonic() - started_s)
            bar.show(progress, losses)
            if progress.elapsed_s - saved_s >= run.config.checkpoint_every_s:
                save_checkpoint(run.checkpoints, _trained(players), progress, run.identity)
                saved_s = progress.elapsed_s
    return network, {"steps": progress.step, "train_s": round(progress.elapsed_s, 1), "losses": losses}


@torch.no_grad()
def _pictures(view: MotionView, bank: ClipBank, console: Console) -> Tensor:
    """What the generator is shown of each clip, float16 (N, 3, h, w): computed once, because it costs as much as a step."""
    if len(bank) > MAX_CLIPS:
        console.print(f"{len(bank)} clips to learn from, {MAX_CLIPS} of them at even distances are used")
    with console.status("computing motion"):
        device = view.smoothing.device
        return torch.cat([view(torch.from_numpy(clips).to(device)).half().cpu() for clips in bank.spread(MAX_CLIPS, 16)])


def _players(fabric: Fabric, network: Serving, learning_rate: float) -> Players:
    discriminator = Discriminator(network.config)
    network.generator.apply(initialise)
    discriminator.apply(initialise)
    generator, generator_optimiser = fabric.setup(network.generator, adam(network.generator, learning_rate))
    discriminator, discriminator_optimiser = fabric.setup(discriminator, adam(discriminator, learning_rate))
    return Players(generator, discriminator, generator_optimiser, discriminator_optimiser)


def _trained(players: Players) -> Trained:
    return Trained(
        modules={"generator": players.generator, "discriminator": players.discriminator},
        optimisers={
            "generator_optimiser": players.generator_optimiser,
            "discriminator_optimiser": players.discriminator_optimiser,
        },
    )


def _resume(run: Run, players: Players, console: Console) -> Progress:
    progress = load_checkpoint(run.checkpoints, _trained(players), run.identity)
    tell_resumed(console, run.checkpoints, progress)
    return progress or Progress()


def _goes_on(config: FitConfig, progress: Progress) -> bool:
    steps_left = config.max_steps is None or progress.step < config.max_steps
    return steps_left and progress.elapsed_s < config.max_minutes * 60


def _learn(players: Players, pictures: Tensor, step: int) -> dict[str, float]:
    losses = {name: float(value) for name, value in train_step(players, pictures).items()}
    check_finite(losses, step)
    restart_collapsed(players, losses["discriminator"])
    return losses
