"""Models of pictures on clips: the view of a clip is cut into overlapping tiles, each of which is a picture to the model.

The papers' networks squeeze a picture of one object into one vector. A frame of a street is no such picture, but a tile as large
as a person is. A clip's score is its strangest tile's, the heat map shows all of them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from deploy.engine import Clips
from deploy.spec import ClipSpec
from trainer.models.base import ClipModel, ClipViewNetwork, RangeScaler
from trainer.models.optical_flow import MotionView, StillView
from trainer.training.interfaces import NORMAL, Batch, Learner, Recipe, Settings
from trainer.training.loop import Samples

FRAME_AREA_PX = 38_400
SIDE_STEP_PX = 16
"""Frames are fitted to about this many pixels: 160 x 240."""
BATCH_TILES = 128
VALIDATION_PICTURES = 24
_PLACES_TRIED = 4
_SETTLED_CLIPS = 4  # one in so many: a clip has a hundred tiles


class TileConfig(Settings):
    """How clips become tiles, and the settings of the network that scores them."""

    length: int = Field(default=5, ge=1, le=16)
    """1: still pictures, brightness only."""
    height_px: int = Field(default=160, ge=32, multiple_of=16)
    width_px: int = Field(default=240, ge=32, multiple_of=16)
    full_scale_px: float = Field(default=2.0, gt=0)
    flow_window: int = Field(default=7, ge=3)
    side: int = Field(default=16, ge=16, multiple_of=16)
    """Of a tile, in cells of 2 x 2 frame pixels."""
    step: int = Field(default=8, ge=1)
    """From tile to tile, in cells."""
    network: dict[str, Any] = Field(default_factory=dict)

    def spec(self, fps: float) -> ClipSpec:
        """The clips that this network takes."""
        return ClipSpec(length=self.length, height_px=self.height_px, width_px=self.width_px, colour="gray", fps=fps)


class TiledNetwork(ClipViewNetwork):
    """The serving graph of a model of pictures."""

    batch = BATCH_TILES

    def __init__(self, recipe: Recipe, config: TileConfig) -> None:
        super().__init__()
        self.config, self._recipe = config, recipe
        self.view: MotionView | StillView
        if config.length == 1:
            self.view = StillView()
        else:
            self.view = MotionView(full_scale_px=config.full_scale_px, window=config.flow_window, motion=True)
        self._settings = recipe.configure(config.network)
        self.detector = recipe.detector(self._settings, (self.view.channels, config.side, config.side))
        self.range = RangeScaler()

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`ClipViewNetwork`. The heat map is the score of every tile."""
        heatmap = self.range(self._tile_scores(clips))
        return torch.amax(heatmap, dim=(1, 2)), heatmap

    @property
    def length(self) -> int:
        """See :class:`ClipViewNetwork`."""
        return self.config.length

    def learner(self) -> Learner:
        """See :class:`ClipViewNetwork`."""
        return self._recipe.learner(self.detector, self._settings)

    def samples(self, pictures: Tensor) -> Samples:
        """See :class:`ClipViewNetwork`: tiles at random places."""
        return RandomTiles(pictures, self.config.side)

    def validation(self, pictures: Tensor) -> Tensor:
        """See :class:`ClipViewNetwork`: all tiles of a few pictures."""
        chosen = torch.linspace(0, len(pictures) - 1, min(VALIDATION_PICTURES, len(pictures))).long()
        return cut(pictures[chosen], self.config.side, self.config.step).flatten(0, 2)

    def reconstruct(self, samples: Tensor) -> Tensor:
        """See :class:`ClipViewNetwork`."""
        return self.detector.reconstruct(samples)

    @torch.no_grad()
    def fit_clips(self, learned: Iterable[Clips], held_out: Iterable[Clips]) -> None:
        """See :class:`ClipViewNetwork`."""
        seen = [self._tiles(torch.from_numpy(clips[::_SETTLED_CLIPS])).flatten(0, 2) for clips in learned]
        self.detector.fit_scale(torch.cat(seen))
        self.range.fit([self._tile_scores(torch.from_numpy(clips)) for clips in held_out])

    def _tiles(self, clips: Tensor) -> Tensor:
        return cut(self.view(clips), self.config.side, self.config.step)

    def _tile_scores(self, clips: Tensor) -> Tensor:
        """(N, rows, columns)."""
        tiles = self._tiles(clips)
        scores: Tensor = self.detector(tiles.flatten(0, 2))
        return scores.view(-1, tiles.shape[1], tiles.shape[2])


@dataclass(frozen=True, slots=True)
class RandomTiles:
    """One tile of each picture drawn, (N, C, side, side): half of them anywhere, half where there is much to see."""

    pictures: Tensor
    """float (N, C, h, w)."""
    side: int

    def __len__(self) -> int:
        return len(self.pictures)

    def draw(self, numbers: Tensor) -> Batch:
        """See :class:`trainer.training.loop.Samples`."""
        tries = torch.stack([self._somewhere(numbers) for _ in range(_PLACES_TRIED)])
        liveliest = tries.float().var(dim=(3, 4)).sum(dim=2).argmax(dim=0)
        chosen = torch.where(torch.arange(len(numbers)) % 2 == 0, liveliest, 0)
        return Batch(tries[chosen, torch.arange(len(numbers))], torch.full((len(numbers),), NORMAL))

    def _somewhere(self, numbers: Tensor) -> Tensor:
        height, width = self.pictures.shape[2:]
        cells = torch.arange(self.side)
        rows = torch.randint(height - self.side + 1, (len(numbers), 1)) + cells
        columns = torch.randint(width - self.side + 1, (len(numbers), 1)) + cells
        return self.pictures[numbers[:, None, None], :, rows[:, :, None], columns[:, None, :]].movedim(3, 1)


def cut(pictures: Tensor, side: int, step: int) -> Tensor:
    """Pictures (N, C, h, w) to tiles (N, rows, columns, C, side, side)."""
    return pictures.unfold(2, side, step).unfold(3, side, step).movedim(1, 3)


def tiled(recipe: Recipe, network: Mapping[str, Any]) -> ClipModel:
    """A model of pictures as a model of clips; ``network``: its settings there, where they differ from its defaults."""

    def configure(settings: Mapping[str, Any]) -> TileConfig:
        return TileConfig.model_validate({"network": dict(network), **settings})

    return ClipModel(recipe.kind, FRAME_AREA_PX, SIDE_STEP_PX, configure, lambda config: TiledNetwork(recipe, config))
