"""The training run on footage, top to bottom: footage in, bundle out."""

from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from deploy.bundle import Bundle, ModelCard
from deploy.errors import ConfigError
from deploy.spec import ClipSpec
from trainer.calibrate import require_frames
from trainer.config import FitConfig, network_config
from trainer.data.annotations import AnnotatedClip, annotations_hash, load_annotated_clips, read_annotations
from trainer.data.clips import ClipDataset, FrameCache, Split, choose_frame_size, split_by_video, split_off_last_tenth
from trainer.data.datasets.registry import is_plain_footage, training_sources
from trainer.data.footage import estimate_frame_count, footage_info, load_all_footage
from trainer.export import Finished, make_bundle
from trainer.holdout import last_tenth_lines, look_at_last_tenth
from trainer.models.base import ServingNetwork, TrainingStage
from trainer.models.registry import clip_model
from trainer.models.video_ede import model as video_ede
from trainer.training.callbacks import CHECKPOINT_FOLDER, PICTURES, Checkpoints, ResumeCallback, TrainingCallback, drop_checkpoint
from trainer.training.callbacks import LOG_FOLDER as LOG_NAME
from trainer.training.distributed import DistributedContext
from trainer.training.loop import Callback, LoopSettings, run_loop, validation_loss
from trainer.training.progress import (
    TrainingBar,
    print_feedback,
    print_split,
    print_stopped,
    print_unreadable_frames,
    print_unreadable_total,
    progress_bar,
)


@dataclass(frozen=True, slots=True)
class Run:
    """All that does not change during a run."""

    config: FitConfig
    card: ModelCard
    spec: ClipSpec
    split: Split
    out: Path
    unreadable_frames: int

    def checkpoints(self, stage: TrainingStage) -> Checkpoints:
        """Where those of a stage are, and what they must agree with."""
        identity = {
            "model": self.card.model_dump(),
            "seed": self.config.seed,
            "batch_clips": self.settings(stage).batch,
            "precision": self.config.precision,
            "feedback": annotations_hash(self.split.annotated),
            "footage": [[video.name, len(video.frames)] for video in (*self.split.train, *self.split.validation)],
        }
        return Checkpoints(self.out / CHECKPOINT_FOLDER / stage.name, identity, self.config.checkpoint_every_s)

    def settings(self, stage: TrainingStage) -> LoopSettings:
        """How the loop runs."""
        steps = self.config.max_steps
        return LoopSettings(
            seed=self.config.seed,
            batch=self.config.batch_clips or stage.batch,
            steps=steps and max(1, round(steps * stage.share)),
            max_minutes=self.config.max_minutes * stage.share,
            validate_every_steps=self.config.validate_every_steps,
            patience=self.config.patience if stage.patient else None,
        )


def fit(data: Path, out: Path, config: FitConfig, console: Console) -> Bundle | None:
    """Train a model on the normal footage in ``data`` and write a bundle to ``out``; goes on where a stopped run was.

    None in processes that only help the first one (``torchrun``).

    Raises:
        OddsightError: no or too little footage, an unknown model, an unusable checkpoint, or a diverging loss.
    """
    context = DistributedContext(config.precision)
    run = prepare(data, out, config, context, console)
    network, metrics = train(run, context, console)
    if context.rank:
        return None
    with console.status("scale, calibration, export"):
        bundle = make_bundle(out, Finished(network, run.card, run.spec, metrics), run.split)
    if run.split.holdout:
        _look_back(bundle, run.split, console)
    drop_checkpoint(out / CHECKPOINT_FOLDER)
    return bundle


def prepare(data: Path, out: Path, config: FitConfig, context: DistributedContext, console: Console) -> Run:
    """Find, decode and split the footage, and settle what the network is; :func:`fit` without the training.

    The last tenth is set aside, unless the data set has test clips to look at.
    """
    model = clip_model(config.model)
    annotations = read_annotations(config.feedback) if config.feedback else []
    if annotations and not model.learns_marks:
        raise ConfigError(f"--feedback is for --model {video_ede.KIND}; {model.kind} learns from normal footage alone")
    sources = training_sources(data)
    shape = footage_info(sources)
    height_px, width_px = choose_frame_size(shape, model.frame_area_px, model.side_step_px)
    network = network_config(model, {"height_px": height_px, "width_px": width_px, **config.network})
    spec = network.spec(shape.fps)
    frames = sum(estimate_frame_count(source) for source in {*sources, *(each.source for each in annotations)})
    with context.rank_zero_first(), progress_bar(console, "decoding", frames) as advance:
        cache = FrameCache(out / CHECKPOINT_FOLDER / "frames", lambda: advance(1))
        footage = load_all_footage(sources, spec, done=lambda clip: print_unreadable_frames(console, clip), load=cache.load)
        annotated = load_annotated_clips(annotations, sources, spec, cache.load)
    unreadable_frames = print_unreadable_total(console, footage)
    kept, set_aside = split_off_last_tenth(footage) if is_plain_footage(data) else (footage, ())
    split = replace(split_by_video(kept, spec.length), holdout=set_aside, annotated=annotated)
    require_frames(len(ClipDataset(split.validation, spec.length)))
    print_split(console, split, spec)
    print_feedback(console, split.annotated)
    return Run(config, ModelCard(kind=model.kind, config=network.model_dump()), spec, split, out, unreadable_frames)


def train(run: Run, context: DistributedContext, console: Console) -> tuple[ServingNetwork, dict[str, Any]]:
    """Train until time, steps or patience are used up: the network to serve, and what to note of the run in the bundle."""
    torch.manual_seed(run.config.seed)
    model = clip_model(run.config.model)
    network = model.serving(model.configure(run.card.config)).to(context.device)
    finished = []
    for stage in network.stages(run.split, partial(progress_bar, console)):
        finished.append(_train_stage(run, stage, context, console))
        torch.manual_seed(run.config.seed)  # the next stage begins the same wherever this one was taken up again
    return network, {
        **finished[-1],
        "steps": sum(stage["steps"] for stage in finished),
        "train_s": round(sum(stage["train_s"] for stage in finished), 1),
        "processes": context.count,
        "unreadable_frames": run.unreadable_frames,
        "feedback": _feedback(run.split.annotated),
    }


def _train_stage(run: Run, stage: TrainingStage, context: DistributedContext, console: Console) -> dict[str, Any]:
    """Train one stage: what to note of it. Its losses are compared when it is over."""
    settings = run.settings(stage)
    with closing(_callback(run, stage, context, console)) as callback:
        progress = run_loop(stage.learner, stage.data, settings, context, callback)
    print_stopped(console, settings, progress)
    held_out = stage.data.validation
    return {
        "steps": progress.step,
        "train_s": progress.elapsed_s,
        "validation_loss": progress.best_loss if progress.best_step else None,  # JSON knows no infinity
        "validation_step": progress.best_step,
        "loss_learned": validation_loss(stage.learner, stage.learned, context.device),
        "loss_held_out": None if held_out is None else validation_loss(stage.learner, held_out, context.device),
    }


def _feedback(marked: tuple[AnnotatedClip, ...]) -> dict[str, Any] | None:
    """What to note of feedback in the bundle: stretches of either kind, and a hash of all."""
    if not marked:
        return None
    anomalies = sum(mark.anomalous for mark in marked)
    return {"anomaly": anomalies, "normal": len(marked) - anomalies, "sha256": annotations_hash(marked)}


def _callback(run: Run, stage: TrainingStage, context: DistributedContext, console: Console) -> Callback:
    checkpoints = run.checkpoints(stage)
    if context.rank:
        return ResumeCallback(checkpoints)
    held_out = stage.learned if stage.data.validation is None else stage.data.validation
    shown = held_out[torch.linspace(0, len(held_out) - 1, PICTURES).long()].to(context.device).float()
    bar = TrainingBar(console, run.settings(stage), stage.name)
    return TrainingCallback(checkpoints, run.out / LOG_NAME / stage.name, partial(stage.draw, shown), bar, console)


def _look_back(bundle: Bundle, split: Split, console: Console) -> None:
    frames = len(ClipDataset((*split.validation, *split.holdout), bundle.spec.length))
    with progress_bar(console, "looking at the last tenth", frames) as advance:
        found = look_at_last_tenth(bundle, split, advance)
    for line in last_tenth_lines(found, bundle.calibration.enter):
        console.print(line, markup=False, highlight=False)
