"""The ``enrol`` command: learns the profile of one camera for a network that need not have seen it.

The footage is cut into blocks along time that take turns: three of five show what is usual, one sets the normal ranges, and one
the thresholds. So each part sees all hours of the footage, and no frame that sets a range also sets a threshold.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from deploy.bundle import Bundle, Calibration
from deploy.console import counting_bar
from deploy.engine import EngineRequest
from deploy.engines.torch import load_network
from deploy.errors import ProfileIncompatible
from deploy.profile import Profile, ProfileInfo
from deploy.registry import load_engine
from trainer.calibrate import calibration_from
from trainer.data.clips import ClipDataset
from trainer.data.datasets import training_sources
from trainer.data.footage import Footage, Source, estimate_frame_count, footage_info, load_all_footage, print_unreadable_frames
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

    video: Footage
    first: int
    last: int  # exclusive

    def footage(self, lead_frames: int = 0) -> Footage:
        """The block as footage, with at most ``lead_frames`` frames before it."""
        begin = max(0, self.first - lead_frames)
        frames = self.video.frames[begin : self.last]
        return replace(self.video, frames=frames, index=np.arange(len(frames)), total=len(frames), problems=())


def enrol(bundle: Bundle, camera_id: str, data: Path, screen: Console) -> Profile:
    """Learn the profile of the camera that recorded the normal footage in ``data``, for the network of ``bundle``.

    Raises:
        ProfileIncompatible: the model takes no profiles.
        TooLittleFootage: fewer than ``MIN_FRAMES`` readable frames.
        OddsightError: no footage, or no usable engine.
    """
    if not bundle.spec.profile_size:
        raise ProfileIncompatible(f"{bundle.path}: a model of kind {bundle.manifest.model.kind} takes no profiles; use calibrate")
    sources = training_sources(data)
    info = footage_info(sources)
    footage = _load(bundle, sources, screen)
    frames = sum(len(video.frames) for video in footage)
    if frames < MIN_FRAMES:
        raise TooLittleFootage(f"{data}: {frames} readable frames; a profile needs {MIN_FRAMES}, better 6000: give more footage")
    blocks = split_into_blocks(footage)
    values = _learn_values(load_network(bundle), blocks, screen)
    return Profile(
        ProfileInfo(
            camera_id=camera_id,
            model_id=bundle.model_id,
            created_at=datetime.now(UTC),
            footage=tuple(video.name for video in footage),
            frames=frames,
            fps=info.fps,
            height_px=info.height_px,
            width_px=info.width_px,
            calibration=_learn_thresholds(replace(bundle, default_profile=values), blocks["threshold"], screen),
        ),
        values,
    )


def split_into_blocks(footage: Sequence[Footage]) -> dict[Part, list[Block]]:
    """The blocks of each part; of long footage some, spread evenly over it."""
    frames = sum(len(video.frames) for video in footage)
    size = min(BLOCK_FRAMES, max(1, frames // _MIN_BLOCKS))
    blocks = [
        Block(video, first, min(first + size, len(video.frames)))
        for video in footage
        for first in range(0, len(video.frames), size)
        if len(video.frames) - first >= size / 2  # a few last frames of a clip are no block
    ]
    parts: dict[Part, list[Block]] = {part: [] for part in _MOST_BLOCKS}
    for number, block in enumerate(blocks):
        parts[_TURNS[number % len(_TURNS)]].append(block)
    return {part: _spread(found, _MOST_BLOCKS[part]) for part, found in parts.items()}


def _spread(blocks: list[Block], most: int) -> list[Block]:
    return [blocks[number] for number in np.unique(np.linspace(0, len(blocks) - 1, min(most, len(blocks))).astype(int))]


def _load(bundle: Bundle, sources: list[Source], screen: Console) -> list[Footage]:
    with counting_bar(screen, "decoding", sum(map(estimate_frame_count, sources))) as advance:

        def done(video: Footage) -> None:
            advance(video.total)
            print_unreadable_frames(screen, video)

        return load_all_footage(sources, bundle.spec, done)


def _learn_values(network: ServingNetwork, blocks: dict[Part, list[Block]], screen: Console) -> NDArray[np.float32]:
    usual, ranges = (ClipDataset(tuple(block.footage() for block in blocks[part]), 1) for part in ("usual", "range"))
    with screen.status("learning what is usual"):
        values = network.fit_scale(usual, ranges)
    if values is None:
        raise ProfileIncompatible("the network returned no profile")
    learnt: NDArray[np.float32] = values.numpy()
    return learnt


def _learn_thresholds(bundle: Bundle, blocks: list[Block], screen: Console) -> Calibration:
    lead = bundle.spec.warmup_frames
    with (
        closing(load_engine(bundle, EngineRequest())) as engine,
        counting_bar(screen, "thresholds", sum(block.last - max(0, block.first - lead) for block in blocks)) as advance,
    ):
        rows = score_clips(engine, (block.footage(lead) for block in blocks), advance)
    # The frames before a block only build up the state.
    scores = np.concatenate([row[block.first - block.last :] for block, (_, row) in zip(blocks, rows, strict=True)])
    return calibration_from(scores[np.isfinite(scores)])
