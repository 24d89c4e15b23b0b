"""The result of an evaluation: as values, as JSON, in words, and in tables for the terminal."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.table import Table

from deploy.bundle import Bundle
from deploy.calibration import Thresholds
from deploy.decision import DecisionRule
from trainer.data.labels import LabelledClip
from trainer.evaluation.event_metrics import ClipEvents, EventMetrics, clip_events, event_metrics
from trainer.evaluation.metrics import (
    SMOOTHING_FRAMES,
    BootstrapInterval,
    Labels,
    clip_aucs,
    frame_auc,
    frame_auc_interval,
    literature_scores,
    mean_clip_auc_interval,
)
from trainer.evaluation.runner import DetectorOutput

MIN_GAIN = 0.003
"""Smaller differences of frame AUC say nothing: training the same network again differs by as much."""

_EVENT_HEADINGS = ("precision", "recall", "F1", "delay\ns", "worst\ns", "false/h", "false/day\nat most")


@dataclass(frozen=True, slots=True)
class StreamingMetrics:
    """Metrics of causal, unnormalised scores under one global threshold; None where undefined."""

    frame_auc: float | None
    frame_auc_interval: BootstrapInterval | None
    mean_clip_auc: float | None
    mean_clip_auc_interval: BootstrapInterval | None
    clip_auc: Mapping[str, float]
    """Only clips in which both classes occur."""
    pixel_auc: float | None


@dataclass(frozen=True, slots=True)
class DetectorResult:
    """Scores and metrics of the model or of a baseline."""

    name: str
    output: DetectorOutput
    streaming: StreamingMetrics
    literature_auc: float | None
    """Frame AUC by the literature's protocol (see :mod:`trainer.evaluation.metrics`), for comparison with papers only."""
    events: EventMetrics | None
    """None without thresholds."""
    clip_events: Mapping[str, ClipEvents]
    """By clip name; empty without thresholds."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A bundle and the baselines on labelled test footage."""

    bundle: Bundle
    thresholds: Thresholds
    budget: float
    """False events per camera and day that the thresholds allow."""
    fps: float
    """Of the test footage."""
    engine: str
    engine_details: Mapping[str, str]
    clips: tuple[LabelledClip, ...]
    model: DetectorResult
    baselines: tuple[DetectorResult, ...]
    left_out: tuple[str, ...]
    """One line, with the reason, for each baseline that could not run."""

    @property
    def labels(self) -> Labels:
        return {clip.source.name: clip.labels for clip in self.clips}

    @property
    def frames(self) -> int:
        return sum(len(clip.labels) for clip in self.clips)

    @property
    def detectors(self) -> tuple[DetectorResult, ...]:
        return (self.model, *self.baselines)


def detector_result(name: str, output: DetectorOutput, labels: Labels, fps: float) -> DetectorResult:
    """Compute all metrics of one detector; ``fps`` turns frames into seconds."""
    limits, median = output.normal.thresholds, output.normal.median
    events: Mapping[str, ClipEvents] = {}
    if limits is not None:
        rule = DecisionRule(enter=limits.enter, exit=limits.exit)
        events = clip_events(rule, output.scores, labels, fps)
    aucs = clip_aucs(output.scores, labels, median)
    return DetectorResult(
        name=name,
        output=output,
        streaming=StreamingMetrics(
            frame_auc=frame_auc(output.scores, labels, median),
            frame_auc_interval=frame_auc_interval(output.scores, labels, median),
            mean_clip_auc=float(np.mean(list(aucs.values()))) if aucs else None,
            mean_clip_auc_interval=mean_clip_auc_interval(aucs.values()),
            clip_auc=aucs,
            pixel_auc=output.pixel_auc,
        ),
        literature_auc=frame_auc(literature_scores(output.scores, median), labels, 0.0),
        events=None if limits is None else event_metrics(events, labels, fps),
        clip_events=events,
    )


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """The content of ``evaluate --json``."""
    bundle = evaluation.bundle
    return {
        "model_id": bundle.model_id,
        "calibration_id": bundle.calibration.calibration_id,
        "budget": evaluation.budget,
        "observed_s": bundle.calibration.observed_s,
        "engine": evaluation.engine,
        "engine_details": dict(evaluation.engine_details),
        "frames": evaluation.frames,
        "clips": len(evaluation.clips),
        **_detector_json(evaluation.model),
        "baselines": {baseline.name: _detector_json(baseline) for baseline in evaluation.baselines},
        "left_out": list(evaluation.left_out),
    }


def _detector_json(result: DetectorResult) -> dict[str, Any]:
    normal, regions = result.output.normal, result.output.region_metrics
    return {
        "streaming": asdict(result.streaming),
        "literature": {"frame_auc": result.literature_auc, "smoothing_frames": SMOOTHING_FRAMES},
        "region_metrics": regions and asdict(regions),
        "events": result.events and asdict(result.events),
        "clip_events": {
            name: {"true": len(e.true), "announced": len(e.announced), "found": e.found, "false": e.false, "early": e.early}
            for name, e in result.clip_events.items()
        },
        "fill_value": normal.median,
        "thresholds": normal.thresholds and normal.thresholds._asdict(),
    }


class Headline(NamedTuple):
    """A figure and its meaning, in words for a reader who does not know the metrics."""

    figure: str
    meaning: str


def headlines(evaluation: Evaluation) -> Iterator[Headline]:
    """The model's most important figures."""
    model = evaluation.model
    streaming, events = model.streaming, model.events
    if events is not None:
        if events.true:
            yield Headline(f"{events.found} of {events.true}", f"true events were announced{_delays(events)}.")
        noun = "false event" if events.false == 1 else "false events"
        yield Headline(str(events.false), f"{noun} (announced without a true event, or too early){_false_rate(events)}.")
    if streaming.frame_auc is not None:
        bounds = streaming.frame_auc_interval
        yield Headline(
            f"{streaming.frame_auc:.3f}",
            "frame AUC: how often an anomalous frame scores higher than a normal one of any clip. 1 is perfect, 0.5 is guessing."
            + ("" if bounds is None else f" 95 % interval over {bounds.clips} resampled clips: {interval(bounds)}."),
        )
    if streaming.pixel_auc is not None:
        yield Headline(
            f"{streaming.pixel_auc:.3f}",
            "pixel AUC: how often the heat map is higher at an anomalous pixel than at a normal one of any frame.",
        )
    aucs = {baseline.name: baseline.streaming.frame_auc or 0.0 for baseline in evaluation.baselines}
    if aucs and streaming.frame_auc is not None:
        best = max(aucs, key=lambda name: aucs[name])
        yield _comparison(streaming.frame_auc, best, aucs[best])


def events_line(events: EventMetrics) -> str:
    """The event metrics in one line."""
    delay = "" if events.median_delay_s is None else f", median delay {events.median_delay_s:.1f} s"
    return f"events: {events.found} of {events.true} found{delay}; {events.false} false{_false_rate(events)}"


def duration(seconds: float) -> str:
    """In the largest of hours, minutes and seconds that gives at least 1."""
    for unit_s, unit in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds >= unit_s:
            return f"{seconds / unit_s:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def figure(value: float | None, digits: int) -> str:
    """A number with that many decimals, or a dash if it is undefined."""
    return "-" if value is None else f"{value:.{digits}f}"


def rate(value: float | None) -> str:
    """A rate with two significant digits below 10 and no decimals above, or a dash if it is undefined."""
    return "-" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def interval(bounds: BootstrapInterval | None, separator: str = "") -> str:
    """``0.961-0.994`` after ``separator``; empty if there is no interval."""
    return "" if bounds is None else f"{separator}{bounds.low:.3f}-{bounds.high:.3f}"


def _delays(events: EventMetrics) -> str:
    if events.median_delay_s is None or events.worst_delay_s is None:
        return ""
    median_s, worst_s = events.median_delay_s, events.worst_delay_s
    return f", half of them within {median_s:.1f} s of their first frame, the slowest after {worst_s:.1f} s"


def _false_rate(events: EventMetrics) -> str:
    if events.false_per_camera_day_bound is None:
        return ""
    return (
        f" in {duration(events.normal_s)} of normal footage ({events.normal_frames} frames), which allows up to "
        f"{rate(events.false_per_camera_day_bound)} per camera and day (95 % bound)"
    )


def _comparison(model_auc: float, name: str, baseline_auc: float) -> Headline:
    gain = model_auc - baseline_auc
    verdict = "about as good as" if abs(gain) < MIN_GAIN else "better than" if gain > 0 else "worse than"
    return Headline(
        f"{gain:+.3f}",
        f"frame AUC compared with {name} ({baseline_auc:.3f}), the best baseline, which learns no network: "
        f"the model is {verdict} it.",
    )


def tables(evaluation: Evaluation) -> Iterator[Table]:
    """The detectors' AUCs, their events, and one row per clip."""
    bounds = evaluation.model.streaming.frame_auc_interval
    legend = "" if bounds is None else "; below an AUC its 95 % interval over resampled clips"
    yield _table(
        f"{evaluation.frames} frames of {len(evaluation.clips)} clips{legend}",
        ("frame AUC", "mean clip", "pixel\nAUC", "RBDC", "TBDC", "literature"),
        map(_auc_row, evaluation.detectors),
    )
    yield _table("events", _EVENT_HEADINGS, map(_event_row, evaluation.detectors))
    yield _table(
        "clip by clip: frame AUC (streaming), and the model's events",
        ("frames", "anomalous", *(result.name for result in evaluation.detectors), "true", "found", "false"),
        _clip_rows(evaluation),
    )


def _table(title: str, headings: Sequence[str], rows: Iterable[list[str]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _auc_row(result: DetectorResult) -> list[str]:
    streaming, regions = result.streaming, result.output.region_metrics
    return [
        result.name,
        figure(streaming.frame_auc, 4) + interval(streaming.frame_auc_interval, "\n"),
        figure(streaming.mean_clip_auc, 4) + interval(streaming.mean_clip_auc_interval, "\n"),
        figure(streaming.pixel_auc, 4),
        figure(regions.rbdc if regions else None, 3),
        figure(regions.tbdc if regions else None, 3),
        figure(result.literature_auc, 4),
    ]


def _event_row(result: DetectorResult) -> list[str]:
    events = result.events
    if events is None:
        return [result.name] + ["-"] * len(_EVENT_HEADINGS)
    return [
        result.name,
        *(figure(value, 2) for value in (events.precision, events.recall, events.f1)),
        *(figure(value, 1) for value in (events.median_delay_s, events.worst_delay_s, events.false_per_camera_hour)),
        rate(events.false_per_camera_day_bound),
    ]


def _clip_rows(evaluation: Evaluation) -> Iterator[list[str]]:
    for name, labels in evaluation.labels.items():
        aucs = [figure(result.streaming.clip_auc.get(name), 3) for result in evaluation.detectors]
        events = evaluation.model.clip_events[name]
        yield [name, str(len(labels)), str(labels.sum()), *aucs, str(len(events.true)), str(events.found), str(events.false)]
