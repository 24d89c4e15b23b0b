"""A trained network to a bundle: score scale, calibration, golden clips, export."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deploy.bundle import GOLDEN_NAME, ONNX_NAME, WEIGHTS_NAME, Bundle, Golden, ModelCard, golden_bytes, write_bundle
from deploy.export import export_onnx, save_weights
from deploy.spec import ClipSpec
from trainer.calibrate import calibration_from
from trainer.data import ClipBank, Split
from trainer.models.serving import Serving

GOLDEN_CLIPS = 8
SCALE_CLIPS = 256
_BATCH_CLIPS = 16
_LIBRARIES = ("oddsight", "torch", "onnx", "openvino", "onnxruntime", "numpy", "opencv-python-headless")


@dataclass(frozen=True, slots=True)
class Finished:
    """What a run ends with."""

    network: Serving
    card: ModelCard
    spec: ClipSpec
    metrics: Mapping[str, Any]


def make_bundle(path: Path, finished: Finished, split: Split) -> Bundle:
    """Fix the score's scale, calibrate on the held-out footage, export, write.

    Raises:
        TooLittleFootage: the held-out footage is too short to calibrate on.
    """
    network, spec = finished.network.cpu().eval(), finished.spec
    learned, held_out = ClipBank(split.fit, spec.length), ClipBank(split.held_out, spec.length)
    network.fit_scale(learned.spread(SCALE_CLIPS, _BATCH_CLIPS), held_out.batches(_BATCH_CLIPS))
    calibration = calibration_from(_scores(network, held_out))
    files = {
        WEIGHTS_NAME: save_weights(network),
        ONNX_NAME: export_onnx(network, spec),
        GOLDEN_NAME: golden_bytes(golden_clips(network, held_out)),
    }
    return write_bundle(
        path,
        model=finished.card,
        spec=spec,
        calibration=calibration,
        files=files,
        metrics=finished.metrics,
        versions={library: version(library) for library in _LIBRARIES},
    )


def golden_clips(network: Serving, held_out: ClipBank) -> Golden:
    """A few held-out clips, spread evenly, with the scores of ``network``."""
    clips = next(held_out.spread(GOLDEN_CLIPS, GOLDEN_CLIPS))
    with torch.inference_mode():
        score, heatmap = network(torch.from_numpy(clips))
    return Golden(clips, score.numpy(), heatmap.numpy())


def _scores(network: Serving, bank: ClipBank) -> NDArray[np.float32]:
    with torch.inference_mode():
        return np.concatenate([network(torch.from_numpy(clips))[0].numpy() for clips in bank.batches(_BATCH_CLIPS)])
