"""An evaluation made from scores and labels, without an engine."""

from pathlib import Path

import numpy as np
import pytest

from deploy.bundle import Bundle, Calibration, Manifest, ModelCard
from deploy.spec import ClipSpec
from trainer.evaluation.result import Evaluation, detector_result
from trainer.evaluation.runner import DetectorOutput, NormalScores

CALIBRATION = Calibration(median=1.0, q99=2.0, q999=3.0, enter=4.0, exit=3.0, frames=100)
FPS = 10.0


def make_evaluation(clips, scores, *, spec=None, pixel_auc=0.75, regions=None):
    """The model has these scores; the only baseline, without a calibration, has their negatives."""
    labels = {clip.source.name: clip.labels for clip in clips}
    negated = {name: -row for name, row in scores.items()}
    model = detector_result("net-1", DetectorOutput(scores, NormalScores(1.0, CALIBRATION), pixel_auc, regions), labels, FPS)
    plain = detector_result("plain", DetectorOutput(negated, NormalScores(0.0, None), None, None), labels, FPS)
    manifest = Manifest(
        format=1,
        model_id="net-1",
        model=ModelCard(kind="net", config={}),
        spec=spec or ClipSpec(length=1, height_px=16, width_px=16),
        metrics={},
        versions={},
        files={},
    )
    bundle = Bundle(path=Path("bundle"), manifest=manifest, calibration=CALIBRATION)
    return Evaluation(
        bundle, "fake", {"device": "none"}, tuple(clips), model, (plain,), ("steady_speed is left out: no footage",)
    )


@pytest.fixture(scope="session")
def calibration():
    return CALIBRATION


@pytest.fixture(scope="session")
def evaluation_of():
    return make_evaluation


@pytest.fixture(scope="session")
def runs():
    """float32 scores from (value, frames) runs."""
    return lambda *parts: np.concatenate([np.full(frames, value, np.float32) for value, frames in parts])
