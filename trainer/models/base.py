"""What all models of video clips have in common: the graph that engines run, its training stages and its score scale."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from deploy.engine import Clips
from deploy.profile_learning import normal_tail
from deploy.spec import ClipSpec
from trainer.data.clips import ClipDataset, Split
from trainer.data.footage import Footage, PlaceFootage
from trainer.training.interfaces import Learner
from trainer.training.loop import Samples, TrainingData

MAX_CLIPS = 20_000  # clips whose views are kept in memory for training, 60 KB each
VALIDATION_CLIPS = 64  # validation clips that decide about early stopping; calibration later scores all of them
CALIBRATION_CLIPS = 4096  # evenly spaced validation clips to calibrate on: 40 of them lie above the 99 % quantile

_SCALE_CLIPS = 256
_BATCH_CLIPS = 16
_MIN_SPREAD = 1e-6


class ClipConfig(Protocol):
    """Everything that is needed to build a network; stored in the bundle."""

    def spec(self, fps: float) -> ClipSpec: ...  # the clips that the network takes

    def model_dump(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class TrainingStage:
    """One part of a training run. Most models have a single stage."""

    name: str
    time_share: float  # share of the run's time and steps
    batch_size: int
    learner: Learner
    data: TrainingData
    train_samples: Tensor  # training samples like data.validation, to compare training and validation loss
    log_images: Callable[[Tensor], tuple[Tensor, Tensor]]
    """Samples to images for the log, (N, C, h, w) in [-1, 1]: the input, and the model's output."""
    early_stopping: bool = True  # not where the learning rate falls with time


ProgressBar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Shows a progress bar with this title and total; the context gives a function to advance it."""


class ServingNetwork(nn.Module):
    """The graph that engines run: uint8 clips (N, T, H, W, 1) to score (N,) and heat map (N, h, w), float32.

    If the spec has a state, ``forward(clips, state)`` also takes the state that it returned for each camera's previous frame,
    float32 (N, *state_shape), zeros for a camera's first frame, and returns score, heat map and next state. If the spec has
    profiles, it takes those of the clips' cameras last, float32 (N, P).
    """

    def stages(self, split: Split, progress: ProgressBar) -> Iterator[TrainingStage]:
        """The stages of training, in order; each is prepared when the one before has ended."""
        raise NotImplementedError

    def fine_tuning_stages(self, split: Split, progress: ProgressBar) -> Iterator[TrainingStage]:
        """The stages that adapt a trained network to other footage; see ``ClipModel.fine_tunes``."""
        raise NotImplementedError

    def fit_scale(self, train: ClipDataset, validation: ClipDataset, fps: float) -> Tensor | None:
        """Fit the scale of the score to normal clips of the training and the validation footage, of this frame rate.

        A network with profiles returns it as the profile (P,) of this footage's camera and is unchanged.
        """
        raise NotImplementedError

    def adaptation_stage(self, footage: Sequence[Footage], progress: ProgressBar) -> tuple[TrainingStage, Tensor]:
        """A stage that adapts a trained network with profiles to one camera, and the values (A,) that it learns."""
        raise NotImplementedError

    def fit_profile(self, train: ClipDataset, validation: ClipDataset, places: PlaceFootage, adaptation: Tensor | None) -> Tensor:
        """As :meth:`fit_scale` of a network with profiles, with all of the footage reduced to places, and an adaptation (A,)."""
        raise NotImplementedError

    def join_profiles(self, profiles: Tensor) -> Tensor:
        """The default profile (P,) for cameras of which nothing is known, from those of some cameras, (K, P)."""
        raise NotImplementedError


class ClipViewNetwork(ServingNetwork):
    """A network that learns from one view of each clip (such as brightness and motion), computed once before training."""

    batch_size: int
    length: int  # frames in a clip
    view: nn.Module  # clips to views, float32 (N, C, h, w) in [-1, 1]

    def learner(self) -> Learner:
        """Create the learner, which initialises this network's weights."""
        raise NotImplementedError

    def samples(self, views: Tensor) -> Samples:
        """Training samples from the views of normal clips."""
        raise NotImplementedError

    def validation(self, views: Tensor) -> Tensor:
        """Validation samples from the views of normal clips; always the same ones."""
        raise NotImplementedError

    def reconstruct(self, samples: Tensor) -> Tensor:
        """Reconstructions of samples, in their shape."""
        raise NotImplementedError

    def fit_clips(self, train: Iterable[Clips], validation: Iterable[Clips]) -> None:
        """Fit the scale of the score to normal clips, uint8 (N, T, H, W, 1), of the training and the validation footage."""
        raise NotImplementedError

    def fit_scale(self, train: ClipDataset, validation: ClipDataset, fps: float) -> None:
        self.fit_clips(train.evenly_spaced(_SCALE_CLIPS, _BATCH_CLIPS), validation.evenly_spaced(CALIBRATION_CLIPS, _BATCH_CLIPS))

    def stages(self, split: Split, progress: ProgressBar) -> Iterator[TrainingStage]:
        learner, length = self.learner(), self.length
        views = self._views(ClipDataset(split.train, length), MAX_CLIPS, progress)
        validation = self.validation(self._views(ClipDataset(split.validation, length), VALIDATION_CLIPS, progress))
        train_samples = self.validation(evenly_spaced(views, VALIDATION_CLIPS))
        data = TrainingData(self.samples(views), validation)
        yield TrainingStage(
            "training", 1.0, self.batch_size, learner, data, train_samples, lambda part: (part, self.reconstruct(part))
        )

    @torch.no_grad()
    def _views(self, clips: ClipDataset, max_clips: int, progress: ProgressBar) -> Tensor:
        device, views = next(self.parameters()).device, []  # computing one costs as much as a training step
        with progress("computing motion", min(max_clips, len(clips))) as advance:
            for batch in clips.evenly_spaced(max_clips, _BATCH_CLIPS):
                views.append(self.view(torch.from_numpy(batch).to(device)).half().cpu())
                advance(len(batch))
        return torch.cat(views)  # float16 (N, C, h, w)


@dataclass(frozen=True, slots=True)
class ClipModel:
    """A kind of model that learns from footage."""

    kind: str
    frame_area_px: int  # frames are scaled to about this many pixels
    side_step_px: int  # height and width are multiples of this
    configure: Callable[[Mapping[str, Any]], ClipConfig]  # validates settings
    build: Callable[[Any], ServingNetwork]  # builds the untrained network of a configuration
    learns_annotations: bool = False  # whether it learns from operators' annotations
    fine_tunes: bool = False  # whether a trained network can be adapted to other footage


class RangeScaler(nn.Module):
    """Scales maps (N, h, w) so that the frame maxima of normal clips have the median 0 and the 99 % quantile 1."""

    def __init__(self) -> None:
        super().__init__()
        self.median, self.spread = nn.Buffer(torch.zeros(())), nn.Buffer(torch.ones(()))

    def forward(self, maps: Tensor) -> Tensor:
        return (maps - self.median) / self.spread

    def fit(self, maps: list[Tensor]) -> None:
        """Set the range from maps of normal clips, in the order of time."""
        median, spread = normal_range(maps)
        self.median.fill_(median)
        self.spread.fill_(spread)


def normal_range(maps: list[Tensor]) -> tuple[float, float]:
    """Median of the frame maxima of normal clips' maps (N, h, w), in the order of time, and its distance to the 99 % quantile."""
    maxima = torch.cat([torch.amax(part, dim=(1, 2)) for part in maps])
    tail = normal_tail(maxima.cpu().numpy())
    return tail.median, max(tail.q99 - tail.median, _MIN_SPREAD)


def evenly_spaced(samples: Tensor, count: int) -> Tensor:
    """At most ``count`` of the samples (N, ...), evenly spaced."""
    return samples[torch.linspace(0, len(samples) - 1, min(count, len(samples))).long()]
