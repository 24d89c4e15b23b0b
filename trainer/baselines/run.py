"""Fits and runs all baselines at once, so that the optical flow of a clip is computed only once."""

from collections.abc import Callable, Iterator, Sequence

from deploy.spec import ClipSpec
from trainer.baselines.base import (
    FLOW_MAGNITUDE,
    FRAME_DIFFERENCE,
    Baseline,
    FittedBaseline,
    HeatMap,
    ScoreCollector,
    frame_pairs,
)
from trainer.baselines.steady_speed import MIN_CLIPS, SteadySpeedFitter, median_background
from trainer.data.footage import Source, estimate_frame_count


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
