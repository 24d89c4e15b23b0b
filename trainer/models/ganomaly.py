"""Video GANomaly: encoder-decoder-encoder over brightness and motion, after Akcay et al. (2018), fully convolutional.

    x ─E1─▶ z ─D─▶ x̂ ─E2─▶ ẑ        score: the largest window of the distance between z and ẑ

Trained on normal footage only, E2 learns to find again the latents of what D can draw; what D cannot draw comes back
different. Latents keep their place, so the distance is a map of the frame.
"""

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from deploy.engine import Clips
from deploy.spec import ClipSpec
from trainer.losses import Reconstruction
from trainer.models.blocks import Decoder, Encoder, largest_window
from trainer.models.motion import MotionView

KIND = "video-ganomaly"
FRAME_AREA_PX = 38_400
"""Frames are fitted to about this many pixels: 160 x 240."""


class GanomalyConfig(BaseModel):
    """Everything needed to build the networks; stored in the bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    length: int = Field(default=6, ge=2, le=16)
    height_px: int = Field(default=160, ge=32, multiple_of=16)
    width_px: int = Field(default=240, ge=32, multiple_of=16)
    motion: bool = True
    full_scale_px: float = Field(default=4.0, gt=0)
    flow_window: int = Field(default=5, ge=1)
    width: int = Field(default=32, ge=1)
    depth: int = Field(default=3, ge=1, le=3)
    latent_channels: int = Field(default=16, ge=1)
    score_window: int = Field(default=2, ge=1)
    """Side of the window that the score is the largest of, in latents."""

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


class Serving(nn.Module):
    """The graph that engines run: uint8 clips (N, T, H, W, 1) in, score (N,) and heat map (N, h, w) out, float32."""

    def __init__(self, config: GanomalyConfig) -> None:
        super().__init__()
        self.config = config
        self.view = MotionView(full_scale_px=config.full_scale_px, window=config.flow_window, motion=config.motion)
        self.generator = Generator(config)
        self.latent_std: Tensor
        self.register_buffer("latent_std", torch.ones(config.latent_channels))

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        difference = self.latent_difference(clips) / self.latent_std[:, None, None]
        return largest_window(difference.square().mean(dim=1, keepdim=True), self.config.score_window)

    def fit_scale(self, batches: Iterable[Clips]) -> None:
        """Set the score's scale: the size of each latent's difference on normal clips, uint8 (N, T, H, W, 1)."""
        with torch.no_grad():
            squares = [self.latent_difference(torch.from_numpy(clips)).square().mean(dim=(0, 2, 3)) for clips in batches]
        self.latent_std.copy_(torch.stack(squares).mean(dim=0).sqrt().clamp_min(1e-6))

    def latent_difference(self, clips: Tensor) -> Tensor:
        """Difference of z and ẑ, (N, latent_channels, h, w)."""
        made: Reconstruction = self.generator(self.view(clips))
        return made.latent - made.latent_again


def build_serving(config: dict[str, Any]) -> nn.Module:
    """The serving graph for a bundle's model card, with weights still to be loaded."""
    return Serving(GanomalyConfig.model_validate(config))
