"""All baselines at once, so that the optical flow of a clip is computed once: learn from the training footage, watch clips."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from deploy.spec import ClipSpec
from trainer.baselines.base import Baseline, HeatMap, Learned, Learner, Motion, ScoresOnly
from trainer.baselines.flow import FlowMagnitude, FrameDifference, median_background, motions
from trainer.baselines.steady_speed import MIN_CLIPS, SteadySpeedLearner
from trainer.data.footage import Source, estimate_frame_count

HeatMaps = tuple[HeatMap | None, ...]
"""Of one frame by each of some baselines; None where there is no motion yet."""


@dataclass(frozen=True, slots=True)
class Field:
    """The baselines that take part."""

    learned: tuple[Learned, ...]
    left_out: tuple[str, ...]
    """A line for each one that cannot, with the reason."""


def learn(sources: Sequence[Source], spec: ClipSpec, step: Callable[[int], None]) -> Field:
    """Show normal footage to all baselines; ``step`` is told of every frame. Without footage some take part all the same.

    Raises:
        NoFootage: no frame of ``sources`` is readable.
    """
    learners, left_out = _learners(sources, spec)
    for source in sources:
        see = [learner.clip() for learner in learners]
        for motion in motions(source, spec):
            step(1)
            if motion is not None:
                _tell(see, motion)
    return Field(tuple(learner.learned() for learner in learners), left_out)


def watch(baselines: Sequence[Baseline], source: Source, spec: ClipSpec) -> Iterator[HeatMaps]:
    """The heat maps of each frame of ``source``, in order, unreadable ones included."""
    watchers = [baseline.watch() for baseline in baselines]
    for motion in motions(source, spec):
        yield tuple(None if motion is None else watcher(motion) for watcher in watchers)


def _learners(sources: Sequence[Source], spec: ClipSpec) -> tuple[list[Learner], tuple[str, ...]]:
    plain: list[Learner] = [ScoresOnly(FrameDifference()), ScoresOnly(FlowMagnitude())]
    if len(sources) < MIN_CLIPS:
        return plain, (f"steady_speed is left out: it needs {MIN_CLIPS} or more training clips, there are {len(sources)}",)
    background = median_background(sources, spec, sum(estimate_frame_count(source) for source in sources))
    return [*plain, SteadySpeedLearner(background)], ()


def _tell(see: list[Callable[[Motion], None]], motion: Motion) -> None:
    for one in see:
        one(motion)
