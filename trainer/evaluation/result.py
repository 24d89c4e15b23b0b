"""The result of an evaluation as values; everything else is a view of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from deploy.bundle import Bundle, Calibration
from deploy.decision import DecisionRule
from trainer.data.labels import LabelledClip
from trainer.evaluation.event_metrics import ClipEvents, EventFigures, clip_events, event_figures
from trainer.evaluation.metrics import SMOOTHING_FRAMES, Labels, Scores, clip_aucs, frame_auc, literature_scores
from trainer.evaluation.runner import Outcome


@dataclass(frozen=True, slots=True)
class Streaming:
    """One global threshold, causal scores, nothing normalised."""

    frame_auc: float | None
    """None where only one class occurs."""
    mean_clip_auc: float | None
    clip_auc: Mapping[str, float]
    """Of each clip in which both classes occur."""
    pixel_auc: float | None
    """See :mod:`trainer.evaluation.metrics`; None where the data set has no masks."""


@dataclass(frozen=True, slots=True)
class Literature:
    """Each clip scaled by its own extremes and smoothed around each frame: to compare with papers, not to expect of a service."""

    frame_auc: float | None
    smoothing_frames: int


@dataclass(frozen=True, slots=True)
class Detector:
    """The model or a baseline: its scores and all figures made from them."""

    name: str
    scores: Scores
    fill_value: float
    """Stands in for frames without a score: the median of normal scores, known beforehand."""
    calibration: Calibration | None
    """None where there was too little training footage to make one; then there are no events."""
    streaming: Streaming
    literature: Literature
    events: EventFigures | None
    clip_events: Mapping[str, ClipEvents]
    """By clip name; empty without a calibration."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A bundle on labelled test footage, beside the baselines."""

    bundle: Bundle
    engine: str
    engine_details: Mapping[str, str]
    clips: tuple[LabelledClip, ...]
    model: Detector
    baselines: tuple[Detector, ...]
    left_out: tuple[str, ...]
    """A line for each baseline that could not take part."""

    @property
    def labels(self) -> Labels:
        """Labels by clip name."""
        return labels_of(self.clips)

    @property
    def frames(self) -> int:
        """Test frames in all."""
        return sum(len(clip.labels) for clip in self.clips)

    @property
    def detectors(self) -> tuple[Detector, ...]:
        """The model, then the baselines."""
        return (self.model, *self.baselines)


def labels_of(clips: tuple[LabelledClip, ...]) -> dict[str, Any]:
    """Labels by clip name."""
    return {clip.source.name: clip.labels for clip in clips}


def detector(name: str, outcome: Outcome, calibration: Calibration | None, labels: Labels, fps: float) -> Detector:
    """All figures of one detector. ``fps`` turns frames into seconds."""
    rule = None if calibration is None else DecisionRule(enter=calibration.enter, exit=calibration.exit)
    return Detector(
        name=name,
        scores=outcome.scores,
        fill_value=outcome.fill_value,
        calibration=calibration,
        streaming=_streaming(outcome, labels),
        literature=_literature(outcome, labels),
        events=None if rule is None else event_figures(rule, outcome.scores, labels, fps),
        clip_events={} if rule is None else {n: clip_events(rule, outcome.scores[n], row, fps) for n, row in labels.items()},
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


def _streaming(outcome: Outcome, labels: Labels) -> Streaming:
    per_clip = clip_aucs(outcome.scores, labels, outcome.fill_value)
    return Streaming(
        frame_auc=frame_auc(outcome.scores, labels, outcome.fill_value),
        mean_clip_auc=float(np.mean(list(per_clip.values()))) if per_clip else None,
        clip_auc=per_clip,
        pixel_auc=outcome.pixel_auc,
    )


def _literature(outcome: Outcome, labels: Labels) -> Literature:
    scaled = literature_scores(outcome.scores, outcome.fill_value)
    return Literature(frame_auc(scaled, labels, 0.0), SMOOTHING_FRAMES)


def _detector_json(found: Detector) -> dict[str, Any]:
    return {
        "streaming": asdict(found.streaming),
        "literature": asdict(found.literature),
        "events": None if found.events is None else asdict(found.events),
        "clip_events": {name: _counts(events) for name, events in found.clip_events.items()},
        "fill_value": found.fill_value,
        "calibration": None if found.calibration is None else found.calibration.model_dump(),
    }


def _counts(events: ClipEvents) -> dict[str, int]:
    return {"true": len(events.true), "announced": len(events.announced), "found": events.found, "false": events.false}
