"""Image models on video: the view of a clip is cut into overlapping tiles, and each tile is one image to the model.

The papers' networks compress the image of one object to one vector. A street scene is no such image, but a tile of about a
person's size is. The score of a clip is the highest score of its tiles; the heat map shows the scores of all tiles.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from deploy.engine import Clips
from deploy.spec import ClipSpec
from trainer.models.base import ClipModel, ClipViewNetwork, RangeScaler, evenly_spaced
from trainer.models.optical_flow import MotionView, StillView
from trainer.training.interfaces import NORMAL, Batch, Learner, Recipe, Settings
from trainer.training.loop import Samples

FRAME_AREA_PX = 38_400  # 160 x 240
SIDE_STEP_PX = 16
VALIDATION_VIEWS = 24
_POSITIONS_TRIED = 4
_FIT_EVERY = 4  # one clip in four is enough to fit score scales: a clip has a hundred tiles


class TileConfig(Settings):
    """How clips are cut into tiles, and the settings of the network that scores them."""

    length: int = Field(default=5, ge=1, le=16)
    """1: still images, brightness only."""
    height_px: int = Field(default=160, ge=32, multiple_of=16)
    width_px: int = Field(default=240, ge=32, multiple_of=16)
    full_scale_px: float = Field(default=2.0, gt=0)
    flow_window: int = Field(default=7, ge=3)
    side: int = Field(default=16, ge=16, multiple_of=16)
    """Side of a tile, in cells of 2 x 2 frame pixels."""
    step: int = Field(default=8, ge=1)
    """Distance between tiles, in cells."""
    network: dict[str, Any] = Field(default_factory=dict)

    def spec(self, fps: float) -> ClipSpec:
        return ClipSpec(length=self.length, height_px=self.height_px, width_px=self.width_px, colour="gray", fps=fps)


class TiledNetwork(ClipViewNetwork):
    """An image model that scores the tiles of clips."""

    batch_size = 128

    def __init__(self, recipe: Recipe, config: TileConfig) -> None:
        super().__init__()
        self.config, self.length, self._recipe = config, config.length, recipe
        motion = MotionView(full_scale_px=config.full_scale_px, window=config.flow_window, motion=True)
        self.view: MotionView | StillView = StillView() if config.length == 1 else motion
        self._settings = recipe.configure(config.network)
        self.detector = recipe.detector(self._settings, (self.view.channels, config.side, config.side))
        self.range = RangeScaler()

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        heatmap = self.range(self._tile_scores(clips))  # (N, rows, columns)
        return torch.amax(heatmap, dim=(1, 2)), heatmap

    def learner(self) -> Learner:
        return self._recipe.learner(self.detector, self._settings)

    def samples(self, views: Tensor) -> Samples:
        return RandomTiles(views, self.config.side)

    def validation(self, views: Tensor) -> Tensor:
        return cut_tiles(evenly_spaced(views, VALIDATION_VIEWS), self.config.side, self.config.step).flatten(0, 2)

    def reconstruct(self, samples: Tensor) -> Tensor:
        return self.detector.reconstruct(samples)

    @torch.no_grad()
    def fit_clips(self, train: Iterable[Clips], validation: Iterable[Clips]) -> None:
        tiles = [self._tiles(torch.from_numpy(clips[::_FIT_EVERY])).flatten(0, 2) for clips in train]
        self.detector.fit_scale(torch.cat(tiles))
        self.range.fit([self._tile_scores(torch.from_numpy(clips)) for clips in validation])

    def _tiles(self, clips: Tensor) -> Tensor:
        return cut_tiles(self.view(clips), self.config.side, self.config.step)

    def _tile_scores(self, clips: Tensor) -> Tensor:
        tiles = self._tiles(clips)  # (N, rows, columns, C, side, side)
        scores: Tensor = self.detector(tiles.flatten(0, 2))  # (N * rows * columns,)
        return scores.view(-1, tiles.shape[1], tiles.shape[2])


@dataclass(frozen=True, slots=True)
class RandomTiles:
    """One tile (C, side, side) of each view drawn: every second one anywhere, the others where there is much texture."""

    views: Tensor  # float (N, C, h, w)
    side: int

    def __len__(self) -> int:
        return len(self.views)

    def draw(self, numbers: Tensor) -> Batch:
        tries = torch.stack([self._random_tiles(numbers) for _ in range(_POSITIONS_TRIED)])  # (tries, N, C, side, side)
        most_texture = tries.float().var(dim=(3, 4)).sum(dim=2).argmax(dim=0)  # (N,)
        chosen = torch.where(torch.arange(len(numbers)) % 2 == 0, most_texture, 0)
        return Batch(tries[chosen, torch.arange(len(numbers))], torch.full((len(numbers),), NORMAL))

    def _random_tiles(self, numbers: Tensor) -> Tensor:
        height, width = self.views.shape[2:]
        cells = torch.arange(self.side)
        rows = torch.randint(height - self.side + 1, (len(numbers), 1)) + cells  # (N, side)
        columns = torch.randint(width - self.side + 1, (len(numbers), 1)) + cells  # (N, side)
        return self.views[numbers[:, None, None], :, rows[:, :, None], columns[:, None, :]].movedim(3, 1)


def cut_tiles(views: Tensor, side: int, step: int) -> Tensor:
    """Views (N, C, h, w) to tiles (N, rows, columns, C, side, side)."""
    return views.unfold(2, side, step).unfold(3, side, step).movedim(1, 3)


def tiled(recipe: Recipe, network: Mapping[str, Any]) -> ClipModel:
    """An image model as a clip model; ``network`` holds its settings where they differ from its own defaults."""

    def configure(settings: Mapping[str, Any]) -> TileConfig:
        return TileConfig.model_validate({"network": dict(network), **settings})

    return ClipModel(recipe.kind, FRAME_AREA_PX, SIDE_STEP_PX, configure, lambda config: TiledNetwork(recipe, config))
