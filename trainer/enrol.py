"""The ``enrol`` command: learns the profile of one camera for a network that need not have seen it.

Blocks of the footage, spread over its whole time, show what is usual, and others set the normal ranges. All the rest is scored
with the profile, first for the thresholds of the parts of the score, then for the calibration: no frame that sets a range also
sets a threshold.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from deploy.bundle import Bundle
from deploy.console import counting_bar
from deploy.decision import DecisionTimes
from deploy.dwell import reduce_frame
from deploy.engine import EngineRequest
from deploy.engines.torch import load_network
from deploy.errors import ProfileIncompatible
from deploy.image import Frame
from deploy.profile import Profile, ProfileInfo, ProfileValues
from deploy.profile_learning import Maxima, Normal, light_factors, replace_normal, thresholds_in_lights
from deploy.registry import load_engine
from deploy.score_maps import Grid
from deploy.spec import ClipSpec
from trainer.calibrate import calibration_from
from trainer.data.clips import ClipDataset
from trainer.data.datasets import training_sources
from trainer.data.footage import (
    Block,
    Footage,
    PlaceFootage,
    Source,
    collect_frames,
    count_frames,
    decode_frames,
    estimate_frame_count,
    footage_info,
    plan_windows,
    spread,
)
from trainer.errors import TooLittleFootage
from trainer.evaluation.runner import score_clips
from trainer.models.base import ServingNetwork
from trainer.training.distributed import DistributedContext
from trainer.training.interfaces import Learner
from trainer.training.loop import Callback, LoopSettings, TrainingState, run_loop
from trainer.window_scores import WindowMaxima, WindowScorer

ADAPTATION_STEPS = 800  # two to three minutes of two cores; the loss hardly falls any more
_SEED = 0
MIN_FRAMES = 300  # half a minute; a fifth of it sets the thresholds
BLOCK_FRAMES = 128
_MIN_BLOCKS = 15  # three of each part at least, so that one block cannot decide alone

Part = Literal["usual", "range", "threshold"]
_TURNS: tuple[Part, ...] = ("usual", "range", "usual", "threshold", "usual")
# Blocks that are learned from, at most; what more footage has is left to the thresholds.
_MOST_BLOCKS: dict[Part, int] = {"usual": 9, "range": 6}


class Loaded(NamedTuple):
    """What a profile is learned from."""

    parts: dict[Part, list[Footage]]
    places: PlaceFootage


def enrol(bundle: Bundle, camera_id: str, data: Path, screen: Console, *, adapt: bool = True) -> Profile:
    """Learn the profile of the camera that recorded the normal footage in ``data``, for the network of ``bundle``.

    ``adapt``: also adapt the network to the camera by scales and shifts that are part of the profile, which takes minutes.

    Raises:
        ProfileIncompatible: the model takes no profiles.
        TooLittleFootage: fewer than ``MIN_FRAMES`` frames.
        OddsightError: no footage, or no usable engine.
    """
    if not bundle.spec.profile_size:
        raise ProfileIncompatible(f"{bundle.path}: a model of kind {bundle.manifest.model.kind} takes no profiles; use calibrate")
    sources = training_sources(data)
    info = footage_info(sources)
    counts = [estimate_frame_count(source) or count_frames(source) for source in sources]
    if sum(counts) < MIN_FRAMES:
        raise TooLittleFootage(f"{data}: {sum(counts)} frames; a profile needs {MIN_FRAMES}, better 6000: give more footage")
    blocks, windows = plan_blocks(counts), plan_windows(counts)
    loaded = _load(sources, blocks, windows, bundle.spec, info.fps, screen)
    values = _learn_values(bundle, loaded, screen, adapt=adapt)
    learned = [block for part in ("usual", "range") for block in blocks[part]]
    with closing(load_engine(bundle, EngineRequest())) as engine:
        scorer = WindowScorer(engine, Grid.of(bundle), sources, windows, learned, info.fps, screen)
        values = _with_part_thresholds(bundle, values, scorer.part_maxima(values), loaded)
        values, rows = _with_light_thresholds(bundle, values, scorer.scores(values))
    return Profile(
        ProfileInfo(
            camera_id=camera_id,
            model_id=bundle.model_id,
            created_at=datetime.now(UTC),
            footage=tuple(source.name for source in sources),
            frames=sum(counts),
            fps=info.fps,
            height_px=info.height_px,
            width_px=info.width_px,
            calibration=calibration_from(rows, info.fps),
        ),
        values,
    )


def plan_blocks(counts: Sequence[int]) -> dict[Part, list[Block]]:
    """The blocks to learn from, of clips with so many frames; of long footage some, spread evenly over it."""
    size = min(BLOCK_FRAMES, max(1, sum(counts) // _MIN_BLOCKS))
    blocks = [
        Block(clip, first, min(first + size, count))
        for clip, count in enumerate(counts)
        for first in range(0, count, size)
        if count - first >= size / 2  # a few last frames of a clip are no block
    ]
    turns: dict[str, list[Block]] = {part: [] for part in _TURNS}
    for number, block in enumerate(blocks):
        turns[_TURNS[number % len(_TURNS)]].append(block)
    return {part: spread(turns[part], most) for part, most in _MOST_BLOCKS.items()}


def _load(
    sources: Sequence[Source],
    parts: Mapping[Part, Sequence[Block]],
    windows: Sequence[Block],
    spec: ClipSpec,
    fps: float,
    screen: Console,
) -> Loaded:
    """The frames of the blocks, and those of the windows reduced to places, so that memory does not grow with the footage.

    Raises TooLittleFootage if a part has no readable frame.
    """
    chosen = [block for blocks in parts.values() for block in blocks]
    loaded: dict[Block, Footage] = {}
    stretches: list[NDArray[np.uint8]] = []
    ends = [_end(block for block in (*chosen, *windows) if block.clip == clip) for clip in range(len(sources))]
    with counting_bar(screen, "decoding", sum(ends)) as advance:
        for clip, source in enumerate(sources):
            frames = _counted(islice(decode_frames(source, spec), ends[clip]), advance)
            own_blocks, own_windows = ([block for block in each if block.clip == clip] for each in (chosen, windows))
            found, reduced = _load_clip(source.name, frames, spec, own_blocks, own_windows)
            loaded |= found
            stretches += [np.stack(pictures) for pictures in reduced if pictures]
    found_parts = {part: [loaded[block] for block in blocks if len(loaded[block].frames)] for part, blocks in parts.items()}
    if not all(found_parts.values()):
        raise TooLittleFootage(f"too few readable frames in {len(sources)} clips to learn a profile from; check the files")
    return Loaded(found_parts, PlaceFootage(stretches, fps))


def _counted(frames: Iterable[Frame | str], advance: Callable[[int], None]) -> Iterator[Frame | str]:
    for frame in frames:
        yield frame
        advance(1)


def _load_clip(
    name: str, frames: Iterable[Frame | str], spec: ClipSpec, blocks: Sequence[Block], windows: Sequence[Block]
) -> tuple[dict[Block, Footage], list[list[NDArray[np.uint8]]]]:
    """The blocks of a clip, and the frames of its windows reduced to places."""
    outcomes: dict[Block, list[Frame | str]] = {block: [] for block in blocks}
    leads: dict[Block, list[Frame]] = {block: [] for block in blocks}
    reduced: dict[Block, list[NDArray[np.uint8]]] = {window: [] for window in windows}
    for number, outcome in enumerate(frames):
        for window in windows:
            if window.first <= number < window.last and not isinstance(outcome, str):
                reduced[window].append(reduce_frame(outcome))
        for block in blocks:
            if block.first <= number < block.last:
                outcomes[block].append(outcome)
            elif block.first - spec.warmup_frames <= number < block.first and not isinstance(outcome, str):
                leads[block].append(outcome)
    return {block: _loaded(name, found, leads[block]) for block, found in outcomes.items()}, list(reduced.values())


def _loaded(name: str, outcomes: list[Frame | str], lead: list[Frame]) -> Footage:
    frames: list[Frame] = []
    index, total, problems = collect_frames(outcomes, frames.append)
    stacked = np.stack(frames) if frames else np.empty(0, np.uint8)
    before = np.stack(lead) if lead else None
    return Footage(name, stacked, np.asarray(index, np.int64), total, tuple(problems), before=before)


def _end(blocks: Iterable[Block]) -> int:
    return max((block.last for block in blocks), default=0)


def _learn_values(bundle: Bundle, loaded: Loaded, screen: Console, *, adapt: bool) -> NDArray[np.float32]:
    network: ServingNetwork = load_network(bundle)
    adaptation = _adapt(network, loaded.parts["usual"], screen) if adapt else None
    usual, ranges = (ClipDataset(tuple(loaded.parts[part]), bundle.spec.length) for part in ("usual", "range"))
    with screen.status("learning what is usual"):
        values: NDArray[np.float32] = network.fit_profile(usual, ranges, loaded.places, adaptation).numpy()
    return values


def _with_part_thresholds(bundle: Bundle, values: ProfileValues, parts: WindowMaxima, loaded: Loaded) -> ProfileValues:
    """Values with the thresholds that the parts of the score need, and the ranges of the three together anew."""
    shape = Grid.of(bundle).shape
    needed = thresholds_in_lights(parts.maxima, parts.split, DecisionTimes())
    normal = Normal.from_values(values, shape).with_part_thresholds(needed)
    unscaled = replace_normal(values, shape, normal.with_joint_unscaled())
    with closing(load_engine(replace(bundle, default_profile=unscaled), EngineRequest())) as engine:
        scored = zip(loaded.parts["range"], score_clips(engine, loaded.parts["range"], fps=loaded.places.fps), strict=True)
        joint = Maxima.joined(_joint(clip, scores, normal) for clip, (_, scores) in scored)
    return replace_normal(values, shape, normal.with_joint_ranges(joint))


def _joint(clip: Footage, scores: NDArray[np.float32], normal: Normal) -> Maxima:
    """Score and light of each frame of a clip that has a score, (1, n)."""
    own = scores[clip.index]
    lights = normal.lights_of(np.stack([reduce_frame(frame) for frame in clip.frames]).astype(np.float32))
    return Maxima(own[None, np.isfinite(own)], lights[np.isfinite(own)])


def _with_light_thresholds(
    bundle: Bundle, values: ProfileValues, scores: WindowMaxima
) -> tuple[ProfileValues, list[NDArray[np.float32]]]:
    """Values with which the score needs the same threshold in each light, and the scores of each window with them."""
    shape, (all_scores,) = Grid.of(bundle).shape, scores.maxima.values
    factors = light_factors(thresholds_in_lights(scores.maxima, scores.split, DecisionTimes())[:, 0])
    normal = Normal.from_values(values, shape).with_joint_widened(factors)
    rows = scores.split(all_scores / factors[scores.maxima.lights])
    return replace_normal(values, shape, normal), [row.scores for row in rows]


def _adapt(network: ServingNetwork, footage: list[Footage], screen: Console) -> Tensor:
    """The network's adaptation to the camera, (A,)."""
    torch.manual_seed(_SEED)
    stage, values = network.adaptation_stage(footage, partial(counting_bar, screen))
    settings = LoopSettings(seed=_SEED, batch=stage.batch_size, steps=ADAPTATION_STEPS)
    with counting_bar(screen, "adapting", ADAPTATION_STEPS) as advance:
        run_loop(stage.learner, stage.data, settings, DistributedContext(accelerator="cpu"), _StepCounter(advance))
    return values.detach()


class _StepCounter(Callback):
    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance

    def on_step_end(self, learner: Learner, state: TrainingState, losses: Mapping[str, float]) -> None:
        self._advance(1)
