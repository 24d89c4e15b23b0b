"""Measures how well a bundle separates normal from anomalous frames of a labelled data set, compared with the baselines.

All baselines are fitted and run together, so that the optical flow of a clip is computed only once.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

from deploy.bundle import Bundle, read_bundle
from deploy.calibration import DEFAULT_BUDGET, Thresholds, thresholds
from deploy.console import counting_bar
from deploy.decision import DecisionTimes
from deploy.engine import Engine, EngineRequest
from deploy.profile import read_profile, with_profile
from deploy.registry import load_engine
from deploy.spec import ClipSpec
from trainer.calibrate import MIN_FRAMES, calibration_from
from trainer.data.datasets import labelled_clips, training_sources
from trainer.data.footage import Source, estimate_frame_count, footage_info, footage_sizes, load_footage, print_unreadable_frames
from trainer.data.labels import LabelledClip, check_labels
from trainer.enrol import enrol
from trainer.errors import NoFootage
from trainer.evaluation.baselines import (
    FLOW_MAGNITUDE,
    FRAME_DIFFERENCE,
    Baseline,
    FittedBaseline,
    HeatMap,
    ScoreCollector,
    baseline_spec,
    frame_pairs,
)
from trainer.evaluation.result import Evaluation, detector_result
from trainer.evaluation.runner import DetectorOutput, FrameResult, NormalScores, all_frames, run_detectors, scored_frames
from trainer.evaluation.steady_speed import MIN_CLIPS, SteadySpeedFitter, median_background


def evaluate(
    bundle_path: Path,
    data: Path,
    engine_name: str,
    screen: Console,
    profile: Path | None = None,
    budget: float = DEFAULT_BUDGET,
) -> Evaluation:
    """Score every test frame of ``data`` causally with the bundle and the baselines, and compare the scores with the labels.

    A frame without a score, such as those before the model's first full clip, gets the median of normal scores: from the
    calibration, or from the training footage for a baseline.

    ``budget``: false events per camera and day that thresholds allow, those of the baselines as well.

    A model with profiles is given ``profile``; without one it gets that of the data set's training clips, or its default one if
    it was trained on them.

    Raises:
        OddsightError: no usable bundle, profile, footage, labels or engine.
    """
    bundle = _with_profile(read_bundle(bundle_path), data, profile, screen)
    clips = tuple(labelled_clips(data))
    labels, fps = {clip.source.name: clip.labels for clip in clips}, footage_info([clip.source for clip in clips]).fps
    limits = thresholds(bundle.calibration, budget, DecisionTimes())
    with closing(load_engine(bundle, EngineRequest(engine_name))) as engine:
        output = _run_model(engine, clips, limits, screen)
        name, details = engine.name, engine.describe()
    baselines, left_out = _run_baselines(data, clips, budget, screen)
    return Evaluation(
        bundle=bundle,
        thresholds=limits,
        budget=budget,
        fps=fps,
        engine=name,
        engine_details=details,
        clips=clips,
        model=detector_result(bundle.model_id, output, labels, fps),
        baselines=tuple(detector_result(name, output, labels, fps) for name, output in baselines),
        left_out=left_out,
    )


def _with_profile(bundle: Bundle, data: Path, path: Path | None, screen: Console) -> Bundle:
    if path is not None:
        return with_profile(bundle, read_profile(path))
    if not bundle.spec.profile_size:
        return bundle
    try:
        sources = training_sources(data)
    except NoFootage:  # there are only test clips
        return bundle
    if footage_sizes(sources) == bundle.manifest.metrics.get("footage"):
        return bundle
    return with_profile(bundle, enrol(bundle, data.resolve().name, data, screen))


def _run_model(engine: Engine, clips: tuple[LabelledClip, ...], limits: Thresholds, screen: Console) -> DetectorOutput:
    def frames(clip: LabelledClip) -> Iterator[tuple[FrameResult | None]]:
        footage = load_footage(clip.source, engine.spec)
        print_unreadable_frames(screen, footage)
        check_labels(clip, footage)
        return all_frames(scored_frames(engine, footage), footage.total)

    with counting_bar(screen, "scoring", _frame_total(clips)) as advance:
        (output,) = run_detectors(clips, frames, [NormalScores(limits.median, limits)], advance)
    return output


def _run_baselines(
    data: Path, clips: tuple[LabelledClip, ...], budget: float, screen: Console
) -> tuple[list[tuple[str, DetectorOutput]], tuple[str, ...]]:
    """The output of each baseline with its name, and a line with the reason for each one that cannot run."""
    spec = baseline_spec(footage_info([clip.source for clip in clips]))
    try:
        sources = training_sources(data)
    except NoFootage:  # there are only test clips
        sources = []
    with counting_bar(screen, "baselines, training footage", sum(estimate_frame_count(source) for source in sources)) as advance:
        baselines, left_out = fit_baselines(sources, spec, advance)
    for line in left_out:
        screen.print(line, highlight=False)
    detectors = [fitted.baseline for fitted in baselines]
    normal = [NormalScores(fitted.median, _thresholds(fitted, spec.fps, budget)) for fitted in baselines]
    with counting_bar(screen, "baselines, test footage", _frame_total(clips)) as advance:
        outputs = run_detectors(clips, lambda clip: score_frames(detectors, clip.source, spec), normal, advance)
    return list(zip([detector.name for detector in detectors], outputs, strict=True)), left_out


def _thresholds(fitted: FittedBaseline, fps: float, budget: float) -> Thresholds | None:
    if len(fitted.normal_scores) < MIN_FRAMES:
        return None
    # The clips count as one: that a few events at their ends are taken for one is as well with so little footage.
    return thresholds(calibration_from([fitted.normal_scores], fps, known_peaks=()), budget, DecisionTimes())


def fit_baselines(
    sources: Sequence[Source], spec: ClipSpec, advance: Callable[[int], None]
) -> tuple[list[FittedBaseline], tuple[str, ...]]:
    """Fit all baselines on normal footage; ``advance`` is called with the number of frames that were done.

    Returns those that can run (without footage, those that estimate nothing), and a line with the reason for each other one.
    Raises NoFootage if no frame is readable.
    """
    fitters: list[ScoreCollector | SteadySpeedFitter] = [ScoreCollector(FRAME_DIFFERENCE), ScoreCollector(FLOW_MAGNITUDE)]
    left_out: tuple[str, ...] = ()
    if len(sources) >= MIN_CLIPS:
        background = median_background(sources, spec, sum(estimate_frame_count(source) for source in sources))
        fitters.append(SteadySpeedFitter(background))
    else:
        left_out = (f"steady_speed is left out: it needs {MIN_CLIPS} or more training clips, there are {len(sources)}",)
    for source in sources:
        consumers = [fitter.start_clip() for fitter in fitters]
        for pair in frame_pairs(source, spec):
            advance(1)
            if pair is not None:
                for consume in consumers:
                    consume(pair)
    return [fitter.fitted() for fitter in fitters], left_out


def score_frames(
    baselines: Sequence[Baseline], source: Source, spec: ClipSpec
) -> Iterator[tuple[tuple[float, HeatMap] | None, ...]]:
    """For each frame of ``source``, in order, one score and heat map per baseline; None without a pair of readable frames."""
    scorers = [baseline.start_clip() for baseline in baselines]
    for pair in frame_pairs(source, spec):
        if pair is None:
            yield (None,) * len(scorers)
        else:
            yield tuple((float(heatmap.max()), heatmap) for heatmap in (scorer(pair) for scorer in scorers))


def _frame_total(clips: tuple[LabelledClip, ...]) -> int:
    return sum(len(clip.labels) for clip in clips)
