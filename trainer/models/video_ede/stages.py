"""From footage to what the two stages of the video model learn from, and what the log shows of them."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from trainer.data.annotations import AnnotatedClip
from trainer.data.clips import Split
from trainer.data.dis_flow import DisFlow
from trainer.errors import TooLittleFootage
from trainer.models.base import ProgressBar, ServingNetwork, TrainingStage
from trainer.models.video_ede.learners import AnomalyLearner, FeedbackLearner, FlowLearner, TrainableNetworks, split_scene_batch
from trainer.models.video_ede.networks import CELL_PX, normalise_frames
from trainer.pseudo_anomalies.annotated_samples import AnnotatedSamples, find_annotated_frames
from trainer.pseudo_anomalies.samples import FlowSamples, PseudoAnomalySamples, SceneSource, flow_examples
from trainer.pseudo_anomalies.segments import CameraView, camera_views, segment_views
from trainer.training.loop import TrainingData

MOTION_SHARE = 1 / 3
"""Of the training time; the rest is for strangeness."""
MOTION_BATCH, JUDGE_BATCH = 16, 8

_MOMENTS, _HELD_OUT_MOMENTS = 2400, 120
_MOMENTS_A_FRAME = 3
"""At most: more would be the same ones again."""
_FRAMES, _HELD_OUT_FRAMES = 600, 60
_MARKED_FRAMES = 600
_CROP_PX = 96
"""Side of the squares that motion is learned from; less where frames are lower."""
_VALIDATION_CROPS = 32
_DRAWN_PX = 4.0
"""Speed that the log draws white."""


def video_stages(network: ServingNetwork, parts: TrainableNetworks, split: Split, work: ProgressBar) -> Iterator[TrainingStage]:
    """First motion, then strangeness.

    Raises:
        TooLittleFootage: no video is long enough to see motion in.
    """
    learned, held_out = (
        camera_views([video for video in part if len(video.frames) > parts.history[-1]])
        for part in (split.train, split.validation)
    )
    if not (learned and held_out):
        raise TooLittleFootage(f"no video has {parts.history[-1] + 1} frames to see motion in; give longer videos")
    yield _motion_stage(network, parts, (learned, held_out), work)
    yield _judge_stage(network, parts, (learned, held_out), split.annotated, work)


def _at_most(counts: tuple[int, int], shown: tuple[list[CameraView], list[CameraView]], a_frame: int) -> list[int]:
    """The counts, or less where there are not so many frames."""
    frames = [sum(len(video) for place in where for video in place.videos) for where in shown]
    return [min(count, a_frame * there) for count, there in zip(counts, frames, strict=True)]


def _motion_stage(
    network: ServingNetwork, parts: TrainableNetworks, shown: tuple[list[CameraView], list[CameraView]], work: ProgressBar
) -> TrainingStage:
    teacher, counts = DisFlow(), _at_most((_MOMENTS, _HELD_OUT_MOMENTS), shown, _MOMENTS_A_FRAME)
    with work("measuring motion", sum(counts)) as advance:
        found = [
            flow_examples(where, parts.history, count, teacher, lambda: advance(1))
            for where, count in zip(shown, counts, strict=True)
        ]
    side_px = min(_CROP_PX, *found[0][0].frames.shape[1:])
    learned, held_out = (FlowSamples(some, parts.history, side_px) for some in found)

    def draw(samples: Tensor) -> tuple[Tensor, Tensor]:
        true = nn.functional.avg_pool2d(samples[:, -2:], CELL_PX)
        return true / _DRAWN_PX, parts.motion(samples[:, :-2]).flow / _DRAWN_PX

    crops = torch.arange(_VALIDATION_CROPS)
    return TrainingStage(
        name="motion",
        share=MOTION_SHARE,
        batch=MOTION_BATCH,
        learner=FlowLearner(network, parts),
        data=TrainingData(learned, held_out.draw(crops).samples, ahead=True),
        learned=learned.draw(crops).samples,
        draw=draw,
        patient=False,
    )


def _judge_stage(
    network: ServingNetwork,
    parts: TrainableNetworks,
    shown: tuple[list[CameraView], list[CameraView]],
    marked: Sequence[AnnotatedClip],
    work: ProgressBar,
) -> TrainingStage:
    teacher, counts = DisFlow(), _at_most((_FRAMES, _HELD_OUT_FRAMES), shown, 1)
    with work("looking for moving things", sum(counts)) as advance:
        crowds = [segment_views(where, count, teacher, lambda: advance(1)) for where, count in zip(shown, counts, strict=True)]
    plan, held_out = (SceneSource(some, parts.history) for some in crowds)
    ordinary = PseudoAnomalySamples(plan)
    learner, samples = _taught(network, parts, plan, marked, work) if marked else (AnomalyLearner(network, parts), ordinary)

    def draw(samples: Tensor) -> tuple[Tensor, Tensor]:
        frames, _, _, _, place = split_scene_batch(samples)
        scene = parts.judge(normalise_frames(frames[:, :1]), parts.motion(frames), nn.functional.avg_pool2d(place, CELL_PX)).scene
        return nn.functional.avg_pool2d(normalise_frames(frames[:, :1]), CELL_PX) / 2.0, scene[:, :1] / 2.0

    crops = torch.arange(_VALIDATION_CROPS)
    return TrainingStage(
        name="judgement",
        share=1.0 - MOTION_SHARE,
        batch=JUDGE_BATCH,
        learner=learner,
        data=TrainingData(samples, PseudoAnomalySamples(held_out).draw(crops).samples, ahead=True),
        learned=ordinary.draw(crops).samples,
        draw=draw,
        patient=False,
    )


def _taught(
    network: ServingNetwork, parts: TrainableNetworks, plan: SceneSource, marked: Sequence[AnnotatedClip], work: ProgressBar
) -> tuple[AnomalyLearner, AnnotatedSamples]:
    """The judge's learner and samples where operators marked something."""
    frames = min(_MARKED_FRAMES, sum(mark.last - mark.first + 1 for mark in marked))
    with work("looking at what was marked", frames) as advance:
        shown = find_annotated_frames(marked, plan.crowds, parts.history[-1], frames, DisFlow(), lambda: advance(1))
    anomalies, false_alarms = ([one for one in shown if one.anomalous is kind] for kind in (True, False))
    return FeedbackLearner(network, parts), AnnotatedSamples(plan, anomalies, false_alarms)
