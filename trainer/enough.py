"""Was the footage enough? A verdict from measured facts alone. Pure.

Each fact has two limits: at the first or better it speaks for "enough", at the second or worse for "too little", between them
for "more would help". The worst one decides. The limits are conventions; their reasons stand beside them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from trainer.tail import TAIL_FRAMES

Verdict = Literal["enough", "more would help", "too little"]
VERDICTS: tuple[Verdict, ...] = ("enough", "more would help", "too little")
"""From best to worst."""


class Limits(NamedTuple):
    """Of one fact; better is larger where ``enough`` is the larger one."""

    enough: float
    too_little: float

    def grade(self, value: float) -> int:
        """Place of a value in ``VERDICTS``."""
        sign = 1.0 if self.enough > self.too_little else -1.0
        if sign * value >= sign * self.enough:
            return 0
        return 2 if sign * value <= sign * self.too_little else 1


HOURS = Limits(0.5, 0.05)
"""Of footage in all. What happens every ten minutes was seen three times in half an hour, and perhaps never in three minutes."""
CALIBRATION_FRAMES = Limits(100.0 * TAIL_FRAMES, 25.0 * TAIL_FRAMES)
"""From 2000 on the 99 % quantile is read from the scores, below it is carried on; at 500 from 96 %."""
THRESHOLD_DRIFT = Limits(0.25, 1.0)
"""Difference of the thresholds from either half of the calibration frames, by the threshold's height above the median."""
FALSE_EVENTS_PER_HOUR = Limits(12.0, 60.0)
"""In the last tenth, one event forgiven: it may be a true one."""
LOSS_RATIO = Limits(1.25, 2.0)
"""Loss of held-out footage by the loss of learned footage: what is learned by heart is not learned."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was measured."""

    hours: float
    """Of all readable footage, at its frame rate."""
    calibration_frames: int
    """Scored frames behind the threshold."""
    threshold_drift: float | None
    """See :data:`THRESHOLD_DRIFT`; None where half of the frames is too few for a threshold."""
    last_tenth_hours: float
    """Of the scored frames among those that were set aside."""
    events: int
    """That the service would have announced in the last tenth, which is taken for ordinary."""
    loss_ratio: float | None
    """See :data:`LOSS_RATIO`; None where a loss is not above 0, or there is none."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, and a sentence for every fact that speaks against a better one."""

    verdict: Verdict
    reasons: tuple[str, ...]

    @property
    def text(self) -> str:
        """In one sentence."""
        return f"{self.verdict}, because {'; '.join(self.reasons)}" if self.reasons else self.verdict


class _Finding(NamedTuple):
    grade: int
    reason: str


def judge(facts: Facts) -> Judgement:
    """The verdict over ``facts``; the reasons begin with the gravest."""
    findings = sorted((found for found in _findings(facts) if found.grade), key=lambda found: -found.grade)
    worst = findings[0].grade if findings else 0
    return Judgement(VERDICTS[worst], tuple(found.reason for found in findings))


def _findings(facts: Facts) -> Iterator[_Finding]:
    yield _Finding(
        HOURS.grade(facts.hours),
        f"there are {facts.hours * 60:.1f} minutes of footage, and {HOURS.enough * 60:.0f} show more of what is ordinary",
    )
    yield _Finding(
        CALIBRATION_FRAMES.grade(facts.calibration_frames),
        f"the threshold rests on {facts.calibration_frames} frames, and {CALIBRATION_FRAMES.enough:.0f} need no extrapolation",
    )
    if facts.threshold_drift is not None:
        yield _Finding(
            THRESHOLD_DRIFT.grade(facts.threshold_drift),
            f"the two halves of the calibration footage give thresholds that differ by {facts.threshold_drift:.0%} of the "
            "threshold's height above ordinary scores",
        )
    yield _last_tenth(facts)
    if facts.loss_ratio is not None:
        yield _Finding(
            LOSS_RATIO.grade(facts.loss_ratio),
            f"the loss of footage that was not learned is {facts.loss_ratio:.2f} times that of learned footage",
        )


def _last_tenth(facts: Facts) -> _Finding:
    if facts.last_tenth_hours == 0.0:
        return _Finding(2, "the last tenth has no frame that can be scored")
    rate = max(0, facts.events - 1) / facts.last_tenth_hours
    return _Finding(
        FALSE_EVENTS_PER_HOUR.grade(rate),
        f"{facts.events} events in the last tenth, {facts.last_tenth_hours * 60:.1f} minutes long, are many if it is ordinary",
    )
