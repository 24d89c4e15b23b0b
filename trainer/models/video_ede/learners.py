"""How the video model's judge learns what operators said: ESAD's objective on the cells that they marked.

Huang et al., "ESAD" (arXiv 2012.04905), section 3, as :mod:`trainer.models.esad` reads it, cell by cell:

- *information*: D draws normal cells as they are and labelled anomalies as noise. What an absolute error makes of noise around
  mid-grey is its median, so that is what D is taught to draw at once: mid-grey that stands still.
- *entropy*: z' is short for normal cells and long for labelled anomalies.
- *assistant*, which ties both codes, is the judge's latent distance: small for normal cells, and for anomalies large.

Beside these the labelled cells count like pseudo-anomalies in what the judge learns anyway.

How the video model learns: first motion from a classical teacher, then strangeness from pseudo-anomalies.

In this order, and with the first part frozen in the second: fast pasted things would teach it to overestimate every speed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from trainer.models.esad import entropy_loss
from trainer.models.video_ede.networks import CELL_PX, AnomalyNet, AnomalyOutput, FlowNet, init_he, normalise_frames
from trainer.training.distributed import DistributedContext
from trainer.training.interfaces import Batch

_WEIGHT_DECAY = 1e-4
_WARM_UP = 0.02
_MOVING_WEIGHT = 3.0
SCENE_WEIGHT = 0.3
_FOCUS = 2.0
_ANOMALOUS_WEIGHT = 3.0


@dataclass(frozen=True, slots=True)
class TrainableNetworks:
    """The networks that learn, and what they learn with."""

    motion: FlowNet
    judge: AnomalyNet
    history: tuple[int, ...]
    """How many frames before the newest one the others lie."""
    learning_rate: float


class SceneBatch(NamedTuple):
    """Samples of the judge, apart: see :class:`trainer.pseudo_anomalies.samples.PseudoAnomalySamples`."""

    frames: Tensor
    clean: Tensor
    anomalous: Tensor
    left_out: Tensor
    place: Tensor


def split_scene_batch(samples: Tensor) -> SceneBatch:
    """Take samples apart."""
    count = (samples.shape[1] - 4) // 2
    return SceneBatch(*torch.split(samples, [count, count, 1, 1, 2], dim=1))


class AnomalyPrediction(NamedTuple):
    """What the judge thought of samples, and what it should have thought."""

    judged: AnomalyOutput
    scene: Tensor
    """What it should have drawn."""
    anomalous: Tensor
    """The share of each cell that is anomalous, (N, 1, H / 4, W / 4)."""
    left_out: Tensor
    """Likewise, the share that is to be left out of account."""


class _Learner:
    """What both parts have in common: one optimiser, a rate that rises quickly and falls like a cosine."""

    def __init__(self, detector: nn.Module, learned: nn.Module, rate: float) -> None:
        # In this order a step takes a tenth less time with one thread, a quarter less with two.
        detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's annotations
        self.modules: Mapping[str, nn.Module] = {"detector": detector}
        self._learned = learned
        self.optimisers: Mapping[str, Optimizer] = {
            "detector": AdamW(learned.parameters(), lr=rate, weight_decay=_WEIGHT_DECAY, foreach=True)
        }

    def rate_factor(self, share: float) -> float:
        """See :class:`trainer.training.interfaces.Learner`."""
        return min(1.0, 0.1 + share / _WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * share))

    def learn(self, batch: Batch, share: float, context: DistributedContext) -> Mapping[str, Tensor]:
        """See :class:`trainer.training.interfaces.Learner`."""
        return self.step(self.terms(batch.samples), context)

    def step(self, terms: Mapping[str, Tensor], context: DistributedContext) -> Mapping[str, Tensor]:
        """One step down the gradient of the losses; these, detached."""
        context.update("detector", self.optimisers["detector"], terms, self._learned.parameters())
        return {name: value.detach() for name, value in terms.items()}

    def validation_loss(self, samples: Tensor) -> Tensor:
        """See :class:`trainer.training.interfaces.Learner`."""
        return torch.stack(list(self.terms(samples).values())).sum()

    def terms(self, samples: Tensor) -> Mapping[str, Tensor]:
        """The losses."""
        raise NotImplementedError


class FlowLearner(_Learner):
    """Teaches :class:`FlowNet`; samples are those of :class:`trainer.pseudo_anomalies.samples.FlowSamples`."""

    def __init__(self, detector: nn.Module, parts: TrainableNetworks) -> None:
        super().__init__(detector, parts.motion, parts.learning_rate)
        init_he(parts.motion)
        self._motion = parts.motion

    def terms(self, samples: Tensor) -> Mapping[str, Tensor]:
        """How far the flow is from the teacher's, in pixels; what moves counts four times."""
        frames, true = samples[:, :-2], nn.functional.avg_pool2d(samples[:, -2:], CELL_PX)
        weight = 1.0 + _MOVING_WEIGHT * true.norm(dim=1, keepdim=True).clamp(max=1.0)
        return {"flow": ((self._motion(frames).flow - true).abs() * weight).mean()}


class AnomalyLearner(_Learner):
    """Teaches :class:`AnomalyNet`; samples are those of :class:`trainer.pseudo_anomalies.samples.PseudoAnomalySamples`. The motion net stays as is."""

    def __init__(self, detector: nn.Module, parts: TrainableNetworks) -> None:
        super().__init__(detector, parts.judge, parts.learning_rate)
        parts.judge.initialise()
        self._motion, self._judge = parts.motion, parts.judge

    def terms(self, samples: Tensor) -> Mapping[str, Tensor]:
        """See :meth:`losses`."""
        return self.losses(self.look(samples))

    def look(self, samples: Tensor) -> AnomalyPrediction:
        """Let the judge think."""
        frames, clean, anomalous, left_out, place = split_scene_batch(samples)
        with torch.no_grad():
            seen, scene = self._motion(frames), _scene(clean, self._motion(clean).flow)
        judged: AnomalyOutput = self._judge(normalise_frames(frames[:, :1]), seen, nn.functional.avg_pool2d(place, CELL_PX))
        return AnomalyPrediction(judged, scene, *(nn.functional.avg_pool2d(part, CELL_PX) for part in (anomalous, left_out)))

    def losses(self, looked: AnomalyPrediction) -> Mapping[str, Tensor]:
        """How wrong both logits are, and the decoder's picture of the scene without the anomalies."""
        judged, marked, ignored = looked.judged, looked.anomalous, looked.left_out
        coarse_marked, coarse_ignored = (nn.functional.avg_pool2d(part, 2) for part in (marked, ignored))
        return {
            "strange": focal_loss(judged.strange, marked, ignored),
            "distant": focal_loss(judged.distant, coarse_marked, coarse_ignored),
            "scene": SCENE_WEIGHT * (judged.scene - looked.scene).abs().mean(),
        }


def focal_loss(logits: Tensor, marked: Tensor, ignored: Tensor) -> Tensor:
    """Focal loss (Lin et al., "Focal Loss for Dense Object Detection", 2017, section 3.2) of cells, (N, 1, h, w) each.

    ``marked``: the share of a cell that is anomalous. Cells of which it is a tenth to a half, or are ``ignored``, do not count.
    """
    truth = (marked > 0.3).float()
    counts = ((marked < 0.1) | (marked > 0.5)).float() * (ignored < 0.1).float()
    miss = nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    wrong = 1.0 - torch.exp(-miss)
    loss = wrong.pow(_FOCUS) * miss * counts * (1.0 + (_ANOMALOUS_WEIGHT - 1.0) * truth)
    # A mean of each sample's mean: processes that share a batch know nothing of the others' cells.
    return (loss.sum(dim=(1, 2, 3)) / counts.sum(dim=(1, 2, 3)).clamp_min(1.0)).mean()


def _scene(frames: Tensor, flow: Tensor) -> Tensor:
    """What the decoder is to draw: brightness and motion in the grid's cells."""
    return torch.cat([nn.functional.avg_pool2d(normalise_frames(frames[:, :1]), CELL_PX), flow], dim=1)


_ENTROPY_WEIGHT = 0.01
_SURE = 0.5
"""Of a cell that much has to be so."""
_SUSPECT_LOGIT = -1.0
"""What is perhaps anomalous counts as anomalous only above this: at first the judge knows nothing, and a crop may show none."""
_SUSPECTS_SHARE = 0.1
"""Of what is perhaps anomalous in a crop, the strangest part counts."""


class FeedbackLearner(AnomalyLearner):
    """Teaches :class:`trainer.models.video_ede.networks.AnomalyNet`; samples are those of :class:`trainer.pseudo_anomalies.annotated_samples.AnnotatedSamples`.

    It is validated on ordinary samples, as without marks.
    """

    def learn(self, batch: Batch, share: float, context: DistributedContext) -> Mapping[str, Tensor]:
        """See :class:`trainer.training.interfaces.Learner`."""
        return self.step(self.taught_terms(batch.samples), context)

    def taught_terms(self, samples: Tensor) -> Mapping[str, Tensor]:
        """The judge's losses, with ESAD's target for D, and ESAD's entropy."""
        looked = settle(self.look(samples[:, :-1]))
        told = (nn.functional.avg_pool2d(samples[:, -1:], CELL_PX) > _SURE) & (looked.left_out < 1.0 - _SURE)
        return {
            **self.losses(looked),
            "scene": SCENE_WEIGHT * information_loss(looked, told),
            "entropy": _ENTROPY_WEIGHT * code_loss(looked, told),
        }


def settle(looked: AnomalyPrediction) -> AnomalyPrediction:
    """Of the cells that are perhaps anomalous (anomalous and left out) the strangest tenth of each sample counts as anomalous.

    Multiple-instance learning (Sultani et al., "Real-world Anomaly Detection in Surveillance Videos", 2018, section 3.2): a mark
    without a region says that something in the frame is anomalous, and the best guess what it is, is the judge's present one.
    """
    strange = looked.judged.strange.detach()
    perhaps = (looked.anomalous > _SURE) & (looked.left_out > _SURE)
    ranked = torch.where(perhaps, strange, -torch.inf).flatten(1).sort(dim=1, descending=True).values
    count = (perhaps.flatten(1).sum(dim=1, keepdim=True) * _SUSPECTS_SHARE).long()
    least = ranked.gather(1, count)[:, :, None, None]
    chosen = perhaps & (strange >= least.clamp_min(_SUSPECT_LOGIT))
    return looked._replace(left_out=torch.where(chosen, 0.0, looked.left_out))


def information_loss(looked: AnomalyPrediction, told: Tensor) -> Tensor:
    """Absolute error of D's picture, scalar: labelled anomalies should be nothing, mid-grey and still.

    ``told``: where an operator's word holds, bool (N, 1, h, w). A sample with such cells is judged by them alone: what D should
    draw in the others nobody knows.
    """
    target = torch.where(told & (looked.anomalous > _SURE), 0.0, looked.scene)
    counts = told | ~told.flatten(1).any(dim=1)[:, None, None, None]
    return ((looked.judged.scene - target).abs() * counts).mean()


def code_loss(looked: AnomalyPrediction, told: Tensor) -> Tensor:
    """ESAD's entropy of z' in labelled cells, scalar; anomalies and false alarms count alike, however many cells each has.

    ``told``: where an operator's word holds, bool (N, 1, h, w).
    """
    anomalous, said = (nn.functional.avg_pool2d(part.float(), 2)[:, 0] > _SURE for part in (looked.anomalous, told))
    lengths = entropy_loss(looked.judged.code, ~anomalous)
    return _mean(lengths, said & anomalous) + _mean(lengths, said & ~anomalous)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Each sample's mean of ``values`` (N, h, w) there, 0 without any; the mean of these."""
    return ((values * where).sum(dim=(1, 2)) / where.sum(dim=(1, 2)).clamp_min(1)).mean()
