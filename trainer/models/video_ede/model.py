"""The default model of video: an encoder-decoder-encoder that carries what it knows along with what moves.

    newest frame, two before ─FlowNet─▶ flow ─┬─▶ velocity averaged along the moving thing ─▶ too fast for its row?
                                                │                                            ─▶ beyond its place's limits?
                                                └─▶ AnomalyNet (E1, D, E2) ─▶ strangeness, averaged likewise

Each is a map in units of its own normal range; they add up, as the rarities of independent signs do. The score is the largest
value of the map. Recurrent: the state holds the frames before and the averages. A camera's first frame has no motion and is
judged by its looks alone.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from deploy.spec import ClipSpec
from trainer.data.clips import ClipDataset, Split
from trainer.models.base import ClipModel, ProgressBar, ServingNetwork, TrainingStage
from trainer.models.video_ede.learners import TrainableNetworks
from trainer.models.video_ede.networks import CELL_PX, AnomalyNet, FlowNet, normalise_frames, resize_to, warp
from trainer.models.video_ede.score_scale import ScoreMaps, ScoreScale, first_looks, walk
from trainer.models.video_ede.stages import video_stages
from trainer.training.interfaces import Settings

KIND = "video-ede"
FRAME_AREA_PX = 86_400
"""Frames are fitted to about this many pixels, 240 x 360: people of the usual benchmarks are then 30 pixels tall and more."""
SIDE_STEP_PX = 8
HISTORY = (1, 2)
"""How many frames before the newest one the others lie. A fourth frame made the flow better by 3 % only."""
WARMUP_FRAMES = 64
"""0.8 to the power of 64 is less than a millionth, the rounding of a published score: a restart must not turn a decision over."""

_LEAST_SHARE = 0.2
"""Of the newest frame in the averages."""
_FIRST_VARIANCE = 0.3**2
_TINY = 1e-6


class VideoEdeConfig(Settings):
    """Everything needed to build the network; stored in the bundle."""

    height_px: int = Field(default=240, ge=64, multiple_of=SIDE_STEP_PX)
    width_px: int = Field(default=360, ge=64, multiple_of=SIDE_STEP_PX)
    first: int = Field(default=16, ge=1)
    fine: int = Field(default=32, ge=1)
    coarse: int = Field(default=48, ge=1)
    width: int = Field(default=48, ge=6, multiple_of=6)
    latent: int = Field(default=16, ge=1)
    window: int = Field(default=3, ge=1)
    """Side of the windows whose mean counts, in cells of 4 x 4 pixels."""
    steady_spreads: float = Field(default=0.25, ge=0)
    """Subtracted from the averaged speed: a leg is fast but uneven."""
    jerky_spreads: float = Field(default=1.5, ge=0)
    """Added to the averaged speed where it is compared with its place's limit."""
    learning_rate: float = Field(default=3e-3, gt=0)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return self.height_px // CELL_PX, self.width_px // CELL_PX

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """Of one camera's state."""
        return (_FRAME_CHANNELS * HISTORY[-1] + _KNOWN_CHANNELS, *self.grid)

    def spec(self, fps: float) -> ClipSpec:
        """One frame at a time, and a state."""
        return ClipSpec(
            length=1,
            height_px=self.height_px,
            width_px=self.width_px,
            colour="gray",
            fps=fps,
            state_shape=self.state_shape,
            state_warmup_frames=WARMUP_FRAMES,
        )


_FRAME_CHANNELS = CELL_PX * CELL_PX
"""A frame is kept in as many maps of the grid as a cell has pixels."""
_KNOWN_CHANNELS = 6


class MotionState(NamedTuple):
    """What is remembered of each cell, (N, c, h, w)."""

    velocity: Tensor
    """Two channels: pixels a frame right and down, averaged along the way."""
    variance: Tensor
    """Of the velocity, both directions together."""
    strangeness: Tensor
    """0 to 1, averaged along the way."""
    age: Tensor
    """Frames with motion since the thing entered the picture."""
    watched: Tensor
    """1 once a frame was seen."""


class VideoEde(ServingNetwork):
    """The graph that engines run: uint8 (N, 1, H, W, 1) and state in; score, heat map (N, H / 4, W / 4) and next state out."""

    def __init__(self, config: VideoEdeConfig) -> None:
        super().__init__()
        self.config = config
        self.motion = FlowNet(len(HISTORY), config.first, config.fine, config.coarse)
        self.judge = AnomalyNet(config.fine, config.coarse, config.width, config.latent)
        self.scale = ScoreScale(config.grid)
        self.place: Tensor
        self.register_buffer("place", position_grid(config.grid)[None], persistent=False)

    def forward(self, clips: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        terms, following = self.look(clips, state)
        heatmap = self.scale(terms)
        return torch.amax(heatmap, dim=(1, 2)), heatmap, following

    def look(self, clips: Tensor, state: Tensor) -> tuple[ScoreMaps, Tensor]:
        """The score's parts, and the next state."""
        frame = clips.float()[:, 0, :, :, 0][:, None]
        packed = _packed(frame)
        past, known = self._remembered(packed, state)
        history = [_unpacked(maps) for maps in past]
        seen = self.motion(torch.cat([frame, *history], dim=1))
        judged = self.judge(normalise_frames(frame), seen, self.place.expand(frame.shape[0], -1, -1, -1))
        strangeness = (torch.sigmoid(judged.strange) + resize_to(torch.sigmoid(judged.distant), judged.strange)) / 2.0
        now = _updated(known, seen.flow, strangeness)
        return self._terms(now), torch.cat([packed, *past[:-1], *now], dim=1)

    def stages(self, split: Split, work: ProgressBar) -> Iterator[TrainingStage]:
        """See :class:`ServingNetwork`: first motion, then strangeness."""
        parts = TrainableNetworks(self.motion, self.judge, HISTORY, self.config.learning_rate)
        return video_stages(self, parts, split, work)

    def fit_scale(self, learned: ClipDataset, held_out: ClipDataset) -> None:
        """See :class:`ServingNetwork`."""
        shape = self.config.state_shape
        first = first_looks(self.look, held_out, shape)
        self.scale.fit(walk(self.look, learned, shape), walk(self.look, held_out, shape), first)

    def _remembered(self, packed: Tensor, state: Tensor) -> tuple[list[Tensor], MotionState]:
        """The frames before, packed, newest first, and what was known; before a camera's first frame nothing moved."""
        count = HISTORY[-1]
        *frames, maps = torch.split(state, [_FRAME_CHANNELS] * count + [_KNOWN_CHANNELS], dim=1)
        known = MotionState(*torch.split(maps, [2, 1, 1, 1, 1], dim=1))
        begun = known.watched[:, :, :1, :1] > 0.5
        return [torch.where(begun, maps, packed) for maps in frames], known

    def _terms(self, now: MotionState) -> ScoreMaps:
        watched = (now.age.amax(dim=(2, 3), keepdim=True) * _LEAST_SHARE).expand_as(now.age)
        speed = (now.velocity.square().sum(dim=1, keepdim=True) + _TINY).sqrt()
        spread = (now.variance + _TINY).sqrt()
        maps = torch.cat(
            [
                (speed - self.config.steady_spreads * spread),
                (speed + self.config.jerky_spreads * spread),
                now.strangeness,
                watched,
            ],
            dim=1,
        )
        side = self.config.window
        # Only windows wholly inside the picture: at its edge motion is guessed. The others get their nearest neighbour's mean.
        before, after = (side - 1) // 2, side // 2
        means = nn.functional.pad(nn.functional.avg_pool2d(maps, side, 1), (before, after, before, after), mode="replicate")
        return ScoreMaps(*means.unbind(dim=1))


def _updated(known: MotionState, flow: Tensor, strangeness: Tensor) -> MotionState:
    """The averages with a new frame; what enters the picture, and all of a camera's second frame, begins anew."""
    carried, sure = warp(torch.cat(known, dim=1), flow / CELL_PX)
    velocity, variance, strange, age, _ = torch.split(carried, [2, 1, 1, 1, 1], dim=1)
    watched = known.watched
    # On a camera's first frame there is no motion that could be averaged: its age stays 0.
    age = (sure * age + 1.0) * watched
    share = torch.clamp(1.0 / torch.clamp(age, min=1.0), min=_LEAST_SHARE)
    change = -flow - velocity
    spread = (1.0 - share) * (variance + share * change.square().sum(dim=1, keepdim=True))
    return MotionState(
        velocity=(velocity + share * change) * watched,
        variance=spread + _FIRST_VARIANCE * torch.clamp(2.0 - age, 0.0, 1.0),
        strangeness=strange + share * (strangeness - strange),
        age=torch.clamp(age, max=1.0 / _LEAST_SHARE),
        watched=torch.ones_like(watched),
    )


def _packed(frame: Tensor) -> Tensor:
    """A frame (N, 1, H, W) as (N, 16, h, w), just as it lies in memory: putting cells together would take 2 % of all time."""
    height, width = frame.shape[2:]
    return frame.reshape(-1, _FRAME_CHANNELS, height // CELL_PX, width // CELL_PX)


def _unpacked(maps: Tensor) -> Tensor:
    """What :func:`_packed` made, back."""
    rows, columns = maps.shape[2:]
    return maps.reshape(-1, 1, rows * CELL_PX, columns * CELL_PX)


def position_grid(grid: tuple[int, int]) -> Tensor:
    """Where each cell lies in the frame: (2, h, w), -1 to 1 across and down."""
    down = torch.linspace(-1.0, 1.0, grid[0])[:, None].expand(grid)
    across = torch.linspace(-1.0, 1.0, grid[1]).expand(grid)
    return torch.stack([across, down])


CLIP_MODEL = ClipModel(KIND, FRAME_AREA_PX, SIDE_STEP_PX, VideoEdeConfig.model_validate, VideoEde, learns_marks=True)
