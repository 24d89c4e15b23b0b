"""The ``fit`` command: train a model on normal footage and write a bundle."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console

from deploy.bundle import MANIFEST_NAME, Bundle, ModelCard, read_bundle, unwritable_folder
from deploy.console import counting_bar
from deploy.engines.torch import load_network
from deploy.errors import BundleError, BundleIncompatible, ConfigError, validation_line
from deploy.spec import ClipSpec
from deploy.video import VideoInfo
from trainer import marks
from trainer.calibrate import require_frames
from trainer.data.annotations import ANOMALY, NORMAL, AnnotatedClip, annotations_hash, load_annotated_clips, read_annotations
from trainer.data.clips import (
    Camera,
    ClipDataset,
    FrameCache,
    Split,
    balanced,
    choose_frame_size,
    common_info,
    find_cameras,
    group_by_camera,
    split_cameras,
)
from trainer.data.footage import Source, estimate_frame_count, footage_sizes, print_unreadable_frames
from trainer.errors import OutputRefused
from trainer.export import TrainedModel, make_bundle
from trainer.holdout import holdout_lines, write_holdout_report
from trainer.mark_report import print_changes
from trainer.models.base import ClipConfig, ClipModel, ServingNetwork, TrainingStage
from trainer.models.registry import DEFAULT_MODEL, clip_model
from trainer.models.video_ede import model as video_ede
from trainer.training.callbacks import (
    CHECKPOINT_FOLDER,
    LOG_FOLDER,
    LOGGED_PICTURES,
    Checkpoints,
    ResumeCallback,
    TrainingCallback,
    only_run,
)
from trainer.training.distributed import DistributedContext, Precision
from trainer.training.loop import Callback, LoopSettings, Progress, run_loop, validation_loss

T = TypeVar("T")


class FitConfig(BaseModel):
    """Settings of ``fit``. The command line has options for the most common ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = DEFAULT_MODEL
    feedback: Path | None = None
    """Annotations of operators: a CSV file or a folder, see :mod:`trainer.data.annotations`."""
    from_bundle: Path | None = None
    """A bundle whose network is adapted to the footage; None: training starts from random weights."""
    seed: int = Field(default=0, ge=0)
    max_minutes: float = Field(default=14.0, gt=0)
    """Time for training steps, summed over resumed runs; decoding, export and checks are not counted."""
    precision: Precision = "f32"
    patience: int = Field(default=20, ge=1)
    """Early stopping: validations in a row without a smaller loss of held-out footage."""
    max_steps: int | None = Field(default=None, ge=1)
    batch_clips: int | None = Field(default=None, ge=2)
    """None: the default of the model."""
    validate_every_steps: int = Field(default=100, ge=1)
    checkpoint_every_s: float = Field(default=30.0, ge=0)
    network: dict[str, Any] = Field(default_factory=dict)
    """Settings of the network other than its defaults. The frame size is chosen from the footage unless it is set here."""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """The footage, network and settings of a training run."""

    config: FitConfig
    card: ModelCard
    spec: ClipSpec
    split: Split
    out: Path
    unreadable_frames: int
    footage: dict[str, int]  # clip name -> bytes
    start: Bundle | None = None  # training starts from its weights

    def checkpoints(self, stage: TrainingStage) -> Checkpoints:
        """The checkpoints of one stage."""
        identity = {
            "model": self.card.model_dump(),
            "seed": self.config.seed,
            "batch_clips": self.settings(stage).batch,
            "precision": self.config.precision,
            "feedback": annotations_hash(self.split.annotated),
            "from": self.start and self.start.model_id,
            "footage": [[video.name, len(video.frames)] for video in (*self.split.train, *self.split.validation)],
        }
        return Checkpoints(self.out / CHECKPOINT_FOLDER / stage.name, identity, self.config.checkpoint_every_s)

    def settings(self, stage: TrainingStage) -> LoopSettings:
        """The loop settings of one stage."""
        steps = self.config.max_steps
        return LoopSettings(
            seed=self.config.seed,
            batch=self.config.batch_clips or stage.batch_size,
            steps=steps and max(1, round(steps * stage.time_share)),
            max_minutes=self.config.max_minutes * stage.time_share,
            validate_every_steps=self.config.validate_every_steps,
            patience=self.config.patience if stage.early_stopping else None,
        )


def fit(data: Path | Sequence[Path], out: Path, config: FitConfig, console: Console) -> Bundle | None:
    """Train a model on the normal footage in ``data`` and write a bundle to ``out``. An interrupted run is resumed.

    ``data``: the footage of one camera, or of several, which weigh the same however long their footage is.

    Under ``torchrun`` only the first process returns a bundle.

    Raises:
        OddsightError: no or too little footage, an unknown model, an unusable checkpoint or bundle to start from, a diverging
            loss, or another run that writes to ``out``.
    """
    context = DistributedContext(config.precision)
    with nullcontext() if context.rank else only_run(out):
        return _fit(data, out, config, context, console)


def _fit(
    data: Path | Sequence[Path], out: Path, config: FitConfig, context: DistributedContext, console: Console
) -> Bundle | None:
    run = prepare(data, out, config, context, console)
    network, metrics = train(run, context, console)
    if context.rank:
        return None
    before = marks_before(run)
    calibrated = replace(run.split, validation=balanced(run.split.validation))
    with counting_bar(console, "scoring held-out frames", len(ClipDataset(calibrated.validation, run.spec.length))) as advance:
        trained = TrainedModel(network, run.card, run.spec, metrics)
        bundle = make_bundle(out, trained, calibrated, advance)
    if run.split.holdout:
        frames = len(ClipDataset(run.split.holdout, run.spec.length))
        with counting_bar(console, "scoring the last tenth", frames) as advance:
            report = write_holdout_report(bundle, run.split, advance)
        for line in holdout_lines(report):
            console.print(line, markup=False, highlight=False)
    if run.split.annotated:
        now = marks.score_marks(bundle, run.split.annotated)
        changes = marks.bundle_changes(run.split.annotated, before, now)
        print_changes(console, changes, before and before.calibration, now.calibration)
    shutil.rmtree(out / CHECKPOINT_FOLDER, ignore_errors=True)
    return bundle


def marks_before(run: TrainingRun) -> marks.BundleMarks | None:
    """How marked events score with the bundle that will be replaced, or else with the one that training started from, if any."""
    earlier = read_bundle(run.out) if (run.out / MANIFEST_NAME).exists() else run.start
    if not run.split.annotated or earlier is None or earlier.manifest.model.kind != run.card.kind:
        return None
    return marks.score_marks(earlier, run.split.annotated) if earlier.spec.frame_shape == run.spec.frame_shape else None


def prepare(
    data: Path | Sequence[Path], out: Path, config: FitConfig, context: DistributedContext, console: Console
) -> TrainingRun:
    """Find, decode and split the footage, and configure the network.

    The last tenth of a camera's plain footage is set aside; a data set has test clips instead.
    """
    cameras = find_cameras([data] if isinstance(data, Path) else data)
    sources = [source for camera in cameras for source in camera.sources]
    require_free(out, sources, console)
    model = clip_model(config.model)
    annotations = read_annotations(config.feedback) if config.feedback else []
    if annotations and not model.learns_annotations:
        raise ConfigError(f"--feedback is for --model {video_ede.KIND}; {model.kind} learns from normal footage alone")
    info = common_info(cameras)
    start = _read_start(config, model)
    network = _own_network(config, model, info) if start is None else _network_of(start, model)
    spec = network.spec(info.fps)
    if len(cameras) > 1 and not spec.profile_size:
        raise ConfigError(f"several --data are for --model {video_ede.KIND}; {model.kind} keeps no profile of each camera")
    frames = sum(estimate_frame_count(source) for source in {*sources, *(each.source for each in annotations)})
    with context.rank_zero_first(), counting_bar(console, "decoding", frames) as advance:
        cache = FrameCache(out / CHECKPOINT_FOLDER / "frames", lambda: advance(1))
        footage = [camera.load(spec, partial(print_unreadable_frames, console), cache.load) for camera in cameras]
        annotated = load_annotated_clips(annotations, sources, spec, cache.load)
    unreadable_frames = sum(len(clip.problems) for clips in footage for clip in clips)
    if unreadable_frames:
        console.print(f"{unreadable_frames} unreadable frames skipped in total; the bundle's metrics contain the number")
    split = replace(split_cameras(cameras, footage, spec.length), annotated=annotated)
    require_frames(len(ClipDataset(split.validation, spec.length)) // 2)
    _print_cameras(console, cameras)
    _print_split(console, split, spec)
    _print_feedback(console, split.annotated)
    card = ModelCard(kind=model.kind, config=network.model_dump())
    return TrainingRun(config, card, spec, split, out, unreadable_frames, footage_sizes(sources), start)


def _own_network(config: FitConfig, model: ClipModel, info: VideoInfo) -> ClipConfig:
    """The settings of a new network, with a frame size that suits the footage."""
    height_px, width_px = choose_frame_size(info, model.frame_area_px, model.side_step_px)
    return validated(model.configure, {"height_px": height_px, "width_px": width_px, **config.network})


def _read_start(config: FitConfig, model: ClipModel) -> Bundle | None:
    """The bundle to start from, if any. Raises ConfigError if its network is another one than the settings ask for."""
    if config.from_bundle is None:
        return None
    bundle = read_bundle(config.from_bundle)
    card = bundle.manifest.model
    if card.kind != model.kind:
        raise ConfigError(f"--from {bundle.path} holds a {card.kind}, and --model is {model.kind}; they must be the same")
    if not model.fine_tunes:
        raise ConfigError(f"--from is for --model {video_ede.KIND}; a {model.kind} is trained anew, without --from")
    for name, value in config.network.items():
        if card.config.get(name) != value:
            raise ConfigError(
                f"--from {bundle.path} holds a network with {name} {card.config.get(name)}, which cannot become {value}; "
                "leave the setting out, or train anew without --from"
            )
    return bundle


def _network_of(bundle: Bundle, model: ClipModel) -> ClipConfig:
    try:
        return model.configure(bundle.manifest.model.config)
    except ValidationError as error:
        problem = validation_line(error)
        raise BundleIncompatible(f"{bundle.path}: its network is of another version ({problem}); train anew") from error


def require_free(out: Path, sources: list[Source], console: Console) -> None:
    """Refuse, before anything is decoded, to write a bundle where that is not possible or another camera's bundle is.

    Raises OutputRefused. A bundle of the same footage will be replaced, which is said.
    """
    if (parent := unwritable_folder(out / MANIFEST_NAME)) is not None:
        raise OutputRefused(f"{out}: cannot be written, {parent} is not a folder that one may write to; give another --out")
    if not (out / MANIFEST_NAME).exists():
        return
    try:
        bundle = read_bundle(out)
    except BundleError as error:
        raise OutputRefused(f"{out}: holds an unreadable bundle ({error}); give another --out, or delete it") from error
    learned = bundle.manifest.metrics.get("footage")
    if learned is not None and learned != footage_sizes(sources):
        names = ", ".join(list(learned)[:3])
        raise OutputRefused(
            f"{out}: holds the bundle {bundle.model_id}, trained on other footage ({names} ...); give another --out, or delete it"
        )
    console.print(f"replacing the bundle {bundle.model_id} in {out} when this run is done", markup=False, highlight=False)


def train(run: TrainingRun, context: DistributedContext, console: Console) -> tuple[ServingNetwork, dict[str, Any]]:
    """Train all stages of the model; the trained network, and the metrics for the bundle."""
    torch.manual_seed(run.config.seed)
    model = clip_model(run.config.model)
    network = model.build(model.configure(run.card.config))
    if run.start is not None:
        network.load_state_dict(load_network(run.start).state_dict())
    network = network.to(context.device)
    stages = network.stages if run.start is None else network.fine_tuning_stages
    metrics = []
    for stage in stages(run.split, partial(counting_bar, console)):
        metrics.append(_train_stage(run, stage, context, console))
        torch.manual_seed(run.config.seed)  # the next stage starts the same, wherever this one was resumed
    annotated = run.split.annotated
    anomalies = sum(clip.anomalous for clip in annotated)
    feedback = {"anomaly": anomalies, "normal": len(annotated) - anomalies, "sha256": annotations_hash(annotated)}
    return network, {
        **metrics[-1],
        "steps": sum(stage["steps"] for stage in metrics),
        "train_s": round(sum(stage["train_s"] for stage in metrics), 1),
        "processes": context.world_size,
        "unreadable_frames": run.unreadable_frames,
        "cameras": len(group_by_camera(run.split.train)),
        "footage": run.footage,
        "feedback": feedback if annotated else None,
        **({"from": run.start.model_id} if run.start else {}),
    }


def _train_stage(run: TrainingRun, stage: TrainingStage, context: DistributedContext, console: Console) -> dict[str, Any]:
    settings, held_out = run.settings(stage), stage.data.validation
    with closing(_callback(run, stage, context, console)) as callback:
        progress = run_loop(stage.learner, stage.data, settings, context, callback)
    _print_stopped(console, settings, progress)
    return {
        "steps": progress.step,
        "train_s": progress.elapsed_s,
        "validation_loss": progress.best_loss if progress.best_step else None,  # JSON has no infinity
        "validation_step": progress.best_step,
        "loss_learned": validation_loss(stage.learner, stage.train_samples, context.device),
        "loss_held_out": None if held_out is None else validation_loss(stage.learner, held_out, context.device),
    }


def _callback(run: TrainingRun, stage: TrainingStage, context: DistributedContext, console: Console) -> Callback:
    checkpoints = run.checkpoints(stage)
    if context.rank:
        return ResumeCallback(checkpoints)
    held_out = stage.train_samples if stage.data.validation is None else stage.data.validation
    logged = held_out[torch.linspace(0, len(held_out) - 1, LOGGED_PICTURES).long()].to(context.device).float()
    log = run.out / LOG_FOLDER / stage.name
    return TrainingCallback(checkpoints, log, partial(stage.log_images, logged), run.settings(stage), console)


def validated(validate: Callable[[Any], T], settings: Mapping[str, Any]) -> T:
    """``validate(settings)``, with the error of pydantic in one line.

    Raises:
        ConfigError: a setting is invalid; names its option, rule and value.
    """
    try:
        return validate(settings)
    except ValidationError as error:
        setting, _, problem = validation_line(error).partition(": ")
        raise ConfigError(f"--{setting.replace('_', '-')}: {problem}") from error


def _print_cameras(console: Console, cameras: Sequence[Camera]) -> None:
    """Print what the cameras show, if there are several."""
    for camera in cameras if len(cameras) > 1 else ():
        info = camera.info
        console.print(
            f"camera {camera.name}: {len(camera.sources)} videos, {info.width_px} x {info.height_px}, {info.fps:g} frames/s",
            markup=False,
            highlight=False,
        )


def _print_split(console: Console, split: Split, spec: ClipSpec) -> None:
    """Print the sizes of the training and held-out footage, and the shape of clips."""
    train, held_out, set_aside = (
        sum(len(video.frames) for video in part) for part in (split.train, split.validation, split.holdout)
    )
    names = ", ".join(video.name for video in split.validation)
    console.print(
        f"{train} frames of {len(split.train)} videos to train on, {held_out} held out ({names})"
        f"{f', the last {set_aside} set aside' if set_aside else ''}; "
        f"clips of {spec.length} frames, {spec.width_px} x {spec.height_px}, {spec.colour}",
        highlight=False,
    )


def _print_feedback(console: Console, annotated: Sequence[AnnotatedClip]) -> None:
    """Print how much operators annotated, if anything."""
    if not annotated:
        return
    parts = []
    for kind in (ANOMALY, NORMAL):
        clips = [clip for clip in annotated if clip.anomalous is (kind == ANOMALY)]
        frames = sum(clip.last - clip.first + 1 for clip in clips)
        parts.append(f"{len(clips)} stretches of {frames} frames marked {kind}")
    console.print(f"feedback: {', '.join(parts)}", highlight=False)


def _print_stopped(console: Console, settings: LoopSettings, progress: Progress) -> None:
    """Print why training ended, and which weights are kept."""
    if settings.patience is None:  # the learning rate decays to nothing, and the last weights are kept
        console.print(f"{progress.step} steps")
        return
    if progress.stale_validations >= settings.patience:
        console.print(f"stopped early: no smaller loss of held-out footage in {progress.stale_validations} validations")
    if progress.best_step:
        console.print(
            f"{progress.step} steps; the weights of step {progress.best_step} are kept, where held-out footage had the "
            f"smallest loss ({progress.best_loss:.4g})"
        )
