"""A trained network to a bundle: score scale, calibration, golden clips, export.

Golden sequences of held-out footage, see :mod:`deploy.golden`: a stretch at its own pace, then one at three times it.

Does every installed engine for the CPU compute what the trained network computes? Those for GPUs have a gate of their own.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    read_golden,
    write_bundle,
)
from deploy.engine import EngineRequest
from deploy.engines.registry import ENGINES, ON_GPU, load_engine
from deploy.errors import EngineUnavailable
from deploy.export.onnx import export_onnx, save_weights
from deploy.golden import PACE, Sequences, places_of, sequences_bytes
from deploy.spec import ClipSpec
from deploy.validation.parity import check_parity
from trainer.calibrate import calibration_from
from trainer.data.clips import ClipDataset, Split
from trainer.data.footage import Footage
from trainer.models.base import CALIBRATION_CLIPS, ServingNetwork

SEQUENCES = 2
FRAMES = 48
"""Of a sequence: long enough for a recurrent model's averages, five times over; 96 frames of 240 x 360 are 5 MB."""


def golden_sequences(network: ServingNetwork, spec: ClipSpec, held_out: Sequence[Footage]) -> Sequences:
    """Sequences of held-out footage, scored by the network itself. Shorter footage gives shorter ones, less of it fewer."""
    frames, hurried = _sequences([video.frames for video in held_out])
    return Sequences(frames, hurried, _scores(network, spec, frames))


def _sequences(videos: list[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Frames uint8 (S, F, H, W, C), and which of them are hurried, bool (S, F)."""
    half = FRAMES // 2
    stretches = list(_stretches(videos, half * (1 + PACE)))
    if not stretches:
        longest = max(videos, key=len)
        half = max(1, len(longest) // (1 + PACE))
        stretches = [longest]
    chosen = np.unique(np.linspace(0, len(stretches) - 1, SEQUENCES).astype(int))
    frames = np.stack([stretches[number][np.minimum(places_of(half), len(stretches[number]) - 1)] for number in chosen])
    return frames, np.broadcast_to(np.arange(2 * half) >= half, frames.shape[:2]).copy()


def _stretches(videos: Iterable[NDArray[np.uint8]], length: int) -> Iterable[NDArray[np.uint8]]:
    for video in videos:
        for first in range(0, len(video) - length + 1, length):
            yield video[first : first + length]


@torch.inference_mode()
def _scores(network: ServingNetwork, spec: ClipSpec, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    scores = np.full(frames.shape[:2], np.nan, np.float32)
    state = None if spec.state_shape is None else torch.zeros((len(frames), *spec.state_shape))
    for end in range(spec.length, frames.shape[1] + 1):
        clips = torch.from_numpy(frames[:, end - spec.length : end])
        score, _, *rest = network(clips) if state is None else network(clips, state)
        state = rest[0] if rest else None
        scores[:, end - 1] = score.numpy()
    return scores


def check_engines(bundle: Bundle) -> Iterator[str]:
    """Try the bundle's golden clips on every engine for the CPU; one line on each.

    Raises:
        EngineFailed: an engine computes something else than the network that was trained.
    """
    golden = read_golden(bundle)
    for name in (name for name in ENGINES if name not in ON_GPU):
        try:
            engine = load_engine(bundle, EngineRequest(name))
        except EngineUnavailable as error:
            yield f"engine {name}: not tried, {error}"
            continue
        try:
            parity = check_parity(engine, golden)
        finally:
            engine.close()
        yield f"engine {name}: agrees on {parity.clips} clips, largest score error {parity.max_score_error:.1e}"


GOLDEN_CLIPS = 8
GOLDEN_STATES = 2
"""Golden clips of a recurrent network: fewer, because two states of a megabyte go with each."""
_BATCH_CLIPS = 16
_LIBRARIES = ("oddsight", "torch", "onnx", "openvino", "onnxruntime", "numpy", "opencv-python-headless")


@dataclass(frozen=True, slots=True)
class Finished:
    """What a run ends with."""

    network: ServingNetwork
    card: ModelCard
    spec: ClipSpec
    metrics: Mapping[str, Any]


def make_bundle(path: Path, finished: Finished, split: Split) -> Bundle:
    """Fix the score's scale, calibrate on the held-out footage, export, write.

    Raises:
        TooLittleFootage: the held-out footage is too short to calibrate on.
    """
    network, spec = finished.network.cpu().eval(), finished.spec
    learned, held_out = ClipDataset(split.train, spec.length), ClipDataset(split.validation, spec.length)
    network.fit_scale(learned, held_out)
    scores, golden = _reference(network, spec, held_out)
    calibration = calibration_from(scores)
    files = {
        WEIGHTS_NAME: save_weights(network),
        ONNX_NAME: export_onnx(network, spec),
        GOLDEN_NAME: golden_bytes(golden),
        SEQUENCES_NAME: sequences_bytes(golden_sequences(network, spec, split.validation)),
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


def _reference(network: ServingNetwork, spec: ClipSpec, held_out: ClipDataset) -> tuple[NDArray[np.float32], Golden]:
    """The scores of held-out clips, float32 (N,), and a few of the clips, spread evenly, with all that the network gives.

    A recurrent network has to see every clip; of the others ``CALIBRATION_CLIPS`` are enough.
    """
    if spec.state_shape is None:
        return _scores_finish(network, held_out), _golden_clips(network, held_out)
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
def _answers(network: ServingNetwork, state_shape: tuple[int, int, int], bank: ClipDataset) -> Iterator[Golden]:
    """What a recurrent network says of every clip, one at a time, in order, each with the state that its video led to."""
    for video in bank.footage:
        state = torch.zeros((1, *state_shape))
        for clip in ClipDataset((video,), bank.length).batches(1):
            score, heatmap, following = network(torch.from_numpy(clip), state)
            yield Golden(clip, score.numpy(), heatmap.numpy(), state.numpy(), following.numpy())
            state = following


def _golden_clips(network: ServingNetwork, held_out: ClipDataset) -> Golden:
    clips = next(held_out.evenly_spaced(GOLDEN_CLIPS, GOLDEN_CLIPS))
    with torch.inference_mode():
        score, heatmap = network(torch.from_numpy(clips))
    return Golden(clips, score.numpy(), heatmap.numpy())


def _scores_finish(network: ServingNetwork, bank: ClipDataset) -> NDArray[np.float32]:
    with torch.inference_mode():
        return np.concatenate(
            [network(torch.from_numpy(clips))[0].numpy() for clips in bank.evenly_spaced(CALIBRATION_CLIPS, _BATCH_CLIPS)]
        )
