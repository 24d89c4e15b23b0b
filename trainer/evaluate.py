"""How well a bundle tells normal from anomalous, beside measures that learn nothing, by protocols that are never mixed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from deploy.bundle import Bundle, Calibration, read_bundle
from deploy.engine import Engine, EngineRequest
from deploy.engines.registry import load_engine
from trainer.baselines.base import Learned
from trainer.baselines.flow import baseline_spec
from trainer.baselines.run import Field, learn
from trainer.calibrate import MIN_FRAMES, calibration_from
from trainer.data.datasets.registry import labelled_clips, training_sources_if_any
from trainer.data.footage import estimate_frame_count, footage_info, load_footage
from trainer.data.labels import LabelledClip, check_labels
from trainer.evaluation.result import Evaluation, detector, labels_of
from trainer.evaluation.runner import Outcome, Seen, baseline_frames, every_frame, scored_frames, walk
from trainer.training.progress import print_unreadable_frames, progress_bar


def evaluate(bundle_path: Path, data: Path, engine_name: str, screen: Console) -> Evaluation:
    """Score every test frame of ``data`` causally, by the bundle and by the baselines, and compare with the labels.

    Frames without a score, such as those before a clip is full, get the median of normal scores: the calibration's, or that of
    the training footage for a baseline. Nothing is looked at ahead of its time.

    Raises:
        OddsightError: no usable bundle, footage, labels or engine.
    """
    bundle = read_bundle(bundle_path)
    clips = tuple(labelled_clips(data))
    labels, fps = labels_of(clips), bundle.spec.fps
    with opened(bundle, engine_name) as engine:
        outcome = _score(engine, clips, bundle.calibration, screen)
        name, details = engine.name, engine.describe()
    field, outcomes = _baselines(data, clips, screen)
    return Evaluation(
        bundle=bundle,
        engine=name,
        engine_details=details,
        clips=clips,
        model=detector(bundle.model_id, outcome, bundle.calibration, labels, fps),
        baselines=tuple(
            detector(learned.baseline.name, outcome, _calibration(learned), labels, fps)
            for learned, outcome in zip(field.learned, outcomes, strict=True)
        ),
        left_out=field.left_out,
    )


@contextmanager
def opened(bundle: Bundle, engine_name: str) -> Iterator[Engine]:
    """The engine, for as long as it is needed."""
    engine = load_engine(bundle, EngineRequest(engine_name))
    try:
        yield engine
    finally:
        engine.close()


def _score(engine: Engine, clips: tuple[LabelledClip, ...], calibration: Calibration, screen: Console) -> Outcome:
    def frames(clip: LabelledClip) -> Iterator[tuple[Seen | None]]:
        footage = load_footage(clip.source, engine.spec)
        print_unreadable_frames(screen, footage)
        check_labels(clip, footage)
        return every_frame(scored_frames(engine, footage), footage.total)

    with progress_bar(screen, "scoring", _frames(clips)) as step:
        (outcome,) = walk(clips, frames, [calibration.median], step)
    return outcome


def _baselines(data: Path, clips: tuple[LabelledClip, ...], screen: Console) -> tuple[Field, list[Outcome]]:
    spec = baseline_spec(footage_info([clip.source for clip in clips]))
    sources = training_sources_if_any(data)
    with progress_bar(screen, "baselines, training footage", sum(estimate_frame_count(source) for source in sources)) as step:
        field = learn(sources, spec, step)
    for line in field.left_out:
        screen.print(line, highlight=False)
    baselines = [learned.baseline for learned in field.learned]
    with progress_bar(screen, "baselines, test footage", _frames(clips)) as step:
        fill_values = [learned.median for learned in field.learned]
        return field, walk(clips, lambda clip: baseline_frames(baselines, clip.source, spec), fill_values, step)


def _calibration(learned: Learned) -> Calibration | None:
    return calibration_from(learned.normal) if len(learned.normal) >= MIN_FRAMES else None


def _frames(clips: tuple[LabelledClip, ...]) -> int:
    return sum(len(clip.labels) for clip in clips)
