"""How well a bundle tells normal from anomalous, beside the classical baseline, under both protocols."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import Bundle, read_bundle
from deploy.decide import DecisionRule
from deploy.engine import Engine, load_engine
from trainer.baselines.motion import baseline_spec
from trainer.baselines.run import HeatMaps, learn, watch
from trainer.datasets import labelled_clips, normal_sources
from trainer.events import event_figures
from trainer.footage import footage_shape, load_footage
from trainer.labelled import LabelledClip, check_labels
from trainer.metrics import SMOOTHING_FRAMES, Labels, Scores, clip_aucs, frame_auc, literature_scores
from trainer.scoring import score_footage

Tell = Callable[[str], None]
"""Told what is being worked on."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Scores of the test footage, and what stands in for frames without one."""

    scores: Scores
    fill_value: float


def evaluate(bundle_path: Path, data: Path, engine_name: str, tell: Tell) -> dict[str, Any]:
    """Score every test frame of ``data`` causally and compare with the labels; the content of ``evaluate --json``.

    Frames before a clip is full get the calibration's median: nothing is looked at ahead of its time.

    Raises:
        OddsightError: no usable bundle, footage, labels or engine.
    """
    bundle = read_bundle(bundle_path)
    clips = labelled_clips(data)
    labels: Labels = {clip.source.name: clip.labels for clip in clips}
    engine = load_engine(bundle, engine_name)
    try:
        model = Outcome(_score_test(engine, clips, tell), bundle.calibration.median)
    finally:
        engine.close()
    baselines = _baselines(data, clips, tell)
    rule = DecisionRule(enter=bundle.calibration.enter, exit=bundle.calibration.exit)
    return {
        **_identity(bundle, engine),
        "frames": sum(len(row) for row in labels.values()),
        "clips": len(clips),
        **_figures(model, labels),
        "baselines": {name: _figures(outcome, labels) for name, outcome in baselines.items()},
        "events": asdict(event_figures(rule, model.scores, labels, bundle.spec.fps)),
    }


def _identity(bundle: Bundle, engine: Engine) -> dict[str, Any]:
    return {
        "model_id": bundle.model_id,
        "calibration_id": bundle.calibration.calibration_id,
        "engine": engine.name,
        "engine_details": engine.describe(),
    }


def _figures(outcome: Outcome, labels: Labels) -> dict[str, Any]:
    per_clip = clip_aucs(outcome.scores, labels, outcome.fill_value)
    scaled = literature_scores(outcome.scores, outcome.fill_value)
    return {
        "streaming": {
            "frame_auc": frame_auc(outcome.scores, labels, outcome.fill_value),
            "mean_clip_auc": float(np.mean(list(per_clip.values()))) if per_clip else None,
            "clip_auc": per_clip,
        },
        "literature": {"frame_auc": frame_auc(scaled, labels, 0.0), "smoothing_frames": SMOOTHING_FRAMES},
    }


def _score_test(engine: Engine, clips: list[LabelledClip], tell: Tell) -> Scores:
    scores: dict[str, NDArray[np.float32]] = {}
    for clip in clips:
        tell(f"scoring {clip.source.name}")
        footage = load_footage(clip.source, engine.spec)
        for problem in footage.problems:
            tell(f"skipped an unreadable frame: {problem}")
        check_labels(clip, footage)
        scores[clip.source.name] = score_footage(engine, footage)
    return scores


def _baselines(data: Path, clips: list[LabelledClip], tell: Tell) -> dict[str, Outcome]:
    sources = [clip.source for clip in clips]
    spec = baseline_spec(footage_shape(sources))
    tell("baselines learn")
    field = learn(normal_sources(data), spec, lambda _: None)
    for line in field.left_out:
        tell(line)
    scores = {source.name: _maxima(watch([learned.baseline for learned in field.learned], source, spec)) for source in sources}
    return {
        learned.baseline.name: Outcome({name: rows[:, number] for name, rows in scores.items()}, _fill_value(learned.normal))
        for number, learned in enumerate(field.learned)
    }


def _maxima(frames: Iterable[HeatMaps]) -> NDArray[np.float32]:
    return np.array([[np.nan if heatmap is None else heatmap.max() for heatmap in row] for row in frames], np.float32)


def _fill_value(normal: NDArray[np.float32]) -> float:
    # Without training footage nothing is known beforehand but that a still scene has no motion.
    return float(np.median(normal)) if len(normal) else 0.0
