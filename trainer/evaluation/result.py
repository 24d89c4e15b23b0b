"""The result of an evaluation as values, from which the tables, the JSON output and the report are made."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from deploy.bundle import Bundle
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
    """None without a calibration."""
    clip_events: Mapping[str, ClipEvents]
    """By clip name; empty without a calibration."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A bundle and the baselines on labelled test footage."""

    bundle: Bundle
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
    calibration, median = output.normal.calibration, output.normal.median
    events: Mapping[str, ClipEvents] = {}
    if calibration is not None:
        rule = DecisionRule(enter=calibration.enter, exit=calibration.exit)
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
        events=None if calibration is None else event_metrics(events, labels, fps),
        clip_events=events,
    )


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """The content of ``evaluate --json``."""
    bundle = evaluation.bundle
    return {
        "model_id": bundle.model_id,
        "calibration_id": bundle.calibration.calibration_id,
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
        "calibration": normal.calibration and normal.calibration.model_dump(),
    }
