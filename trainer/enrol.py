"""The ``enrol`` command: learns the profile of one camera for a network that need not have seen it.

The footage is cut into blocks along time that take turns: three of five show what is usual, one sets the normal ranges, and one
the thresholds. So each part sees all hours of the footage, and no frame that sets a range also sets a threshold.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from deploy.bundle import Bundle
from deploy.calibration import Calibration
from deploy.console import counting_bar
from deploy.engine import EngineRequest
from deploy.engines.torch import load_network
from deploy.errors import ProfileIncompatible
from deploy.image import Frame
from deploy.profile import Profile, ProfileInfo
from deploy.registry import load_engine
from deploy.spec import ClipSpec
from trainer.calibrate import calibration_from
from trainer.data.clips import ClipDataset
from trainer.data.datasets import training_sources
from trainer.data.footage import (
    Footage,
    Source,
    collect_frames,
    count_frames,
    decode_frames,
    estimate_frame_count,
    footage_info,
    print_unreadable_frames,
)
from trainer.errors import TooLittleFootage
from trainer.evaluation.runner import score_clips
from trainer.models.base import ServingNetwork

MIN_FRAMES = 300  # half a minute; a fifth of it sets the thresholds
BLOCK_FRAMES = 128
_MIN_BLOCKS = 15  # three of each part at least, so that one block cannot decide alone

Part = Literal["usual", "range", "threshold"]
_TURNS: tuple[Part, ...] = ("usual", "range", "usual", "threshold", "usual")
# Blocks that are scored, at most: a profile takes a minute of one core, however long the footage is.
_MOST_BLOCKS: dict[Part, int] = {"usual": 9, "range": 6, "threshold": 12}


class Block(NamedTuple):
    """Consecutive frames of a clip."""

    clip: int  # number of the source
    first: int
    last: int  # exclusive


def enrol(bundle: Bundle, camera_id: str, data: Path, screen: Console) -> Profile:
    """Learn the profile of the camera that recorded the normal footage in ``data``, for the network of ``bundle``.

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
    footage = _load_blocks(sources, plan_blocks(counts), bundle.spec, screen)
    values = _learn_values(bundle, footage, screen)
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
            calibration=_learn_thresholds(replace(bundle, default_profile=values), footage["threshold"], info.fps, screen),
        ),
        values,
    )


def plan_blocks(counts: Sequence[int]) -> dict[Part, list[Block]]:
    """The blocks of each part, of clips with so many frames; of long footage some, spread evenly over it."""
    size = min(BLOCK_FRAMES, max(1, sum(counts) // _MIN_BLOCKS))
    blocks = [
        Block(clip, first, min(first + size, count))
        for clip, count in enumerate(counts)
        for first in range(0, count, size)
        if count - first >= size / 2  # a few last frames of a clip are no block
    ]
    parts: dict[Part, list[Block]] = {part: [] for part in _MOST_BLOCKS}
    for number, block in enumerate(blocks):
        parts[_TURNS[number % len(_TURNS)]].append(block)
    return {part: _spread(found, _MOST_BLOCKS[part]) for part, found in parts.items()}


def _spread(blocks: list[Block], most: int) -> list[Block]:
    return [blocks[number] for number in np.unique(np.linspace(0, len(blocks) - 1, min(most, len(blocks))).astype(int))]


class LoadedBlock(NamedTuple):
    """A block as footage of its own."""

    footage: Footage
    lead_frames: int  # of the footage's frames come before the block and only build up the state


def _load_blocks(
    sources: Sequence[Source], parts: Mapping[Part, Sequence[Block]], spec: ClipSpec, screen: Console
) -> dict[Part, list[LoadedBlock]]:
    """The frames of the blocks alone, so that memory does not grow with the footage; those of thresholds with frames before.

    Raises TooLittleFootage if a part has no readable frame.
    """
    leads = dict.fromkeys(parts["threshold"], spec.warmup_frames)
    chosen = [[block for blocks in parts.values() for block in blocks if block.clip == clip] for clip in range(len(sources))]
    loaded: dict[Block, LoadedBlock] = {}
    with counting_bar(screen, "decoding", sum(map(_end, chosen))) as advance:
        for source, blocks in zip(sources, chosen, strict=True):
            loaded |= _load_clip(source, spec, {block: leads.get(block, 0) for block in blocks}, advance)
    for block in loaded.values():
        print_unreadable_frames(screen, block.footage)
    found = {part: [loaded[block] for block in blocks if block in loaded] for part, blocks in parts.items()}
    if not all(found.values()):
        raise TooLittleFootage(f"too few readable frames in {len(sources)} clips to learn a profile from; check the files")
    return found


def _load_clip(
    source: Source, spec: ClipSpec, leads: Mapping[Block, int], advance: Callable[[int], None]
) -> dict[Block, LoadedBlock]:
    """The blocks of one clip that have readable frames; ``leads``: blocks, and the number of frames wanted before each."""
    outcomes: dict[Block, list[Frame | str]] = {block: [] for block in leads}
    for number, outcome in enumerate(islice(decode_frames(source, spec), _end(leads))):
        advance(1)
        for block, lead in leads.items():
            if block.first - lead <= number < block.last:
                outcomes[block].append(outcome)
    loaded = {block: _loaded(source.name, found, min(leads[block], block.first)) for block, found in outcomes.items()}
    return {block: each for block, each in loaded.items() if (each.footage.index >= each.lead_frames).any()}


def _loaded(name: str, outcomes: list[Frame | str], lead_frames: int) -> LoadedBlock:
    frames: list[Frame] = []
    index, total, problems = collect_frames(outcomes, frames.append)
    stacked = np.stack(frames) if frames else np.empty(0, np.uint8)
    return LoadedBlock(Footage(name, stacked, np.asarray(index, np.int64), total, tuple(problems)), lead_frames)


def _end(blocks: Iterable[Block]) -> int:
    return max((block.last for block in blocks), default=0)


def _learn_values(bundle: Bundle, parts: Mapping[Part, list[LoadedBlock]], screen: Console) -> NDArray[np.float32]:
    network: ServingNetwork = load_network(bundle)
    usual, ranges = (
        ClipDataset(tuple(block.footage for block in parts[part]), bundle.spec.length) for part in ("usual", "range")
    )
    with screen.status("learning what is usual"):
        values = network.fit_scale(usual, ranges)
    if values is None:
        raise ProfileIncompatible("the network returned no profile")
    learnt: NDArray[np.float32] = values.numpy()
    return learnt


def _learn_thresholds(bundle: Bundle, blocks: Sequence[LoadedBlock], fps: float, screen: Console) -> Calibration:
    with (
        closing(load_engine(bundle, EngineRequest())) as engine,
        counting_bar(screen, "thresholds", sum(len(block.footage.frames) for block in blocks)) as advance,
    ):
        rows = score_clips(engine, (block.footage for block in blocks), advance)
    return calibration_from([row[block.lead_frames :] for block, (_, row) in zip(blocks, rows, strict=True)], fps)
