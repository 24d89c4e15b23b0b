"""Measures how well a bundle separates normal from anomalous frames of a labelled data set, compared with the baselines."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from rich.console import Console

from deploy.bundle import Calibration, read_bundle
from deploy.engine import Engine, EngineRequest
from deploy.engines.registry import load_engine
from trainer.baselines.base import baseline_spec
from trainer.baselines.run import fit_baselines, score_frames
from trainer.calibrate import MIN_FRAMES, calibration_from
from trainer.data.datasets import labelled_clips, training_sources
from trainer.data.footage import estimate_frame_count, footage_info, load_footage
from trainer.data.labels import LabelledClip, check_labels
from trainer.errors import NoFootage
from trainer.evaluation.result import Evaluation, detector_result
from trainer.evaluation.runner import DetectorOutput, FrameResult, NormalScores, all_frames, run_detectors, scored_frames
from trainer.training.progress import print_unreadable_frames, progress_bar


def evaluate(bundle_path: Path, data: Path, engine_name: str, screen: Console) -> Evaluation:
    """Score every test frame of ``data`` causally with the bundle and the baselines, and compare the scores with the labels.

    A frame without a score, such as those before the model's first full clip, gets the median of normal scores: from the
    calibration, or from the training footage for a baseline.

    Raises:
        OddsightError: no usable bundle, footage, labels or engine.
    """
    bundle = read_bundle(bundle_path)
    clips = tuple(labelled_clips(data))
    labels, fps = {clip.source.name: clip.labels for clip in clips}, bundle.spec.fps
    with closing(load_engine(bundle, EngineRequest(engine_name))) as engine:
        output = _run_model(engine, clips, bundle.calibration, screen)
        name, details = engine.name, engine.describe()
    baselines, left_out = _run_baselines(data, clips, screen)
    return Evaluation(
        bundle=bundle,
        engine=name,
        engine_details=details,
        clips=clips,
        model=detector_result(bundle.model_id, output, labels, fps),
        baselines=tuple(detector_result(name, output, labels, fps) for name, output in baselines),
        left_out=left_out,
    )


def _run_model(engine: Engine, clips: tuple[LabelledClip, ...], calibration: Calibration, screen: Console) -> DetectorOutput:
    def frames(clip: LabelledClip) -> Iterator[tuple[FrameResult | None]]:
        footage = load_footage(clip.source, engine.spec)
        print_unreadable_frames(screen, footage)
        check_labels(clip, footage)
        return all_frames(scored_frames(engine, footage), footage.total)

    with progress_bar(screen, "scoring", _frame_total(clips)) as advance:
        (output,) = run_detectors(clips, frames, [NormalScores(calibration.median, calibration)], advance)
    return output


def _run_baselines(
    data: Path, clips: tuple[LabelledClip, ...], screen: Console
) -> tuple[list[tuple[str, DetectorOutput]], tuple[str, ...]]:
    """The output of each baseline with its name, and a line with the reason for each one that cannot run."""
    spec = baseline_spec(footage_info([clip.source for clip in clips]))
    try:
        sources = training_sources(data)
    except NoFootage:  # there are only test clips
        sources = []
    with progress_bar(screen, "baselines, training footage", sum(estimate_frame_count(source) for source in sources)) as advance:
        baselines, left_out = fit_baselines(sources, spec, advance)
    for line in left_out:
        screen.print(line, highlight=False)
    detectors = [fitted.baseline for fitted in baselines]
    normal = []
    for fitted in baselines:
        calibration = calibration_from(fitted.normal_scores) if len(fitted.normal_scores) >= MIN_FRAMES else None
        normal.append(NormalScores(fitted.median, calibration))
    with progress_bar(screen, "baselines, test footage", _frame_total(clips)) as advance:
        outputs = run_detectors(clips, lambda clip: score_frames(detectors, clip.source, spec), normal, advance)
    return list(zip([detector.name for detector in detectors], outputs, strict=True)), left_out


def _frame_total(clips: tuple[LabelledClip, ...]) -> int:
    return sum(len(clip.labels) for clip in clips)
