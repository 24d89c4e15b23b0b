"""Video GANomaly: a fully convolutional encoder-decoder-encoder over brightness and motion, after Akcay et al. (2018).

    x ─E1─▶ z ─D─▶ x̂ ─E2─▶ ẑ        score: the largest window of three terms, each in units of its own normal range
                                          latent: |z - ẑ|
                                          motion: speed of x, plus its excess over the speed of x̂
                                          scene: distance of the distribution of z over the frame from the usual one

In training the motion of half of the batch is corrupted: D must restore it, and z and ẑ must differ where it became too fast.
The scene term is for changes of the whole frame, such as a covered lens, which D may reconstruct all too well.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from deploy.engine import Clips
from deploy.spec import ClipSpec
from trainer.models import ganomaly
from trainer.models.base import ClipModel, ClipViewNetwork, RangeScaler, evenly_spaced
from trainer.models.ganomaly import AdversarialLearner, Reconstruction, generator_losses, reconstruction_loss, weighted
from trainer.models.layers import Decoder, Encoder, detached, init_dcgan, to_float32, window_means
from trainer.models.optical_flow import REDUCTION, MotionView, corrupt_motion, speed
from trainer.training.distributed import DistributedContext
from trainer.training.interfaces import NORMAL, Batch, Learner, Settings
from trainer.training.loop import Samples, TensorSamples

KIND = "video-ganomaly"
FRAME_AREA_PX = 38_400  # 160 x 240
SIDE_STEP_PX = 16
VALIDATION_VIEWS = 64
MARGIN = 0.1  # squared latent distance required where motion is too fast: some fifty times what normal footage ends up with
_MIN_STD = 1e-6
_MIN_FAST_SHARE = 0.1


class VideoGanomalyConfig(Settings):
    """Everything that is needed to build the networks; stored in the bundle."""

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
    learning_rate: float = Field(default=2e-4, gt=0)

    def spec(self, fps: float) -> ClipSpec:
        return ClipSpec(length=self.length, height_px=self.height_px, width_px=self.width_px, colour="gray", fps=fps)


class VideoGenerator(nn.Module):
    """Encoder, decoder, encoder; the two encoders share no weights."""

    def __init__(self, config: VideoGanomalyConfig) -> None:
        super().__init__()
        channels, latent = MotionView.channels, config.latent_channels
        self.encoder = Encoder(channels, config.width, config.depth, latent)
        self.decoder = Decoder(latent, config.width, config.depth, channels)
        self.encoder_again = Encoder(channels, config.width, config.depth, latent)

    def forward(self, views: Tensor) -> Reconstruction:
        """``views``: (N, 3, h, w) in [-1, 1]."""
        latent = self.encoder(views)  # (N, latent, h / 2^depth, w / 2^depth)
        image = self.decoder(latent)  # (N, 3, h, w)
        return Reconstruction(to_float32(latent), to_float32(image), to_float32(self.encoder_again(image)))


class VideoDiscriminator(nn.Module):
    """An encoder with one output channel: a map of logits, high where the view looks real."""

    def __init__(self, config: VideoGanomalyConfig) -> None:
        super().__init__()
        self.body = Encoder(MotionView.channels, config.width, config.depth, 1)

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Features before the last convolution, and logits."""
        features = self.body.features(views)  # (N, width * 2^(depth - 1), h / 2^depth, w / 2^depth)
        return features, self.body.head(features)  # (N, 1, h / 2^depth, w / 2^depth)


def margin_loss(outputs: Reconstruction, too_fast: Tensor) -> Tensor:
    """Shortfall of the latent distance below ``MARGIN`` where motion is too fast: 0 (none) to 1 (distance 0), scalar.

    ``too_fast``: bool (N, 1, H, W). A latent counts if a tenth of its cell is too fast. This term is not from a paper.
    """
    distance = (outputs.latent - outputs.latent_again).square().mean(dim=1, keepdim=True)  # (N, 1, h, w)
    counts = nn.functional.adaptive_avg_pool2d(too_fast.float(), (distance.shape[2], distance.shape[3])) > _MIN_FAST_SHARE
    shortfall = nn.functional.relu(1.0 - distance / MARGIN) * counts  # (N, 1, h, w)
    # A mean of each clip's mean: processes that share a batch do not know how many cells count in the other clips.
    return (shortfall.sum(dim=(1, 2, 3)) / counts.sum(dim=(1, 2, 3)).clamp_min(1)).mean()


class VideoGanomalyLearner(AdversarialLearner):
    """Trains generator and discriminator on views of clips as :class:`MotionView` makes them."""

    def __init__(self, generator: VideoGenerator, config: VideoGanomalyConfig) -> None:
        generator.apply(init_dcgan)
        discriminator, restart_below = VideoDiscriminator(config), ganomaly.DISCRIMINATOR_COLLAPSED
        super().__init__(generator, discriminator, config.learning_rate, betas=(0.5, 0.999), restart_below=restart_below)

    def learn(self, batch: Batch, share: float, context: DistributedContext) -> Mapping[str, Tensor]:
        # The latent distance is minimised for the half with correct motion; in the other it must exceed a margin where motion
        # is too fast.
        self._generator.train()
        self._discriminator.train()
        views = torch.cat([batch.samples[::2], batch.samples[1::2]])  # (N, 3, h, w)
        half = len(batch.samples[::2])
        corrupted = corrupt_motion(views[:half], context)
        outputs = self._generator(torch.cat([corrupted.views, views[half:]]))
        features, features_fake, discriminator = self._compare(views, outputs.image)
        losses = generator_losses(views, _latents(outputs, slice(half, None)), features, features_fake)
        margin = margin_loss(_latents(outputs, slice(half)), corrupted.too_fast)
        self._update({**weighted(losses, ganomaly.LOSS_WEIGHTS), "margin": margin}, discriminator, context)
        return detached({**losses, "margin": margin, "discriminator": discriminator})

    def validation_loss(self, samples: Tensor) -> Tensor:
        self._generator.eval()
        return reconstruction_loss(samples, self._generator(samples), ganomaly.LOSS_WEIGHTS)


class ScoreTerms(NamedTuple):
    """The terms of the score, maps (N, h, w), each in its own unit."""

    latent: Tensor  # distance of z and ẑ: unknown objects, and motion that the decoder cannot draw
    motion: Tensor  # speed, plus its excess over the restored speed: things that move as they should not
    scene: Tensor
    """Distance of the latents' means and deviations over the frame from their usual values, (N, 1, 1): a changed view."""


class VideoGanomaly(ClipViewNetwork):
    """Scores clips by the largest window of the three terms, each in units of its own normal range."""

    batch_size = 16

    def __init__(self, config: VideoGanomalyConfig) -> None:
        super().__init__()
        self.config, self.length = config, config.length
        self.view = MotionView(full_scale_px=config.full_scale_px, window=config.flow_window, motion=config.motion)
        self.generator = VideoGenerator(config)
        self.latent_std = nn.Buffer(torch.ones(config.latent_channels))
        self.scene_mean = nn.Buffer(torch.zeros(2 * config.latent_channels))
        self.scene_std = nn.Buffer(torch.ones(2 * config.latent_channels))
        self.latent_range, self.motion_range, self.scene_range = RangeScaler(), RangeScaler(), RangeScaler()

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        terms = self.terms(clips)
        maps = (self.latent_range(terms.latent), self.motion_range(terms.motion), self.scene_range(terms.scene))
        score = torch.stack([torch.amax(part, dim=(1, 2)) for part in maps]).amax(dim=0)  # (N,)
        side_px = REDUCTION << self.config.depth
        grid = self.config.height_px // side_px, self.config.width_px // side_px  # one cell for each latent
        resized = [nn.functional.interpolate(part[:, None], size=grid, mode="bilinear")[:, 0] for part in maps]
        return score, torch.stack(resized).amax(dim=0)

    def terms(self, clips: Tensor) -> ScoreTerms:
        """The terms of the score before they are scaled to their normal ranges."""
        views = self.view(clips)  # (N, 3, H / 2, W / 2)
        outputs: Reconstruction = self.generator(views)
        difference = (outputs.latent - outputs.latent_again) / self.latent_std[:, None, None]  # (N, latent, H / 16, W / 16)
        latent = difference.square().mean(dim=1, keepdim=True).sqrt()
        seen, restored = speed(views), speed(outputs.image)  # (N, 1, H / 2, W / 2)
        motion = seen + nn.functional.relu(seen - restored)
        scene = ((_distribution(outputs.latent) - self.scene_mean) / self.scene_std).square().mean(dim=1).sqrt()  # (N,)
        return ScoreTerms(
            window_means(latent, self.config.latent_window), window_means(motion, self.config.motion_window), scene[:, None, None]
        )

    def learner(self) -> Learner:
        return VideoGanomalyLearner(self.generator, self.config)

    def samples(self, views: Tensor) -> Samples:
        return TensorSamples(views, torch.full((len(views),), NORMAL))

    def validation(self, views: Tensor) -> Tensor:
        return evenly_spaced(views, VALIDATION_VIEWS)

    def reconstruct(self, samples: Tensor) -> Tensor:
        outputs: Reconstruction = self.generator(samples)
        return outputs.image

    @torch.no_grad()
    def fit_clips(self, train: Iterable[Clips], validation: Iterable[Clips]) -> None:
        """Fit statistics of the latents to training clips, and the terms' normal ranges to validation clips.

        On training clips the latent distance is smaller than it will ever be again.
        """
        outputs = [self.generator(self.view(torch.from_numpy(clips))) for clips in train]
        squares = torch.cat([(part.latent - part.latent_again).square().mean(dim=(2, 3)) for part in outputs])  # (N, latent)
        self.latent_std.copy_(squares.mean(dim=0).sqrt().clamp_min(_MIN_STD))
        distributions = torch.cat([_distribution(part.latent) for part in outputs])  # (N, 2 * latent)
        self.scene_mean.copy_(distributions.mean(dim=0))
        self.scene_std.copy_(distributions.std(dim=0).clamp_min(_MIN_STD))
        terms = [self.terms(torch.from_numpy(clips)) for clips in validation]
        self.latent_range.fit([part.latent for part in terms])
        self.motion_range.fit([part.motion for part in terms])
        self.scene_range.fit([part.scene for part in terms])


CLIP_MODEL = ClipModel(KIND, FRAME_AREA_PX, SIDE_STEP_PX, VideoGanomalyConfig.model_validate, VideoGanomaly)


def _latents(outputs: Reconstruction, part: slice) -> Reconstruction:
    return Reconstruction(outputs.latent[part], outputs.image, outputs.latent_again[part])


def _distribution(latent: Tensor) -> Tensor:  # mean and standard deviation of each channel: (N, C, h, w) to (N, 2 C)
    mean = latent.mean(dim=(2, 3), keepdim=True)
    variance = (latent - mean).square().mean(dim=(2, 3))
    return torch.cat([mean[:, :, 0, 0], variance.clamp_min(_MIN_STD).sqrt()], dim=1)
