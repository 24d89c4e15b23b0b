"""Makes a bundle of a trained network, and checks that the engines compute what the network computes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from deploy.bundle import (
    GOLDEN_NAME,
    ONNX_NAME,
    PROFILE_NAME,
    SEQUENCES_NAME,
    WEIGHTS_NAME,
    Bundle,
    GoldenClips,
    ModelCard,
    golden_bytes,
    read_golden,
    write_bundle,
)
from deploy.calibration import Calibration
from deploy.decision import DecisionTimes
from deploy.engine import EngineRequest
from deploy.errors import EngineUnavailable
from deploy.export.onnx import export_onnx, save_weights
from deploy.registry import ENGINES, GPU_ENGINES, load_engine
from deploy.sequences import SPEEDUP, GoldenSequences, sequence_indices, sequences_bytes
from deploy.spec import ClipSpec
from deploy.validation.accuracy import check_parity
from trainer.calibrate import calibration_from
from trainer.data.clips import ClipDataset, Split, alternate_blocks, excerpts, group_by_camera
from trainer.data.footage import Footage
from trainer.evaluation.runner import score_clips
from trainer.models.base import ServingNetwork

GOLDEN_CLIPS = 8
GOLDEN_STATES = 2  # golden clips of a recurrent network: fewer, because two states of a megabyte belong to each
GOLDEN_SEQUENCES = 2
# Five times as long as the averages of a recurrent model reach. 96 frames of 240 x 360 take 5 MB.
SEQUENCE_FRAMES = 48
# Of all cameras together, of either kind of footage: scoring more would take minutes.
_PROFILE_FRAMES, _MIN_PROFILE_FRAMES = 4096, 512
_SHAKE_PX = (-2, 3)  # down and to the right, by which every second golden clip of a recurrent network is shifted
# Make another plausible profile of the default one, in which many values are 0.
_OTHER_PROFILE, _OTHER_OFFSET = 1.25, 0.01
_NO_CALIBRATION = Calibration(median=0.0, peaks=(), observed_s=1.0, times=DecisionTimes())
_CALIBRATING = EngineRequest()
_LIBRARIES = ("oddsight", "torch", "onnx", "openvino", "onnxruntime", "numpy", "opencv-python-headless")


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """The result of a training run."""

    network: ServingNetwork
    card: ModelCard
    spec: ClipSpec
    metrics: Mapping[str, Any]


def make_bundle(path: Path, trained: TrainedModel, split: Split, advance: Callable[[int], None] = lambda _: None) -> Bundle:
    """Fit the score scale, export, calibrate, and write the bundle. ``advance`` gets the numbers of newly scored held-out frames.

    Blocks of the held-out footage take turns: one sets the scale, the next is calibrated on, because the frames that set a
    scale look more usual than others.

    Raises:
        TooLittleFootage: the held-out footage is too short to calibrate on.
    """
    network, spec = trained.network.cpu().eval(), trained.spec
    held_out = ClipDataset(split.validation, spec.length)
    turns = [alternate_blocks(clips) for clips in group_by_camera(split.validation)]
    ranges, calibrated = (tuple(block for halves in turns for block in halves[turn]) for turn in (0, 1))
    profile = _default_profile(network, spec, replace(split, validation=ranges))
    files = {
        WEIGHTS_NAME: save_weights(network),
        ONNX_NAME: export_onnx(network, spec),
        GOLDEN_NAME: golden_bytes(golden_clips(network, spec, held_out, profile)),
        SEQUENCES_NAME: sequences_bytes(golden_sequences(network, spec, split.validation, profile)),
    }
    if profile is not None:
        files[PROFILE_NAME] = save({"profile": profile})

    versions = {library: version(library) for library in _LIBRARIES}
    write = partial(write_bundle, model=trained.card, spec=spec, files=files, metrics=trained.metrics, versions=versions)
    # The engine that will serve is several times as fast as the network, and it reads bundles.
    with (
        TemporaryDirectory() as folder,
        closing(load_engine(write(Path(folder), calibration=_NO_CALIBRATION), _CALIBRATING)) as engine,
    ):
        scored = score_clips(engine, split.validation, advance)
    return write(path, calibration=calibration_from(_rows_of(calibrated, scored), spec.fps))


def _rows_of(blocks: Sequence[Footage], scored: Iterable[tuple[str, NDArray[np.float32]]]) -> list[NDArray[np.float32]]:
    """The scores of some blocks of clips, a row for each clip, NaN elsewhere; ``scored``: name and row of parts of the clips."""
    rows: dict[str, NDArray[np.float32]] = {}
    for name, row in scored:
        rows.setdefault(name, np.full_like(row, np.nan))
        for block in blocks:
            if block.name == name:
                rows[name][block.index] = np.fmax(rows[name][block.index], row[block.index])
    return list(rows.values())


def _default_profile(network: ServingNetwork, spec: ClipSpec, split: Split) -> Tensor | None:
    """The profile of the footage's camera, or of several cameras' profiles what they have in common; None without profiles.

    A new camera is most likely to be like the median one: what a single camera shows at one place is not expected elsewhere.
    """
    cameras = list(zip(group_by_camera(split.train), group_by_camera(split.validation), strict=True))
    if len(cameras) == 1 or not spec.profile_size:
        return network.fit_scale(ClipDataset(split.train, spec.length), ClipDataset(split.validation, spec.length), spec.fps)
    frames = max(_MIN_PROFILE_FRAMES, _PROFILE_FRAMES // len(cameras))
    excerpted = ((ClipDataset(excerpts(part, frames), spec.length) for part in parts) for parts in cameras)
    profiles = [network.fit_scale(train, validation, spec.fps) for train, validation in excerpted]
    return network.join_profiles(torch.stack([profile for profile in profiles if profile is not None]))


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


def golden_sequences(
    network: ServingNetwork, spec: ClipSpec, held_out: Sequence[Footage], profile: Tensor | None = None
) -> GoldenSequences:
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
    return GoldenSequences(frames, sped_up, _score_sequences(network, spec, frames, profile))


def run_network(network: ServingNetwork, clips: NDArray[np.uint8], state: Tensor | None, profiles: Tensor | None) -> list[Tensor]:
    """Score (N,), heat map (N, h, w) and next state, if there is one, of clips (N, T, H, W, C) with profiles (N, P)."""
    return list(network(*(values for values in (torch.from_numpy(clips), state, profiles) if values is not None)))


def _repeated(profile: Tensor | None, count: int) -> Tensor | None:
    return None if profile is None else profile.expand(count, -1)


@torch.inference_mode()
def _score_sequences(
    network: ServingNetwork, spec: ClipSpec, frames: NDArray[np.uint8], profile: Tensor | None
) -> NDArray[np.float32]:
    scores = np.full(frames.shape[:2], np.nan, np.float32)
    state = None if spec.state_shape is None else torch.zeros((len(frames), *spec.state_shape))
    for end in range(spec.length, frames.shape[1] + 1):
        score, _, *rest = run_network(network, frames[:, end - spec.length : end], state, _repeated(profile, len(frames)))
        state = rest[0] if rest else None
        scores[:, end - 1] = score.numpy()
    return scores


@torch.inference_mode()
def golden_clips(network: ServingNetwork, spec: ClipSpec, held_out: ClipDataset, profile: Tensor | None) -> GoldenClips:
    """Evenly spaced held-out clips with all outputs of the network.

    With profiles, every second clip has another one, so that an engine that mixes them up is found out. With states, it
    is also shifted by some pixels against its state, as a camera that shakes would show it.
    """
    if spec.state_shape is None:
        clips, state = next(held_out.evenly_spaced(GOLDEN_CLIPS, GOLDEN_CLIPS)), None
    else:
        clips, state = _clips_with_states(network, spec, held_out, profile)
    profiles = _repeated(profile, len(clips))
    if profiles is not None:
        profiles = profiles.clone()
        profiles[1::2] = _OTHER_PROFILE * profiles[1::2] + _OTHER_OFFSET
    score, heatmap, *next_state = (output.numpy() for output in run_network(network, clips, state, profiles))
    before, given = (None if values is None else values.numpy() for values in (state, profiles))
    return GoldenClips(clips, score, heatmap, before, given, *next_state)


def _clips_with_states(
    network: ServingNetwork, spec: ClipSpec, held_out: ClipDataset, profile: Tensor | None
) -> tuple[NDArray[np.uint8], Tensor]:
    """Clips from the middle of equal parts, because the first one has no state yet, with the states that lead up to them."""
    clips, states = [], []
    for part in range(GOLDEN_STATES):
        number = (2 * part + 1) * len(held_out) // (2 * GOLDEN_STATES)
        video, first = held_out.locate(number)
        state = torch.zeros((1, *(spec.state_shape or ())))
        for before in range(max(0, first - spec.state_warmup_frames), first):
            clip = np.array(video.frames[None, before : before + spec.length])  # a copy: the frames are mapped read-only
            _, _, state = run_network(network, clip, state, _repeated(profile, 1))
        shift = _SHAKE_PX if part % 2 else (0, 0)
        clips.append(np.roll(video.frames[first : first + spec.length], shift, axis=(1, 2)))
        states.append(state)
    return np.stack(clips), torch.cat(states)
