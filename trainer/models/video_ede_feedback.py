"""How the video model's judge learns what operators said: ESAD's objective on the cells that they marked.

Huang et al., "ESAD" (arXiv 2012.04905), section 3, as :mod:`trainer.models.esad` reads it, cell by cell:

- *information*: D draws normal cells as they are and labelled anomalies as noise. What an absolute error makes of noise around
  mid-grey is its median, so that is what D is taught to draw at once: mid-grey that stands still.
- *entropy*: z' is short for normal cells and long for labelled anomalies.
- *assistant*, which ties both codes, is the judge's latent distance: small for normal cells, and for anomalies large.

Beside these the labelled cells count like pseudo-anomalies in what the judge learns anyway.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainer.learner import Batch
from trainer.models.esad import entropy_loss
from trainer.models.motion_net import CELL_PX
from trainer.models.video_ede_learners import SCENE_WEIGHT, JudgeLearner, Looked
from trainer.together import Together

_ENTROPY_WEIGHT = 0.01
_SURE = 0.5
"""Of a cell that much has to be so."""
_SUSPECT_LOGIT = -1.0
"""What is perhaps anomalous counts as anomalous only above this: at first the judge knows nothing, and a crop may show none."""
_SUSPECTS_SHARE = 0.1
"""Of what is perhaps anomalous in a crop, the strangest part counts."""


class TaughtLearner(JudgeLearner):
    """Teaches :class:`trainer.models.judge.Judge`; samples are those of :class:`trainer.sprites.marked.MarkedSamples`.

    It is validated on ordinary samples, as without marks.
    """

    def learn(self, batch: Batch, share: float, together: Together) -> Mapping[str, Tensor]:
        """See :class:`trainer.learner.Learner`."""
        return self.step(self.taught_terms(batch.samples), together)

    def taught_terms(self, samples: Tensor) -> Mapping[str, Tensor]:
        """The judge's losses, with ESAD's target for D, and ESAD's entropy."""
        looked = settle(self.look(samples[:, :-1]))
        told = (nn.functional.avg_pool2d(samples[:, -1:], CELL_PX) > _SURE) & (looked.left_out < 1.0 - _SURE)
        return {
            **self.losses(looked),
            "scene": SCENE_WEIGHT * information_loss(looked, told),
            "entropy": _ENTROPY_WEIGHT * code_loss(looked, told),
        }


def settle(looked: Looked) -> Looked:
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


def information_loss(looked: Looked, told: Tensor) -> Tensor:
    """Absolute error of D's picture, scalar: labelled anomalies should be nothing, mid-grey and still.

    ``told``: where an operator's word holds, bool (N, 1, h, w). A sample with such cells is judged by them alone: what D should
    draw in the others nobody knows.
    """
    target = torch.where(told & (looked.anomalous > _SURE), 0.0, looked.scene)
    counts = told | ~told.flatten(1).any(dim=1)[:, None, None, None]
    return ((looked.judged.scene - target).abs() * counts).mean()


def code_loss(looked: Looked, told: Tensor) -> Tensor:
    """ESAD's entropy of z' in labelled cells, scalar; anomalies and false alarms count alike, however many cells each has.

    ``told``: where an operator's word holds, bool (N, 1, h, w).
    """
    anomalous, said = (nn.functional.avg_pool2d(part.float(), 2)[:, 0] > _SURE for part in (looked.anomalous, told))
    lengths = entropy_loss(looked.judged.code, ~anomalous)
    return _mean(lengths, said & anomalous) + _mean(lengths, said & ~anomalous)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Each sample's mean of ``values`` (N, h, w) there, 0 without any; the mean of these."""
    return ((values * where).sum(dim=(1, 2)) / where.sum(dim=(1, 2)).clamp_min(1)).mean()
