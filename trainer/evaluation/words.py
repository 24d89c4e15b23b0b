"""What an evaluation means, in plain words for a person who was not there."""

from collections.abc import Iterator
from dataclasses import dataclass

from trainer.evaluation.result import Detector, Evaluation
from trainer.events import EventFigures

CLEAR = 0.003
"""Frame AUCs that differ by less say nothing: training the same network again differs by as much."""


@dataclass(frozen=True, slots=True)
class Headline:
    """A figure and what it means."""

    figure: str
    meaning: str


def headlines(evaluation: Evaluation) -> Iterator[Headline]:
    """The figures that matter first, the model's."""
    if evaluation.model.events is not None:
        yield from _event_headlines(evaluation, evaluation.model.events)
    streaming = evaluation.model.streaming
    if streaming.frame_auc is not None:
        yield Headline(
            f"{streaming.frame_auc:.3f}",
            "frame AUC: how often an anomalous frame scores higher than a normal one of any clip. 1 is perfect, 0.5 is guessing.",
        )
    if streaming.pixel_auc is not None:
        yield Headline(
            f"{streaming.pixel_auc:.3f}",
            "pixel AUC: how often the heat map is higher at an anomalous pixel than at a normal one of any frame.",
        )
    best = _best(evaluation.baselines)
    if best is not None and streaming.frame_auc is not None:
        yield _comparison(streaming.frame_auc, best)


def duration(seconds: float) -> str:
    """In the largest unit that leaves at least one of it."""
    for unit_s, unit in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds >= unit_s:
            return f"{seconds / unit_s:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def _event_headlines(evaluation: Evaluation, events: EventFigures) -> Iterator[Headline]:
    if events.true:
        yield Headline(f"{events.found} of {events.true}", f"true events were announced{_delays(events)}.")
    footage = duration(evaluation.frames / evaluation.bundle.spec.fps)
    yield Headline(
        str(events.false),
        f"{_plural(events.false, 'announced event was', 'announced events were')} false, of {events.announced}. "
        f"That is {events.false_per_camera_hour:.1f} a camera and hour, measured on {footage} of footage.",
    )


def _delays(events: EventFigures) -> str:
    if events.median_delay_s is None or events.worst_delay_s is None:
        return ""
    median_s, worst_s = events.median_delay_s, events.worst_delay_s
    return f", half of them within {median_s:.1f} s of their first frame, the slowest after {worst_s:.1f} s"


def _best(baselines: tuple[Detector, ...]) -> Detector | None:
    measured = [baseline for baseline in baselines if baseline.streaming.frame_auc is not None]
    return max(measured, key=lambda baseline: baseline.streaming.frame_auc or 0.0, default=None)


def _comparison(model_auc: float, best: Detector) -> Headline:
    best_auc = best.streaming.frame_auc or 0.0
    gain = model_auc - best_auc
    verdict = "about as good as" if abs(gain) < CLEAR else "better than" if gain > 0 else "worse than"
    return Headline(
        f"{gain:+.3f}",
        f"frame AUC beside {best.name} ({best_auc:.3f}), the best measure that learns no network: the model is {verdict} it.",
    )


def _plural(count: int, one: str, many: str) -> str:
    return one if count == 1 else many
