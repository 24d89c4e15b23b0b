"""An evaluation made from scores and labels, without an engine."""

from pathlib import Path

import numpy as np
import pytest

from deploy.bundle import Bundle, Manifest, ModelCard
from deploy.calibration import Calibration, Thresholds
from deploy.decision import DecisionTimes
from deploy.spec import ClipSpec
from trainer.evaluation.result import Evaluation, detector_result
from trainer.evaluation.runner import DetectorOutput, NormalScores

CALIBRATION = Calibration(median=1.0, peaks=(4.0,), observed_s=86_400.0, times=DecisionTimes())
LIMITS = Thresholds(median=1.0, enter=4.0, exit=3.0, bound=5.0)
FPS = 10.0


def make_evaluation(clips, scores, *, spec=None, pixel_auc=0.75, regions=None):
    """The model has these scores; the only baseline, without thresholds, has their negatives."""
    labels = {clip.source.name: clip.labels for clip in clips}
    negated = {name: -row for name, row in scores.items()}
    model = detector_result("net-1", DetectorOutput(scores, NormalScores(1.0, LIMITS), pixel_auc, regions), labels, FPS)
    plain = detector_result("plain", DetectorOutput(negated, NormalScores(0.0, None), None, None), labels, FPS)
    manifest = Manifest(
        format=2,
        model_id="net-1",
        model=ModelCard(kind="net", config={}),
        spec=spec or ClipSpec(length=1, height_px=16, width_px=16),
        metrics={},
        versions={},
        files={},
    )
    bundle = Bundle(path=Path("bundle"), manifest=manifest, calibration=CALIBRATION)
    return Evaluation(
        bundle=bundle,
        thresholds=LIMITS,
        budget=1.0,
        fps=FPS,
        engine="fake",
        engine_details={"device": "none"},
        clips=tuple(clips),
        model=model,
        baselines=(plain,),
        left_out=("steady_speed is left out: no footage",),
    )


@pytest.fixture(scope="session")
def limits():
    return LIMITS


@pytest.fixture(scope="session")
def evaluation_of():
    return make_evaluation


@pytest.fixture(scope="session")
def runs():
    """float32 scores from (value, frames) runs."""
    return lambda *parts: np.concatenate([np.full(frames, value, np.float32) for value, frames in parts])
