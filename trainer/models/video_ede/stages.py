"""The training stages of the video model: from footage to samples, learners and images for the log."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from trainer.data.annotations import AnnotatedClip
from trainer.data.clips import Split
from trainer.data.footage import Footage
from trainer.errors import TooLittleFootage
from trainer.models.base import ProgressBar, ServingNetwork, TrainingStage
from trainer.models.video_ede.learners import (
    AdaptationLearner,
    AnomalyLearner,
    FeedbackLearner,
    FlowLearner,
    TrainableNetworks,
    split_scene_batch,
)
from trainer.models.video_ede.networks import CELL_PX, normalise_frames
from trainer.pseudo_anomalies.annotated_samples import AnnotatedSamples, find_annotated_frames
from trainer.pseudo_anomalies.samples import FlowSamples, PseudoAnomalySamples, SceneSource, flow_examples
from trainer.pseudo_anomalies.segments import CameraView, DisFlow, camera_views, segment_views
from trainer.training.loop import TrainingData

FLOW_SHARE = 1 / 3  # share of the training time for FlowNet; the rest is for AnomalyNet
FLOW_BATCH, ANOMALY_BATCH = 16, 8

# Of one camera, or shared by up to six: with more cameras, each adds its own.
_FLOW_EXAMPLES, _VALIDATION_FLOW_EXAMPLES = 2400, 120
_EXAMPLES_PER_FRAME = 3  # more would repeat the same ones
_SEGMENTED_FRAMES, _VALIDATION_SEGMENTED_FRAMES = 600, 60
_ANNOTATED_FRAMES = 600
_CAMERAS = 6
_CROP_PX = 96  # side of FlowNet's crops; less where frames are lower
_VALIDATION_CROPS = 32
_WHITE_PX = 4.0  # speed that the log shows as white

Views = tuple[list[CameraView], list[CameraView]]  # of training and of validation footage


def training_stages(
    network: ServingNetwork, networks: TrainableNetworks, split: Split, progress: ProgressBar
) -> Iterator[TrainingStage]:
    """The stage of FlowNet, then the stage of AnomalyNet.

    Raises:
        TooLittleFootage: no training or no validation video is long enough to see motion in.
    """
    views = _find_views(networks, split)
    yield _flow_stage(network, networks, views, progress)
    yield _anomaly_stage(network, networks, views, split.annotated, progress, 1.0 - FLOW_SHARE)


def fine_tuning_stages(
    network: ServingNetwork, networks: TrainableNetworks, split: Split, progress: ProgressBar
) -> Iterator[TrainingStage]:
    """The stage of AnomalyNet alone: FlowNet works on other scenes as it is, and stays frozen.

    Raises:
        TooLittleFootage: as :func:`training_stages`.
    """
    yield _anomaly_stage(network, networks, _find_views(networks, split), split.annotated, progress, 1.0)


def adaptation_stage(
    network: ServingNetwork, networks: TrainableNetworks, footage: Sequence[Footage], progress: ProgressBar
) -> tuple[TrainingStage, Tensor]:
    """The stage that adapts a trained AnomalyNet to one camera, and the values (A,) that it learns.

    Raises:
        TooLittleFootage: no video is long enough to see motion in.
    """
    views = _long_enough(networks, footage)
    (count,) = _at_most((_SEGMENTED_FRAMES,), (views,), 1)
    with progress("finding moving objects", count) as advance:
        source = SceneSource(segment_views(views, count, DisFlow(), lambda: advance(1)), networks.history)
    learner, samples = AdaptationLearner(network, networks), PseudoAnomalySamples(source)
    data, first = TrainingData(samples, prefetch=True), samples.draw(torch.arange(1)).samples
    stage = TrainingStage("adaptation", 1.0, ANOMALY_BATCH, learner, data, first, lambda part: (part, part), early_stopping=False)
    return stage, learner.adapted.values


def _find_views(networks: TrainableNetworks, split: Split) -> Views:
    return _long_enough(networks, split.train), _long_enough(networks, split.validation)


def _long_enough(networks: TrainableNetworks, footage: Sequence[Footage]) -> list[CameraView]:
    oldest = networks.history[-1]
    views = camera_views([video for video in footage if len(video.frames) > oldest])
    if not views:
        raise TooLittleFootage(f"no video has {oldest + 1} frames to see motion in; give longer videos")
    return views


def _flow_stage(network: ServingNetwork, networks: TrainableNetworks, views: Views, progress: ProgressBar) -> TrainingStage:
    teacher, counts = DisFlow(), _at_most((_FLOW_EXAMPLES, _VALIDATION_FLOW_EXAMPLES), views, _EXAMPLES_PER_FRAME)
    with progress("measuring motion", sum(counts)) as advance:
        train_examples, validation_examples = (
            flow_examples(part, networks.history, count, teacher, lambda: advance(1))
            for part, count in zip(views, counts, strict=True)
        )
    side_px = min(_CROP_PX, *train_examples[0].frames.shape[1:])
    train, validation = (FlowSamples(part, networks.history, side_px) for part in (train_examples, validation_examples))

    def log_images(samples: Tensor) -> tuple[Tensor, Tensor]:
        true = nn.functional.avg_pool2d(samples[:, -2:], CELL_PX)  # (N, 2, h, w)
        return true / _WHITE_PX, networks.flow_net(samples[:, :-2]).flow / _WHITE_PX

    crops = torch.arange(_VALIDATION_CROPS)
    learner, train_samples = FlowLearner(network, networks), train.draw(crops).samples
    data = TrainingData(train, validation.draw(crops).samples, prefetch=True)
    return TrainingStage("flow", FLOW_SHARE, FLOW_BATCH, learner, data, train_samples, log_images, early_stopping=False)


def _anomaly_stage(
    network: ServingNetwork,
    networks: TrainableNetworks,
    views: Views,
    annotated: Sequence[AnnotatedClip],
    progress: ProgressBar,
    share: float,
) -> TrainingStage:
    teacher, counts = DisFlow(), _at_most((_SEGMENTED_FRAMES, _VALIDATION_SEGMENTED_FRAMES), views, 1)
    with progress("finding moving objects", sum(counts)) as advance:
        source, validation = (
            SceneSource(segment_views(part, count, teacher, lambda: advance(1)), networks.history)
            for part, count in zip(views, counts, strict=True)
        )
    normal = PseudoAnomalySamples(source)
    samples = _annotated_samples(source, annotated, progress) if annotated else normal
    learner = (FeedbackLearner if annotated else AnomalyLearner)(network, networks)

    def log_images(samples: Tensor) -> tuple[Tensor, Tensor]:
        frames, _, _, _, position = split_scene_batch(samples)
        newest = normalise_frames(frames[:, :1])  # (N, 1, H, W)
        position = nn.functional.avg_pool2d(position, CELL_PX)
        scene = networks.anomaly_net(newest, networks.flow_net(frames), position).scene  # (N, 3, h, w)
        return nn.functional.avg_pool2d(newest, CELL_PX) / 2.0, scene[:, :1] / 2.0

    crops = torch.arange(_VALIDATION_CROPS)
    train_samples = normal.draw(crops).samples
    data = TrainingData(samples, PseudoAnomalySamples(validation).draw(crops).samples, prefetch=True)
    return TrainingStage("anomaly", share, ANOMALY_BATCH, learner, data, train_samples, log_images, early_stopping=False)


def _annotated_samples(source: SceneSource, annotated: Sequence[AnnotatedClip], progress: ProgressBar) -> AnnotatedSamples:
    count = min(_ANNOTATED_FRAMES, sum(clip.last - clip.first + 1 for clip in annotated))
    with progress("finding annotated objects", count) as advance:
        frames = find_annotated_frames(annotated, source.views, source.history[-1], count, DisFlow(), lambda: advance(1))
    anomalies, false_alarms = ([frame for frame in frames if frame.anomalous is kind] for kind in (True, False))
    return AnnotatedSamples(source, anomalies, false_alarms)


def _at_most(counts: tuple[int, ...], views: tuple[list[CameraView], ...], per_frame: int) -> list[int]:
    frames = [sum(view.frames for view in part) for part in views]
    more = max(1.0, len({view.camera for view in views[0]}) / _CAMERAS)
    return [min(round(count * more), per_frame * limit) for count, limit in zip(counts, frames, strict=True)]
