"""An evaluation on the screen: a row a detector, and a row a clip.

What an evaluation means, in plain words for a person who was not there.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table

from trainer.evaluation.event_metrics import EventFigures, true_events
from trainer.evaluation.result import Detector, Evaluation

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


_HEADINGS = ("frame AUC", "mean clip", "pixel AUC", "literature", "precision", "recall", "F1", "delay s", "worst s", "false/h")
_NOTHING = "-"


def tables(evaluation: Evaluation) -> Iterator[Table]:
    """What all clips say together, then what each says."""
    yield _all_clips(evaluation)
    yield _each_clip(evaluation)


def events_line(events: EventFigures) -> str:
    """The model's events in a sentence."""
    delay = "" if events.median_delay_s is None else f", median delay {events.median_delay_s:.1f} s"
    return (
        f"events: {events.found} of {events.true} found{delay}; {events.false} false, "
        f"{events.false_per_camera_hour:g} per camera and hour"
    )


def figure(value: float | None, digits: int) -> str:
    """A number, or a dash where it is not defined."""
    return _NOTHING if value is None else f"{value:.{digits}f}"


def _all_clips(evaluation: Evaluation) -> Table:
    table = Table(title=f"{evaluation.frames} frames of {len(evaluation.clips)} clips")
    table.add_column("")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    for detector in evaluation.detectors:
        table.add_row(detector.name, *_figures(detector))
    return table


def _figures(detector: Detector) -> list[str]:
    streaming = detector.streaming
    aucs = (streaming.frame_auc, streaming.mean_clip_auc, streaming.pixel_auc, detector.literature.frame_auc)
    return [figure(value, 4) for value in aucs] + _event_cells(detector.events)


def _event_cells(events: EventFigures | None) -> list[str]:
    if events is None:
        return [_NOTHING] * 6
    shares = [figure(value, 2) for value in (events.precision, events.recall, events.f1)]
    times = (events.median_delay_s, events.worst_delay_s, events.false_per_camera_hour)
    return shares + [figure(value, 1) for value in times]


def _each_clip(evaluation: Evaluation) -> Table:
    table = Table(title="clip by clip: frame AUC (streaming), and the model's events")
    table.add_column("clip")
    for heading in ("frames", "anomalous", *(detector.name for detector in evaluation.detectors), "true", "found", "false"):
        table.add_column(heading, justify="right")
    for name, labels in evaluation.labels.items():
        aucs = [figure(detector.streaming.clip_auc.get(name), 3) for detector in evaluation.detectors]
        events = evaluation.model.clip_events[name]
        counts = (len(true_events(labels)), events.found, events.false)
        table.add_row(name, str(len(labels)), str(int(labels.sum())), *aucs, *map(str, counts))
    return table
