"""Makes a bundle of a trained network, and checks that the engines compute what the network computes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
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
    GoldenClips,
    ModelCard,
    golden_bytes,
    read_golden,
    write_bundle,
)
from deploy.engine import EngineRequest
from deploy.errors import EngineUnavailable
from deploy.export.onnx import export_onnx, save_weights
from deploy.registry import ENGINES, GPU_ENGINES, load_engine
from deploy.sequences import SPEEDUP, GoldenSequences, sequence_indices, sequences_bytes
from deploy.spec import ClipSpec
from deploy.validation.parity import check_parity
from trainer.calibrate import calibration_from
from trainer.data.clips import ClipDataset, Split
from trainer.data.footage import Footage
from trainer.models.base import CALIBRATION_CLIPS, ServingNetwork

GOLDEN_CLIPS = 8
GOLDEN_STATES = 2  # golden clips of a recurrent network: fewer, because two states of a megabyte belong to each
GOLDEN_SEQUENCES = 2
# Five times as long as the averages of a recurrent model reach. 96 frames of 240 x 360 take 5 MB.
SEQUENCE_FRAMES = 48
_BATCH_CLIPS = 16
_LIBRARIES = ("oddsight", "torch", "onnx", "openvino", "onnxruntime", "numpy", "opencv-python-headless")


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """The result of a training run."""

    network: ServingNetwork
    card: ModelCard
    spec: ClipSpec
    metrics: Mapping[str, Any]


def make_bundle(path: Path, trained: TrainedModel, split: Split) -> Bundle:
    """Fit the score scale, calibrate on the held-out footage, export, and write the bundle.

    Raises:
        TooLittleFootage: the held-out footage is too short to calibrate on.
    """
    network, spec = trained.network.cpu().eval(), trained.spec
    held_out = ClipDataset(split.validation, spec.length)
    network.fit_scale(ClipDataset(split.train, spec.length), held_out)
    scores, golden = _reference_outputs(network, spec, held_out)
    files = {
        WEIGHTS_NAME: save_weights(network),
        ONNX_NAME: export_onnx(network, spec),
        GOLDEN_NAME: golden_bytes(golden),
        SEQUENCES_NAME: sequences_bytes(golden_sequences(network, spec, split.validation)),
    }
    return write_bundle(
        path,
        model=trained.card,
        spec=spec,
        calibration=calibration_from(scores),
        files=files,
        metrics=trained.metrics,
        versions={library: version(library) for library in _LIBRARIES},
    )


def check_engines(bundle: Bundle) -> Iterator[str]:
    """Compare every CPU engine with the network on the golden clips; yields a line for each. GPU engines are validated elsewhere.

    Raises:
        EngineFailed: an engine differs from the trained network.
    """
    golden = read_golden(bundle)
    for name in (name for name in ENGINES if name not in GPU_ENGINES):
        try:
            with closing(load_engine(bundle, EngineRequest(name))) as engine:
                parity = check_parity(engine, golden)
        except EngineUnavailable as error:
            yield f"engine {name}: not checked, {error}"
        else:
            yield f"engine {name}: agrees on {parity.clips} clips, largest score error {parity.max_score_error:.1e}"


def golden_sequences(network: ServingNetwork, spec: ClipSpec, held_out: Sequence[Footage]) -> GoldenSequences:
    """Golden sequences of held-out footage, scored by the network. Short footage gives shorter or fewer sequences."""
    videos, half = [video.frames for video in held_out], SEQUENCE_FRAMES // 2
    length = half * (1 + SPEEDUP)
    stretches = [video[first : first + length] for video in videos for first in range(0, len(video) - length + 1, length)]
    if not stretches:
        stretches = [max(videos, key=len)]
        half = max(1, len(stretches[0]) // (1 + SPEEDUP))
    chosen = np.unique(np.linspace(0, len(stretches) - 1, GOLDEN_SEQUENCES).astype(int))
    frames = np.stack([stretches[number][np.minimum(sequence_indices(half), len(stretches[number]) - 1)] for number in chosen])
    sped_up = np.broadcast_to(np.arange(2 * half) >= half, frames.shape[:2]).copy()
    return GoldenSequences(frames, sped_up, _score_sequences(network, spec, frames))


@torch.inference_mode()
def _score_sequences(network: ServingNetwork, spec: ClipSpec, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    scores = np.full(frames.shape[:2], np.nan, np.float32)
    state = None if spec.state_shape is None else torch.zeros((len(frames), *spec.state_shape))
    for end in range(spec.length, frames.shape[1] + 1):
        clips = torch.from_numpy(frames[:, end - spec.length : end])
        score, _, *rest = network(clips) if state is None else network(clips, state)
        state = rest[0] if rest else None
        scores[:, end - 1] = score.numpy()
    return scores


@torch.inference_mode()
def _reference_outputs(network: ServingNetwork, spec: ClipSpec, held_out: ClipDataset) -> tuple[NDArray[np.float32], GoldenClips]:
    """Scores of held-out clips, float32 (N,), and the golden clips, evenly spaced, with all outputs of the network.

    A recurrent network scores every clip, because its state depends on them; others at most ``CALIBRATION_CLIPS``.
    """
    if spec.state_shape is not None:
        return _recurrent_outputs(network, spec.state_shape, held_out)
    clips = next(held_out.evenly_spaced(GOLDEN_CLIPS, GOLDEN_CLIPS))
    score, heatmap = network(torch.from_numpy(clips))
    batches = held_out.evenly_spaced(CALIBRATION_CLIPS, _BATCH_CLIPS)
    scores = [network(torch.from_numpy(batch))[0].numpy() for batch in batches]
    return np.concatenate(scores), GoldenClips(clips, score.numpy(), heatmap.numpy())


def _recurrent_outputs(
    network: ServingNetwork, state_shape: tuple[int, ...], held_out: ClipDataset
) -> tuple[NDArray[np.float32], GoldenClips]:
    # From the middle of equal parts, because the first clip has no state yet.
    chosen = {(2 * part + 1) * len(held_out) // (2 * GOLDEN_STATES) for part in range(GOLDEN_STATES)}
    scores: list[NDArray[np.float32]] = []
    golden: list[GoldenClips] = []
    for number, outputs in enumerate(_recurrent_clips(network, state_shape, held_out)):
        scores.append(outputs.score)
        if number in chosen:
            golden.append(outputs)
    merged = {field.name: np.concatenate([getattr(outputs, field.name) for outputs in golden]) for field in fields(GoldenClips)}
    return np.concatenate(scores), GoldenClips(**merged)


def _recurrent_clips(network: ServingNetwork, state_shape: tuple[int, ...], dataset: ClipDataset) -> Iterator[GoldenClips]:
    """The network's inputs and outputs for every clip in order, one at a time. Every video starts with a state of zeros."""
    for video in dataset.footage:
        state = torch.zeros((1, *state_shape))
        for clip in ClipDataset((video,), dataset.length).batches(1):
            score, heatmap, next_state = network(torch.from_numpy(clip), state)
            yield GoldenClips(clip, score.numpy(), heatmap.numpy(), state.numpy(), next_state.numpy())
            state = next_state
