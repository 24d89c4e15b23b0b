"""How the two networks of the video model learn: FlowNet from classical flow, AnomalyNet from pseudo-anomalies and annotations.

FlowNet comes first and is frozen afterwards: fast pasted objects would teach it to overestimate every speed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from trainer.models.esad import entropy_loss
from trainer.models.layers import detached
from trainer.models.video_ede.networks import CELL_PX, AnomalyNet, AnomalyOutput, FlowFeatures, FlowNet, init_he, normalise_frames
from trainer.training.distributed import DistributedContext
from trainer.training.interfaces import Batch

SCENE_WEIGHT = 0.3
_ENTROPY_WEIGHT = 0.01
_WEIGHT_DECAY = 1e-4
_WARM_UP_SHARE = 0.02
_ADAPTATION_RATE = 1e-2
_MOVING_WEIGHT = 3.0
_FOCUS = 2.0
_ANOMALOUS_WEIGHT = 3.0
_MIN_SHARE = 0.5  # of a cell that must be annotated, anomalous or ignored to count as such
_MIN_LOGIT = -1.0  # possibly anomalous cells below do not count: an untrained network knows nothing, and a crop may show none
_SELECTED_SHARE = 0.1  # of the possibly anomalous cells of a crop


@dataclass(frozen=True, slots=True)
class TrainableNetworks:
    """The networks that learn, and their settings."""

    flow_net: FlowNet
    anomaly_net: AnomalyNet
    history: tuple[int, ...]  # distances of the older frames from the newest one
    learning_rate: float
    pretrained: bool = False  # they keep their weights; else the learners initialise them


class SceneBatch(NamedTuple):
    """The channels of :class:`trainer.pseudo_anomalies.samples.PseudoAnomalySamples`, (N, channels, H, W)."""

    frames: Tensor
    clean: Tensor
    anomalous: Tensor
    ignored: Tensor
    position: Tensor


def split_scene_batch(samples: Tensor) -> SceneBatch:
    """Split samples (N, 2 (1 + history) + 4, H, W) into their parts."""
    count = (samples.shape[1] - 4) // 2
    return SceneBatch(*torch.split(samples, [count, count, 1, 1, 2], dim=1))


class _NetworkLearner:
    """Trains one network with AdamW; the learning rate rises for 2 % of the run and then falls along a cosine."""

    def __init__(self, detector: nn.Module, network: nn.Module, rate: float) -> None:
        # In this memory format a step takes a tenth less time with one thread, a quarter less with two.
        detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's annotations
        self.modules: Mapping[str, nn.Module] = {"detector": detector}
        self._network = network
        optimiser = AdamW(network.parameters(), lr=rate, weight_decay=_WEIGHT_DECAY, foreach=True)
        self.optimisers: Mapping[str, Optimizer] = {"detector": optimiser}

    def rate_factor(self, share: float) -> float:
        return min(1.0, 0.1 + share / _WARM_UP_SHARE) * (0.5 + 0.5 * math.cos(math.pi * share))

    def learn(self, batch: Batch, share: float, context: DistributedContext) -> Mapping[str, Tensor]:
        losses = self.training_losses(batch.samples)
        context.update("detector", self.optimisers["detector"], losses, self._network.parameters())
        return detached(losses)

    def validation_loss(self, samples: Tensor) -> Tensor:
        return torch.stack(list(self.losses(samples).values())).sum()

    def training_losses(self, samples: Tensor) -> Mapping[str, Tensor]:
        return self.losses(samples)

    def losses(self, samples: Tensor) -> Mapping[str, Tensor]:
        raise NotImplementedError


class FlowLearner(_NetworkLearner):
    """Trains FlowNet on :class:`trainer.pseudo_anomalies.samples.FlowSamples`."""

    def __init__(self, detector: nn.Module, networks: TrainableNetworks) -> None:
        super().__init__(detector, networks.flow_net, networks.learning_rate)
        init_he(networks.flow_net)
        self._flow_net = networks.flow_net

    def losses(self, samples: Tensor) -> Mapping[str, Tensor]:
        """Absolute error of the flow, in pixels; what moves counts up to four times, as most of an image stands still."""
        frames, true = samples[:, :-2], nn.functional.avg_pool2d(samples[:, -2:], CELL_PX)  # (N, C, H, W), (N, 2, h, w)
        weight = 1.0 + _MOVING_WEIGHT * true.norm(dim=1, keepdim=True).clamp(max=1.0)  # (N, 1, h, w)
        return {"flow": ((self._flow_net(frames).flow - true).abs() * weight).mean()}


class AnomalyPrediction(NamedTuple):
    """AnomalyNet's output for samples, and its targets."""

    output: AnomalyOutput
    scene: Tensor  # the normal scene, (N, 3, h, w)
    anomalous: Tensor  # the share of each cell that is anomalous, (N, 1, h, w)
    ignored: Tensor  # the share of each cell that must not count, (N, 1, h, w)


class AnomalyLearner(_NetworkLearner):
    """Trains AnomalyNet on :class:`trainer.pseudo_anomalies.samples.PseudoAnomalySamples`; FlowNet is frozen."""

    def __init__(self, detector: nn.Module, networks: TrainableNetworks) -> None:
        super().__init__(detector, networks.anomaly_net, networks.learning_rate)
        if not networks.pretrained:
            networks.anomaly_net.init_weights()
        self._flow_net: FlowNet = networks.flow_net
        self._anomaly_net: nn.Module = networks.anomaly_net

    def losses(self, samples: Tensor) -> Mapping[str, Tensor]:
        return self.prediction_losses(self.predict(samples))

    def predict(self, samples: Tensor) -> AnomalyPrediction:
        """Run both networks on samples (N, C, H, W)."""
        frames, clean, anomalous, ignored, position = split_scene_batch(samples)
        with torch.no_grad():
            features, scene = self._flow_net(frames), _scene(clean, self._flow_net(clean).flow)
        position = nn.functional.avg_pool2d(position, CELL_PX)  # (N, 2, h, w)
        output: AnomalyOutput = self._anomaly_net(normalise_frames(frames[:, :1]), features, position)
        return AnomalyPrediction(output, scene, *(nn.functional.avg_pool2d(part, CELL_PX) for part in (anomalous, ignored)))

    def prediction_losses(self, prediction: AnomalyPrediction) -> Mapping[str, Tensor]:
        """Focal losses of both logits, and the absolute error of the decoder's normal scene."""
        output, anomalous, ignored = prediction.output, prediction.anomalous, prediction.ignored
        coarse_anomalous, coarse_ignored = (nn.functional.avg_pool2d(part, 2) for part in (anomalous, ignored))  # h / 2, w / 2
        return {
            "anomaly": focal_loss(output.anomaly, anomalous, ignored),
            "latent_distance": focal_loss(output.distance, coarse_anomalous, coarse_ignored),
            "scene": SCENE_WEIGHT * (output.scene - prediction.scene).abs().mean(),
        }


class AdaptationLearner(AnomalyLearner):
    """Learns a camera's adaptation of a trained AnomalyNet on pseudo-anomalies of its footage; both networks are frozen."""

    def __init__(self, detector: nn.Module, networks: TrainableNetworks) -> None:
        detector.requires_grad_(requires_grad=False)
        self.adapted = _AdaptedNet(networks.anomaly_net)
        _NetworkLearner.__init__(self, detector, self.adapted, _ADAPTATION_RATE)
        self._flow_net, self._anomaly_net = networks.flow_net, self.adapted


class _AdaptedNet(nn.Module):
    """An AnomalyNet with one camera's adaptation, which alone is learned."""

    def __init__(self, anomaly_net: AnomalyNet) -> None:
        super().__init__()
        self._forward = anomaly_net.forward  # not a child, so that its weights are not among the parameters
        self.values = nn.Parameter(torch.zeros(2 * sum(anomaly_net.adapted.values())))

    def forward(self, frame: Tensor, features: FlowFeatures, position: Tensor) -> AnomalyOutput:
        return self._forward(frame, features, position, self.values.expand(len(frame), -1))


def focal_loss(logits: Tensor, anomalous: Tensor, ignored: Tensor) -> Tensor:
    """Focal loss (Lin et al., "Focal Loss for Dense Object Detection", 2017, section 3.2) of cells, (N, 1, h, w) each: scalar.

    ``anomalous``: the share of a cell that is. Cells of which a tenth to a half is, or that are ignored, do not count.
    """
    truth = (anomalous > 0.3).float()
    counts = ((anomalous < 0.1) | (anomalous > 0.5)).float() * (ignored < 0.1).float()
    cross_entropy = nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    wrong = 1.0 - torch.exp(-cross_entropy)  # 1 - p_t
    loss = wrong.pow(_FOCUS) * cross_entropy * counts * (1.0 + (_ANOMALOUS_WEIGHT - 1.0) * truth)  # (N, 1, h, w)
    # A mean of each sample's mean: processes that share a batch do not know how many cells count in the others' samples.
    return (loss.sum(dim=(1, 2, 3)) / counts.sum(dim=(1, 2, 3)).clamp_min(1.0)).mean()


def _scene(frames: Tensor, flow: Tensor) -> Tensor:  # the decoder's target (N, 3, h, w)
    return torch.cat([nn.functional.avg_pool2d(normalise_frames(frames[:, :1]), CELL_PX), flow], dim=1)


class FeedbackLearner(AnomalyLearner):
    """Trains AnomalyNet also on operators' annotations, with ESAD's objective (arXiv 2012.04905, section 3) cell by cell.

    Samples are :class:`trainer.pseudo_anomalies.annotated_samples.AnnotatedSamples`; validation samples have no annotations.

    - Information: D reconstructs normal cells as they are, and annotated anomalies as noise around mid-grey. The absolute error
      of noise is smallest for its median, so mid-grey without motion is the target at once.
    - Entropy: z' is short in normal cells and long in annotated anomalies.
    - Assistant: the distance of the two codes, small in normal cells and large in anomalies, is learned anyway.

    Annotated cells also count in the focal losses, like pseudo-anomalies.
    """

    def training_losses(self, samples: Tensor) -> Mapping[str, Tensor]:
        prediction = select_instances(self.predict(samples[:, :-1]))
        annotated = nn.functional.avg_pool2d(samples[:, -1:], CELL_PX) > _MIN_SHARE  # (N, 1, h, w)
        annotated &= prediction.ignored < 1.0 - _MIN_SHARE
        return {
            **self.prediction_losses(prediction),
            "scene": SCENE_WEIGHT * annotated_scene_loss(prediction, annotated),
            "entropy": _ENTROPY_WEIGHT * annotated_entropy_loss(prediction, annotated),
        }


def select_instances(prediction: AnomalyPrediction) -> AnomalyPrediction:
    """Of the possibly anomalous cells (anomalous and ignored) stop ignoring the tenth of each sample with the highest logits.

    Multiple-instance learning (Sultani et al., "Real-world Anomaly Detection in Surveillance Videos", 2018, section 3.2): an
    annotation without a region says that something in the frame is anomalous; the network's present belief is the best guess.
    """
    logits = prediction.output.anomaly.detach()  # the selection itself is not learned
    possible = (prediction.anomalous > _MIN_SHARE) & (prediction.ignored > _MIN_SHARE)
    ranked = torch.where(possible, logits, -torch.inf).flatten(1).sort(dim=1, descending=True).values  # (N, h * w)
    count = (possible.flatten(1).sum(dim=1, keepdim=True) * _SELECTED_SHARE).long()  # (N, 1)
    threshold = ranked.gather(1, count)[:, :, None, None]  # (N, 1, 1, 1)
    selected = possible & (logits >= threshold.clamp_min(_MIN_LOGIT))
    return prediction._replace(ignored=torch.where(selected, 0.0, prediction.ignored))


def annotated_scene_loss(prediction: AnomalyPrediction, annotated: Tensor) -> Tensor:
    """Absolute error of D's scene, scalar; the target of annotated anomalies is mid-grey without motion.

    ``annotated``: bool (N, 1, h, w). In samples with annotations only annotated cells count: the normal scene of the others is
    not known.
    """
    target = torch.where(annotated & (prediction.anomalous > _MIN_SHARE), 0.0, prediction.scene)
    counts = annotated | ~annotated.flatten(1).any(dim=1)[:, None, None, None]
    return ((prediction.output.scene - target).abs() * counts).mean()


def annotated_entropy_loss(prediction: AnomalyPrediction, annotated: Tensor) -> Tensor:
    """ESAD's entropy loss of z' in annotated cells, scalar; anomalies and false alarms weigh the same, whatever their areas.

    ``annotated``: bool (N, 1, h, w).
    """
    masks = (prediction.anomalous, annotated)
    anomalous, counts = (nn.functional.avg_pool2d(mask.float(), 2)[:, 0] > _MIN_SHARE for mask in masks)  # (N, h / 2, w / 2)
    losses = entropy_loss(prediction.output.code, ~anomalous)  # (N, h / 2, w / 2)
    return _masked_mean(losses, counts & anomalous) + _masked_mean(losses, counts & ~anomalous)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:  # (N, h, w) each
    return ((values * mask).sum(dim=(1, 2)) / mask.sum(dim=(1, 2)).clamp_min(1)).mean()
