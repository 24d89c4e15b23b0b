"""A trained network to a bundle: score scale, calibration, golden clips, export."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deploy.bundle import (
    GOLDEN_NAME,
    ONNX_NAME,
    SEQUENCES_NAME,
    WEIGHTS_NAME,
    Bundle,
    Golden,
    ModelCard,
    golden_bytes,
    write_bundle,
)
from deploy.export import export_onnx, save_weights
from deploy.sequences import sequences_bytes
from deploy.spec import ClipSpec
from trainer.calibrate import calibration_from
from trainer.data import ClipBank, Split
from trainer.models.serving import CALIBRATION_CLIPS, Serving
from trainer.sequences import golden_sequences

GOLDEN_CLIPS = 8
GOLDEN_STATES = 2
"""Golden clips of a recurrent network: fewer, because two states of a megabyte go with each."""
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
    network.fit_scale(learned, held_out)
    scores, golden = _reference(network, spec, held_out)
    calibration = calibration_from(scores)
    files = {
        WEIGHTS_NAME: save_weights(network),
        ONNX_NAME: export_onnx(network, spec),
        GOLDEN_NAME: golden_bytes(golden),
        SEQUENCES_NAME: sequences_bytes(golden_sequences(network, spec, split.held_out)),
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


def _reference(network: Serving, spec: ClipSpec, held_out: ClipBank) -> tuple[NDArray[np.float32], Golden]:
    """The scores of held-out clips, float32 (N,), and a few of the clips, spread evenly, with all that the network gives.

    A recurrent network has to see every clip; of the others ``CALIBRATION_CLIPS`` are enough.
    """
    if spec.state_shape is None:
        return _scores(network, held_out), _golden_clips(network, held_out)
    # In the middle of equal parts: the first of all clips has no state yet.
    wanted = {(2 * part + 1) * len(held_out) // (2 * GOLDEN_STATES) for part in range(GOLDEN_STATES)}
    scores: list[NDArray[np.float32]] = []
    chosen: list[Golden] = []
    for number, answer in enumerate(_answers(network, spec.state_shape, held_out)):
        scores.append(answer.score)
        if number in wanted:
            chosen.append(answer)
    golden = {field.name: np.concatenate([getattr(answer, field.name) for answer in chosen]) for field in fields(Golden)}
    return np.concatenate(scores), Golden(**golden)


@torch.inference_mode()
def _answers(network: Serving, state_shape: tuple[int, int, int], bank: ClipBank) -> Iterator[Golden]:
    """What a recurrent network says of every clip, one at a time, in order, each with the state that its video led to."""
    for video in bank.footage:
        state = torch.zeros((1, *state_shape))
        for clip in ClipBank((video,), bank.length).batches(1):
            score, heatmap, following = network(torch.from_numpy(clip), state)
            yield Golden(clip, score.numpy(), heatmap.numpy(), state.numpy(), following.numpy())
            state = following


def _golden_clips(network: Serving, held_out: ClipBank) -> Golden:
    clips = next(held_out.spread(GOLDEN_CLIPS, GOLDEN_CLIPS))
    with torch.inference_mode():
        score, heatmap = network(torch.from_numpy(clips))
    return Golden(clips, score.numpy(), heatmap.numpy())


def _scores(network: Serving, bank: ClipBank) -> NDArray[np.float32]:
    with torch.inference_mode():
        return np.concatenate(
            [network(torch.from_numpy(clips))[0].numpy() for clips in bank.spread(CALIBRATION_CLIPS, _BATCH_CLIPS)]
        )
