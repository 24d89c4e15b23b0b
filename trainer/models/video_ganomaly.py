"""Video GANomaly: encoder-decoder-encoder over brightness and motion, after Akcay et al. (2018), fully convolutional.

    x ─E1─▶ z ─D─▶ x̂ ─E2─▶ ẑ        score: largest window of |z - ẑ|, or of the speed of x and its excess over x̂,
                                          or the distance of z as a whole from what it usually is

Trained on normal footage only, E2 learns to find again the latents of what D can draw; what D cannot draw comes back
different. In training half of what is shown has its motion scrambled: D must restore it, and z and ẑ must differ where it
became too fast. Latents keep their place, so both terms are maps of the frame. What changes the frame as a whole, a covered
lens or a shaken mast, may be drawn all too well: the third term looks at how the latents are distributed over the frame.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from deploy.engine import Clips
from deploy.spec import ClipSpec
from trainer.models.base import ClipModel, ClipViewNetwork, RangeScaler
from trainer.models.ganomaly import (
    DISCRIMINATOR_COLLAPSED,
    WEIGHTS,
    Reconstruction,
    contextual_loss,
    discriminator_loss,
    encoder_loss,
    generator_terms,
    weighted,
)
from trainer.models.layers import Decoder, Encoder, init_dcgan, to_float32, window_means
from trainer.models.optical_flow import REDUCTION, MotionView, corrupt_motion, speed
from trainer.training.distributed import DistributedContext
from trainer.training.interfaces import NORMAL, Batch, Learner, Settings
from trainer.training.loop import Samples, TensorSamples

KIND = "video-ganomaly"
BATCH_CLIPS = 16
VALIDATION_PICTURES = 64
_ADAM_BETAS = (0.5, 0.999)
_TINY = 1e-6
FRAME_AREA_PX = 38_400
"""Frames are fitted to about this many pixels: 160 x 240."""
SIDE_STEP_PX = 16
MARGIN = 0.1
"""Squared latent distance that wrong motion should have: some fifty times what normal footage ends up with."""
_WRONG_SHARE = 0.1


class VideoGanomalyConfig(Settings):
    """Everything needed to build the networks; stored in the bundle."""

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
        """The clips that this network takes."""
        return ClipSpec(length=self.length, height_px=self.height_px, width_px=self.width_px, colour="gray", fps=fps)


class VideoGenerator(nn.Module):
    """Encoder, decoder, encoder; the two encoders share no weights."""

    def __init__(self, config: VideoGanomalyConfig) -> None:
        super().__init__()
        channels, latent = MotionView.channels, config.latent_channels
        self.encoder = Encoder(channels, config.width, config.depth, latent)
        self.decoder = Decoder(latent, config.width, config.depth, channels)
        self.encoder_again = Encoder(channels, config.width, config.depth, latent)

    def forward(self, pictures: Tensor) -> Reconstruction:
        """``pictures``: (N, 3, h, w) in [-1, 1]."""
        latent = self.encoder(pictures)
        picture = self.decoder(latent)
        return Reconstruction(to_float32(latent), to_float32(picture), to_float32(self.encoder_again(picture)))


class VideoDiscriminator(nn.Module):
    """An encoder with one output channel: a map of logits, high where it takes the picture for real."""

    def __init__(self, config: VideoGanomalyConfig) -> None:
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
    # A mean of each clip's mean: processes that share a batch know nothing of the others' cells.
    return (short.sum(dim=(1, 2, 3)) / wrong.sum(dim=(1, 2, 3)).clamp_min(1)).mean()


class VideoGanomalyLearner:
    """VideoGenerator and discriminator in training; samples are what :class:`MotionView` makes of clips."""

    def __init__(self, generator: VideoGenerator, config: VideoGanomalyConfig) -> None:
        self._generator = generator.apply(init_dcgan)
        self._discriminator = VideoDiscriminator(config).apply(init_dcgan)
        self.modules: Mapping[str, nn.Module] = {"detector": self._generator, "discriminator": self._discriminator}
        self.optimisers: Mapping[str, Optimizer] = {
            name: Adam(module.parameters(), lr=config.learning_rate, betas=_ADAM_BETAS) for name, module in self.modules.items()
        }

    def rate_factor(self, share: float) -> float:
        """The learning rates stay as they are."""
        return 1.0

    def learn(self, batch: Batch, share: float, context: DistributedContext) -> Mapping[str, Tensor]:
        """Learn from one batch, generator first.

        Of one half of the batch the generator sees the motion scrambled and must restore it. The latent distance is made
        small for the other half only, and must keep a margin where motion is too fast. The discriminator judges what the
        generator made before its own step, as in GANomaly's reference.
        """
        self._train(learning=True)
        pictures = torch.cat([batch.samples[::2], batch.samples[1::2]])
        half = len(batch.samples[::2])
        wrong = corrupt_motion(pictures[:half], context)
        made = self._generator(torch.cat([wrong.pictures, pictures[half:]]))
        features, logits = self._discriminator(pictures)
        features_made, _ = self._discriminator(made.picture)
        _, logits_made = self._discriminator(made.picture.detach())
        terms = generator_terms(pictures, _latents(made, slice(half, None)), features.detach(), features_made)
        margin = margin_loss(_latents(made, slice(half)), wrong.too_fast)
        judged = discriminator_loss(logits, logits_made)
        self._update("detector", {**weighted(terms, WEIGHTS), "margin": margin}, context)
        self._update("discriminator", {"discriminator": judged}, context)
        if context.mean(judged) < DISCRIMINATOR_COLLAPSED:
            self._restart_discriminator()
        return {name: value.detach() for name, value in {**terms, "margin": margin, "discriminator": judged}.items()}

    def validation_loss(self, samples: Tensor) -> Tensor:
        """How well normal pictures are drawn and their latents found again, weighted as in training."""
        self._train(learning=False)
        made = self._generator(samples)
        return WEIGHTS["contextual"] * contextual_loss(samples, made) + WEIGHTS["encoder"] * encoder_loss(made)

    def _train(self, *, learning: bool) -> None:
        for module in self.modules.values():
            module.train(learning)

    def _update(self, name: str, terms: Mapping[str, Tensor], context: DistributedContext) -> None:
        context.update(name, self.optimisers[name], terms, self.modules[name].parameters())

    def _restart_discriminator(self) -> None:
        """It has won and teaches nothing: new weights and a new optimiser state."""
        self._discriminator.apply(init_dcgan)
        self.optimisers["discriminator"].state.clear()


class ScoreTerms(NamedTuple):
    """The parts of the score: maps (N, h, w), each in units of its own."""

    latent: Tensor
    """Distance between z and ẑ: unknown things, motion that the decoder cannot draw."""
    motion: Tensor
    """Speed, and by how much it exceeds the restored speed: things that move as they should not."""
    scene: Tensor
    """Distance of the latents' means and deviations over the frame from their usual values, (N, 1, 1): a changed view."""


class VideoGanomaly(ClipViewNetwork):
    """The graph that engines run: uint8 clips (N, T, H, W, 1) in, score (N,) and heat map (N, h, w) out, float32.

    The score is the worst of the three terms' largest windows, each measured against its own normal range.
    """

    batch = BATCH_CLIPS

    def __init__(self, config: VideoGanomalyConfig) -> None:
        super().__init__()
        self.config = config
        self.view = MotionView(full_scale_px=config.full_scale_px, window=config.flow_window, motion=config.motion)
        self.generator = VideoGenerator(config)
        self.latent_std: Tensor
        self.register_buffer("latent_std", torch.ones(config.latent_channels))
        self.scene_mean: Tensor
        self.scene_std: Tensor
        self.register_buffer("scene_mean", torch.zeros(2 * config.latent_channels))
        self.register_buffer("scene_std", torch.ones(2 * config.latent_channels))
        self.latent_range = RangeScaler()
        self.motion_range = RangeScaler()
        self.scene_range = RangeScaler()

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        maps = self._in_normal_ranges(self.terms(clips))
        score = torch.stack([torch.amax(part, dim=(1, 2)) for part in maps]).amax(dim=0)
        return score, torch.stack([_on_grid(part, self._grid) for part in maps]).amax(dim=0)

    def terms(self, clips: Tensor) -> ScoreTerms:
        """The score's parts before they are measured against their normal ranges."""
        pictures = self.view(clips)
        made: Reconstruction = self.generator(pictures)
        difference = (made.latent - made.latent_again) / self.latent_std[:, None, None]
        latent = difference.square().mean(dim=1, keepdim=True).sqrt()
        seen, restored = speed(pictures), speed(made.picture)
        motion = seen + nn.functional.relu(seen - restored)
        scene = ((_distribution(made.latent) - self.scene_mean) / self.scene_std).square().mean(dim=1).sqrt()
        return ScoreTerms(
            window_means(latent, self.config.latent_window),
            window_means(motion, self.config.motion_window),
            scene[:, None, None],
        )

    @property
    def length(self) -> int:
        """See :class:`ClipViewNetwork`."""
        return self.config.length

    def learner(self) -> Learner:
        """See :class:`ClipViewNetwork`."""
        return VideoGanomalyLearner(self.generator, self.config)

    def samples(self, pictures: Tensor) -> Samples:
        """See :class:`ClipViewNetwork`: whole pictures."""
        return TensorSamples(pictures, torch.full((len(pictures),), NORMAL))

    def validation(self, pictures: Tensor) -> Tensor:
        """See :class:`ClipViewNetwork`: pictures at even distances."""
        return pictures[torch.linspace(0, len(pictures) - 1, min(VALIDATION_PICTURES, len(pictures))).long()]

    def reconstruct(self, samples: Tensor) -> Tensor:
        """See :class:`ClipViewNetwork`."""
        made: Reconstruction = self.generator(samples)
        return made.picture

    @torch.no_grad()
    def fit_clips(self, learned: Iterable[Clips], held_out: Iterable[Clips]) -> None:
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

    def _in_normal_ranges(self, terms: ScoreTerms) -> tuple[Tensor, Tensor, Tensor]:
        return self.latent_range(terms.latent), self.motion_range(terms.motion), self.scene_range(terms.scene)

    @property
    def _grid(self) -> tuple[int, int]:
        """Height and width of the heat map: as many cells as latents."""
        side_px = REDUCTION << self.config.depth
        return self.config.height_px // side_px, self.config.width_px // side_px


CLIP_MODEL = ClipModel(KIND, FRAME_AREA_PX, SIDE_STEP_PX, VideoGanomalyConfig.model_validate, VideoGanomaly)


def _latents(made: Reconstruction, part: slice) -> Reconstruction:
    return Reconstruction(made.latent[part], made.picture, made.latent_again[part])


def _distribution(latent: Tensor) -> Tensor:
    """Mean and deviation of each channel of latents (N, C, h, w) over the frame: (N, 2 C)."""
    mean = latent.mean(dim=(2, 3), keepdim=True)
    variance = (latent - mean).square().mean(dim=(2, 3))
    return torch.cat([mean[:, :, 0, 0], variance.clamp_min(_TINY).sqrt()], dim=1)


def _on_grid(means: Tensor, grid: tuple[int, int]) -> Tensor:
    """Window means (N, h', w') laid over the frame as a grid."""
    return nn.functional.interpolate(means[:, None], size=grid, mode="bilinear")[:, 0]
