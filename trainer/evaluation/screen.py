"""An evaluation on the screen: a row a detector, and a row a clip."""

from collections.abc import Iterator

from rich.table import Table

from trainer.evaluation.result import Detector, Evaluation
from trainer.events import EventFigures, true_events

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
