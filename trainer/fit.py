"""The training run on footage, top to bottom: footage in, bundle out."""

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from deploy.bundle import Bundle, ModelCard
from deploy.spec import ClipSpec
from trainer.cache import FrameCache
from trainer.calibrate import require_frames
from trainer.checkpoint import FOLDER_NAME, drop_checkpoint
from trainer.clip_models import clip_model
from trainer.config import FitConfig, network_config
from trainer.data import ClipBank, Split, frame_size, split_by_video, without_last_tenth
from trainer.datasets import is_plain_footage, training_sources
from trainer.finish import Finished, make_bundle
from trainer.footage import footage_shape, frame_count, load_all
from trainer.keeper import Checkpoints, Chronicler, Follower, Sample
from trainer.last_tenth import look_at_last_tenth
from trainer.last_tenth_text import last_tenth_lines
from trainer.logbook import FOLDER_NAME as LOG_NAME
from trainer.logbook import PICTURES
from trainer.loop import Keeper, LoopSettings, Material, run_loop, validation_loss
from trainer.models.serving import Serving
from trainer.report import TrainingBar, tell_footage, tell_split, tell_stopped, tell_unreadable, work_bar
from trainer.together import Together

MAX_CLIPS = 20_000
"""More are thinned out: 60 KB a clip are held in memory."""
VALIDATION_CLIPS = 64
"""Held-out clips that a run is stopped by; calibration later scores all of them."""
_VIEW_CLIPS = 16


@dataclass(frozen=True, slots=True)
class Run:
    """All that does not change during a run."""

    config: FitConfig
    card: ModelCard
    spec: ClipSpec
    split: Split
    out: Path
    unreadable_frames: int

    @property
    def checkpoints(self) -> Checkpoints:
        """Where they are, and what they must agree with."""
        identity = {
            "model": self.card.model_dump(),
            "seed": self.config.seed,
            "batch_clips": self.settings.batch,
            "precision": self.config.precision,
            "footage": [[video.name, len(video.frames)] for video in (*self.split.fit, *self.split.held_out)],
        }
        return Checkpoints(self.out / FOLDER_NAME, identity, self.config.checkpoint_every_s)

    @property
    def settings(self) -> LoopSettings:
        """How the loop runs."""
        return LoopSettings(
            seed=self.config.seed,
            batch=self.config.batch_clips or clip_model(self.config.model).batch,
            steps=self.config.max_steps,
            max_minutes=self.config.max_minutes,
            validate_every_steps=self.config.validate_every_steps,
            patience=self.config.patience,
        )


def fit(data: Path, out: Path, config: FitConfig, console: Console) -> Bundle | None:
    """Train a model on the normal footage in ``data`` and write a bundle to ``out``; goes on where a stopped run was.

    None in processes that only help the first one (``torchrun``).

    Raises:
        OddsightError: no or too little footage, an unknown model, an unusable checkpoint, or a diverging loss.
    """
    together = Together(config.precision)
    run = prepare(data, out, config, together, console)
    network, metrics = train(run, together, console)
    if together.rank:
        return None
    with console.status("scale, calibration, export"):
        bundle = make_bundle(out, Finished(network, run.card, run.spec, metrics), run.split)
    if run.split.set_aside:
        _look_back(bundle, run.split, console)
    drop_checkpoint(out / FOLDER_NAME)
    return bundle


def prepare(data: Path, out: Path, config: FitConfig, together: Together, console: Console) -> Run:
    """Find, decode and split the footage, and settle what the network is; :func:`fit` without the training.

    The last tenth is set aside, unless the data set has test clips to look at.
    """
    model = clip_model(config.model)
    sources = training_sources(data)
    shape = footage_shape(sources)
    height_px, width_px = frame_size(shape, model.frame_area_px)
    network = network_config(model, {"height_px": height_px, "width_px": width_px, **config.network})
    spec = network.spec(shape.fps)
    frames = sum(frame_count(source) for source in sources)
    with together.first_alone(), work_bar(console, "decoding", frames) as advance:
        cache = FrameCache(out / FOLDER_NAME / "frames", lambda: advance(1))
        footage = load_all(sources, spec, done=lambda clip: tell_footage(console, clip), load=cache.load)
    unreadable_frames = tell_unreadable(console, footage)
    kept, set_aside = without_last_tenth(footage) if is_plain_footage(data) else (footage, ())
    split = replace(split_by_video(kept, spec.length), set_aside=set_aside)
    require_frames(len(ClipBank(split.held_out, spec.length)))
    tell_split(console, split, spec)
    return Run(config, ModelCard(kind=model.kind, config=network.model_dump()), spec, split, out, unreadable_frames)


def train(run: Run, together: Together, console: Console) -> tuple[Serving, dict[str, Any]]:
    """Train until time, steps or patience are used up: the network to serve, and what to note of the run in the bundle."""
    torch.manual_seed(run.config.seed)
    model = clip_model(run.config.model)
    network = model.serving(model.configure(run.card.config)).to(together.device)
    learner = network.learner()
    learn_from = _pictures(network, ClipBank(run.split.fit, run.spec.length), MAX_CLIPS, console)
    held_out = _pictures(network, ClipBank(run.split.held_out, run.spec.length), VALIDATION_CLIPS, console)
    validation = network.validation(held_out)
    material = Material(network.samples(learn_from), validation)
    with closing(_keeper(run, network, validation, together, console)) as keeper:
        progress = run_loop(learner, material, run.settings, together, keeper)
    tell_stopped(console, run.settings, progress)
    return network, {
        "steps": progress.step,
        "train_s": round(progress.elapsed_s, 1),
        "processes": together.count,
        "validation_loss": progress.best_loss if progress.best_step else None,  # JSON knows no infinity
        "validation_step": progress.best_step,
        "loss_learned": validation_loss(learner, network.validation(_some(learn_from)), together.device),
        "loss_held_out": validation_loss(learner, validation, together.device),
        "unreadable_frames": run.unreadable_frames,
    }


def _some(pictures: Tensor) -> Tensor:
    """As many as there are for validation, at even distances."""
    return pictures[torch.linspace(0, len(pictures) - 1, min(VALIDATION_CLIPS, len(pictures))).long()]


def _look_back(bundle: Bundle, split: Split, console: Console) -> None:
    frames = len(ClipBank((*split.held_out, *split.set_aside), bundle.spec.length))
    with work_bar(console, "looking at the last tenth", frames) as advance:
        found = look_at_last_tenth(bundle, split, advance)
    for line in last_tenth_lines(found, bundle.calibration.enter):
        console.print(line, markup=False, highlight=False)


def _keeper(run: Run, network: Serving, validation: Tensor, together: Together, console: Console) -> Keeper:
    if together.rank:
        return Follower(run.checkpoints)
    shown = validation[torch.linspace(0, len(validation) - 1, PICTURES).long()].to(together.device).float()
    sample = Sample(shown, network.reconstruct)
    return Chronicler(run.checkpoints, run.out / LOG_NAME, sample, TrainingBar(console, run.settings), console)


@torch.no_grad()
def _pictures(network: Serving, bank: ClipBank, most: int, console: Console) -> Tensor:
    """What the network sees of at most so many clips, float16 (N, C, h, w): computed once, since it costs as much as a step."""
    if len(bank) > most:
        console.print(f"{len(bank)} clips, {most} of them at even distances are looked at", highlight=False)
    device, seen = next(network.parameters()).device, []
    with work_bar(console, "computing motion", min(most, len(bank))) as advance:
        for clips in bank.spread(most, _VIEW_CLIPS):
            seen.append(network.view(torch.from_numpy(clips).to(device)).half().cpu())
            advance(len(clips))
    return torch.cat(seen)
