"""How the video model learns: first motion from a classical teacher, then strangeness from pseudo-anomalies.

In this order, and with the first part frozen in the second: fast pasted things would teach it to overestimate every speed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from trainer.learner import Batch
from trainer.models.judge import Judge, Judgement
from trainer.models.motion_net import CELL_PX, MotionNet, as_input, initialise_relu
from trainer.together import Together

_WEIGHT_DECAY = 1e-4
_WARM_UP = 0.02
_MOVING_WEIGHT = 3.0
SCENE_WEIGHT = 0.3
_FOCUS = 2.0
_ANOMALOUS_WEIGHT = 3.0


@dataclass(frozen=True, slots=True)
class Parts:
    """The networks that learn, and what they learn with."""

    motion: MotionNet
    judge: Judge
    history: tuple[int, ...]
    """How many frames before the newest one the others lie."""
    learning_rate: float


class Scenes(NamedTuple):
    """Samples of the judge, apart: see :class:`trainer.sprites.samples.SceneSamples`."""

    frames: Tensor
    clean: Tensor
    anomalous: Tensor
    left_out: Tensor
    place: Tensor


def parts_of(samples: Tensor) -> Scenes:
    """Take samples apart."""
    count = (samples.shape[1] - 4) // 2
    return Scenes(*torch.split(samples, [count, count, 1, 1, 2], dim=1))


class Looked(NamedTuple):
    """What the judge thought of samples, and what it should have thought."""

    judged: Judgement
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
        """See :class:`trainer.learner.Learner`."""
        return min(1.0, 0.1 + share / _WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * share))

    def learn(self, batch: Batch, share: float, together: Together) -> Mapping[str, Tensor]:
        """See :class:`trainer.learner.Learner`."""
        return self.step(self.terms(batch.samples), together)

    def step(self, terms: Mapping[str, Tensor], together: Together) -> Mapping[str, Tensor]:
        """One step down the gradient of the losses; these, detached."""
        together.update("detector", self.optimisers["detector"], terms, self._learned.parameters())
        return {name: value.detach() for name, value in terms.items()}

    def validation_loss(self, samples: Tensor) -> Tensor:
        """See :class:`trainer.learner.Learner`."""
        return torch.stack(list(self.terms(samples).values())).sum()

    def terms(self, samples: Tensor) -> Mapping[str, Tensor]:
        """The losses."""
        raise NotImplementedError


class MotionLearner(_Learner):
    """Teaches :class:`MotionNet`; samples are those of :class:`trainer.sprites.samples.MotionSamples`."""

    def __init__(self, detector: nn.Module, parts: Parts) -> None:
        super().__init__(detector, parts.motion, parts.learning_rate)
        initialise_relu(parts.motion)
        self._motion = parts.motion

    def terms(self, samples: Tensor) -> Mapping[str, Tensor]:
        """How far the flow is from the teacher's, in pixels; what moves counts four times."""
        frames, true = samples[:, :-2], nn.functional.avg_pool2d(samples[:, -2:], CELL_PX)
        weight = 1.0 + _MOVING_WEIGHT * true.norm(dim=1, keepdim=True).clamp(max=1.0)
        return {"flow": ((self._motion(frames).flow - true).abs() * weight).mean()}


class JudgeLearner(_Learner):
    """Teaches :class:`Judge`; samples are those of :class:`trainer.sprites.samples.SceneSamples`. The motion net stays as is."""

    def __init__(self, detector: nn.Module, parts: Parts) -> None:
        super().__init__(detector, parts.judge, parts.learning_rate)
        parts.judge.initialise()
        self._motion, self._judge = parts.motion, parts.judge

    def terms(self, samples: Tensor) -> Mapping[str, Tensor]:
        """See :meth:`losses`."""
        return self.losses(self.look(samples))

    def look(self, samples: Tensor) -> Looked:
        """Let the judge think."""
        frames, clean, anomalous, left_out, place = parts_of(samples)
        with torch.no_grad():
            seen, scene = self._motion(frames), _scene(clean, self._motion(clean).flow)
        judged: Judgement = self._judge(as_input(frames[:, :1]), seen, nn.functional.avg_pool2d(place, CELL_PX))
        return Looked(judged, scene, *(nn.functional.avg_pool2d(part, CELL_PX) for part in (anomalous, left_out)))

    def losses(self, looked: Looked) -> Mapping[str, Tensor]:
        """How wrong both logits are, and the decoder's picture of the scene without the anomalies."""
        judged, marked, ignored = looked.judged, looked.anomalous, looked.left_out
        coarse_marked, coarse_ignored = (nn.functional.avg_pool2d(part, 2) for part in (marked, ignored))
        return {
            "strange": mark_loss(judged.strange, marked, ignored),
            "distant": mark_loss(judged.distant, coarse_marked, coarse_ignored),
            "scene": SCENE_WEIGHT * (judged.scene - looked.scene).abs().mean(),
        }


def mark_loss(logits: Tensor, marked: Tensor, ignored: Tensor) -> Tensor:
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
    return torch.cat([nn.functional.avg_pool2d(as_input(frames[:, :1]), CELL_PX), flow], dim=1)
