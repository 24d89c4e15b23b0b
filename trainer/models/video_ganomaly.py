"""Video GANomaly: encoder-decoder-encoder over brightness and motion, after Akcay et al. (2018), fully convolutional.

    x ─E1─▶ z ─D─▶ x̂ ─E2─▶ ẑ        score: largest window of |z - ẑ|, or of the speed of x and its excess over x̂,
                                          or the distance of z as a whole from what it usually is

Trained on normal footage only, E2 learns to find again the latents of what D can draw; what D cannot draw comes back
different. In training half of what is shown has its motion scrambled: D must restore it, and z and ẑ must differ where it
became too fast. Latents keep their place, so both terms are maps of the frame. What changes the frame as a whole, a covered
lens or a shaken mast, may be drawn all too well: the third term looks at how the latents are distributed over the frame.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from deploy.engine import Clips
from deploy.spec import ClipSpec
from trainer.models.blocks import Decoder, Encoder, window_means
from trainer.models.ganomaly import Reconstruction
from trainer.models.motion import REDUCTION, MotionView, speed
from trainer.tail import normal_tail

KIND = "video-ganomaly"
_TINY = 1e-6
FRAME_AREA_PX = 38_400
"""Frames are fitted to about this many pixels: 160 x 240."""
MARGIN = 0.1
"""Squared latent distance that wrong motion should have: some fifty times what normal footage ends up with."""
_WRONG_SHARE = 0.1


class GanomalyConfig(BaseModel):
    """Everything needed to build the networks; stored in the bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    length: int = Field(default=5, ge=2, le=16)
    height_px: int = Field(default=160, ge=32, multiple_of=16)
    width_px: int = Field(default=240, ge=32, multiple_of=16)
    motion: bool = True
    full_scale_px: float = Field(default=2.0, gt=0)
    flow_window: int = Field(default=7, ge=3)
    width: int = Field(default=16, ge=1)
    depth: int = Field(default=3, ge=1, le=3)
    latent_channels: int = Field(default=16, ge=1)
    latent_window: int = Field(default=2, ge=1)
    """Side of the windows of the latent term, in latents of 16 x 16 frame pixels."""
    motion_window: int = Field(default=11, ge=1)
    """Side of the windows of the motion term, in cells of 2 x 2 frame pixels: about the height of a person."""

    def spec(self, fps: float) -> ClipSpec:
        """The clips that this network takes."""
        return ClipSpec(length=self.length, height_px=self.height_px, width_px=self.width_px, colour="gray", fps=fps)


class Generator(nn.Module):
    """Encoder, decoder, encoder; the two encoders share no weights."""

    def __init__(self, config: GanomalyConfig) -> None:
        super().__init__()
        channels, latent = MotionView.channels, config.latent_channels
        self.encoder = Encoder(channels, config.width, config.depth, latent)
        self.decoder = Decoder(latent, config.width, config.depth, channels)
        self.encoder_again = Encoder(channels, config.width, config.depth, latent)

    def forward(self, pictures: Tensor) -> Reconstruction:
        """``pictures``: (N, 3, h, w) in [-1, 1]."""
        latent = self.encoder(pictures)
        picture = self.decoder(latent)
        return Reconstruction(latent, picture, self.encoder_again(picture))


class Discriminator(nn.Module):
    """An encoder with one output channel: a map of logits, high where it takes the picture for real."""

    def __init__(self, config: GanomalyConfig) -> None:
        super().__init__()
        self.body = Encoder(MotionView.channels, config.width, config.depth, 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Features before the last convolution, and logits."""
        features = self.body.features(pictures)
        return features, self.body.head(features)


def margin_loss(made: Reconstruction, too_fast: Tensor) -> Tensor:
    """How far the latent distance stays below ``MARGIN`` where motion is too fast: 0 (everywhere beyond it) to 1 (no distance).

    ``too_fast``: bool (N, 1, H, W), on a grid that the latents' divides. A latent counts where a tenth of its cell is too fast.
    Ours, of no paper.
    """
    distance = (made.latent - made.latent_again).square().mean(dim=1, keepdim=True)
    wrong = nn.functional.adaptive_avg_pool2d(too_fast.float(), (distance.shape[2], distance.shape[3])) > _WRONG_SHARE
    short = nn.functional.relu(1.0 - distance / MARGIN) * wrong
    return short.sum() / wrong.sum().clamp_min(1)


class Terms(NamedTuple):
    """The parts of the score: maps (N, h, w), each in units of its own."""

    latent: Tensor
    """Distance between z and ẑ: unknown things, motion that the decoder cannot draw."""
    motion: Tensor
    """Speed, and by how much it exceeds the restored speed: things that move as they should not."""
    scene: Tensor
    """Distance of the latents' means and deviations over the frame from their usual values, (N, 1, 1): a changed view."""


class NormalRange(nn.Module):
    """A term in units of its own normal range: 0 at the median of its largest windows on normal clips, 1 at their q99."""

    def __init__(self) -> None:
        super().__init__()
        self.median: Tensor
        self.spread: Tensor
        self.register_buffer("median", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    def forward(self, means: Tensor) -> Tensor:
        """Window means (N, h, w) in units of the range."""
        return (means - self.median) / self.spread

    def fit(self, means: list[Tensor]) -> None:
        """Take the range from the window means of normal clips."""
        largest = torch.cat([torch.amax(part, dim=(1, 2)) for part in means])
        tail = normal_tail(largest.cpu().numpy())
        self.median.fill_(tail.median)
        self.spread.fill_(max(tail.q99 - tail.median, _TINY))


class Serving(nn.Module):
    """The graph that engines run: uint8 clips (N, T, H, W, 1) in, score (N,) and heat map (N, h, w) out, float32.

    The score is the worst of the three terms' largest windows, each measured against its own normal range.
    """

    def __init__(self, config: GanomalyConfig) -> None:
        super().__init__()
        self.config = config
        self.view = MotionView(full_scale_px=config.full_scale_px, window=config.flow_window, motion=config.motion)
        self.generator = Generator(config)
        self.latent_std: Tensor
        self.register_buffer("latent_std", torch.ones(config.latent_channels))
        self.scene_mean: Tensor
        self.scene_std: Tensor
        self.register_buffer("scene_mean", torch.zeros(2 * config.latent_channels))
        self.register_buffer("scene_std", torch.ones(2 * config.latent_channels))
        self.latent_range = NormalRange()
        self.motion_range = NormalRange()
        self.scene_range = NormalRange()

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        maps = self._in_normal_ranges(self.terms(clips))
        score = torch.stack([torch.amax(part, dim=(1, 2)) for part in maps]).amax(dim=0)
        return score, torch.stack([_on_grid(part, self._grid) for part in maps]).amax(dim=0)

    def terms(self, clips: Tensor) -> Terms:
        """The score's parts before they are measured against their normal ranges."""
        pictures = self.view(clips)
        made: Reconstruction = self.generator(pictures)
        difference = (made.latent - made.latent_again) / self.latent_std[:, None, None]
        latent = difference.square().mean(dim=1, keepdim=True).sqrt()
        seen, restored = speed(pictures), speed(made.picture)
        motion = seen + nn.functional.relu(seen - restored)
        scene = ((_distribution(made.latent) - self.scene_mean) / self.scene_std).square().mean(dim=1).sqrt()
        return Terms(
            window_means(latent, self.config.latent_window),
            window_means(motion, self.config.motion_window),
            scene[:, None, None],
        )

    @torch.no_grad()
    def fit_scale(self, learned: Iterable[Clips], held_out: Iterable[Clips]) -> None:
        """Set the score's scale from normal clips, uint8 (N, T, H, W, 1).

        The latents' sizes come from clips learned from; the terms' normal ranges from held-out ones, because the latent
        distance is smaller on what was learned than it will ever be again.
        """
        made = [self.generator(self.view(torch.from_numpy(clips))) for clips in learned]
        squares = torch.cat([(part.latent - part.latent_again).square().mean(dim=(2, 3)) for part in made])
        self.latent_std.copy_(squares.mean(dim=0).sqrt().clamp_min(_TINY))
        distributions = torch.cat([_distribution(part.latent) for part in made])
        self.scene_mean.copy_(distributions.mean(dim=0))
        self.scene_std.copy_(distributions.std(dim=0).clamp_min(_TINY))
        terms = [self.terms(torch.from_numpy(clips)) for clips in held_out]
        self.latent_range.fit([part.latent for part in terms])
        self.motion_range.fit([part.motion for part in terms])
        self.scene_range.fit([part.scene for part in terms])

    def _in_normal_ranges(self, terms: Terms) -> tuple[Tensor, Tensor, Tensor]:
        return self.latent_range(terms.latent), self.motion_range(terms.motion), self.scene_range(terms.scene)

    @property
    def _grid(self) -> tuple[int, int]:
        """Height and width of the heat map: as many cells as latents."""
        side_px = REDUCTION << self.config.depth
        return self.config.height_px // side_px, self.config.width_px // side_px


def build_serving(config: dict[str, Any]) -> nn.Module:
    """The serving graph for a bundle's model card, with weights still to be loaded."""
    return Serving(GanomalyConfig.model_validate(config))


def _distribution(latent: Tensor) -> Tensor:
    """Mean and deviation of each channel of latents (N, C, h, w) over the frame: (N, 2 C)."""
    mean = latent.mean(dim=(2, 3), keepdim=True)
    variance = (latent - mean).square().mean(dim=(2, 3))
    return torch.cat([mean[:, :, 0, 0], variance.clamp_min(_TINY).sqrt()], dim=1)


def _on_grid(means: Tensor, grid: tuple[int, int]) -> Tensor:
    """Window means (N, h', w') laid over the frame as a grid."""
    return nn.functional.interpolate(means[:, None], size=grid, mode="bilinear")[:, 0]
