"""The report on the last tenth of the footage, which was set aside: unusual moments, and whether the footage was enough.

``fit`` writes it beside the bundle's own files, as ``unusual.json`` and ``unusual/*.jpg``.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import Bundle
from deploy.calibration import DEFAULT_BUDGET, Thresholds, thresholds
from deploy.decision import DecisionRule, DecisionTimes
from deploy.engine import Engine, EngineRequest
from deploy.image import encode_jpeg
from deploy.registry import load_engine
from trainer.data.clips import Split
from trainer.data.footage import Footage
from trainer.evaluation.event_metrics import announced_events
from trainer.evaluation.mistakes import overlay
from trainer.evaluation.runner import score_footage, scored_frames

JSON_NAME = "unusual.json"
PICTURES_FOLDER = "unusual"
_MIN_MOMENTS = 5
_MAX_PICTURES = 10
_JPEG_QUALITY = 90
_MOMENT_DISTANCE_S = 2.0  # between a score peak and other moments, so that one incident is reported once

Scores = Mapping[str, NDArray[np.float32]]
"""Clip name -> one score per frame of its source, float32 (frames,); NaN for frames without a score."""
VERDICTS = ("enough", "more would help", "too little")
"""On the amount of footage, from best to worst."""


@dataclass(frozen=True, slots=True)
class UnusualMoment:
    """A stretch of frames of one clip, numbered from 0, both ends included."""

    clip: str
    first_frame: int
    last_frame: int
    peak_frame: int
    """The frame with the highest score."""
    peak_score: float
    announced: bool
    """The service would have raised an alert. Moments without an alert consist of their peak alone."""


@dataclass(frozen=True, slots=True)
class FootageFacts:
    """Measured facts that tell whether the footage was enough."""

    hours: float
    """Of all readable footage, at its frame rate."""
    calibration_s: float
    """Duration of the footage that the thresholds rest on."""
    bound: float
    """False events a day at most at the default budget, see :class:`deploy.calibration.Thresholds`."""
    last_tenth_hours: float
    """Of the scored frames in the last tenth."""
    events: int
    """Alerts in the last tenth, which is taken to be normal."""
    loss_ratio: float | None
    """Loss of held-out footage divided by that of training footage; None if one is missing or not above 0."""


class Limits(NamedTuple):
    """Limits of one fact: ``enough`` or better is enough, ``too_little`` or worse is too little. They are conventions."""

    enough: float
    too_little: float

    def grade(self, value: float) -> int:
        """Index of the value's verdict in ``VERDICTS``."""
        sign = 1.0 if self.enough > self.too_little else -1.0
        if sign * value >= sign * self.enough:
            return 0
        return 2 if sign * value <= sign * self.too_little else 1


# What happens every ten minutes was seen three times in half an hour, and perhaps never in three minutes.
HOURS = Limits(0.5, 0.05)
BOUND = Limits(20.0, 500.0)  # a false event an hour is a nuisance, one every three minutes is of no use
FALSE_EVENTS_PER_HOUR = Limits(4.0, 20.0)  # without one event, which may be a true one
LOSS_RATIO = Limits(1.25, 2.0)  # a large ratio shows overfitting


@dataclass(frozen=True, slots=True)
class Sufficiency:
    """Whether the footage was enough, and a reason for every fact that speaks for more, worst first."""

    verdict: str
    reasons: tuple[str, ...]

    @property
    def text(self) -> str:
        """Verdict and reasons in one sentence."""
        return f"{self.verdict}, because {'; '.join(self.reasons)}" if self.reasons else self.verdict


@dataclass(frozen=True, slots=True)
class HoldoutReport:
    """The content of the report."""

    moments: tuple[UnusualMoment, ...]
    """Alerts first; the first ``_MAX_PICTURES`` have pictures, numbered from 1."""
    facts: FootageFacts
    sufficiency: Sufficiency
    fps: float
    thresholds: Thresholds


def write_holdout_report(bundle: Bundle, split: Split, advance: Callable[[int], None]) -> HoldoutReport:
    """Score the last tenth, ``split.holdout``, and write the report beside the bundle. ``advance`` gets newly scored frames.

    Raises:
        OddsightError: the bundle's default engine cannot be used.
    """
    with closing(load_engine(bundle, EngineRequest())) as engine:
        scores = {video.name: score_footage(engine, video, advance) for video in split.holdout}
        limits = thresholds(bundle.calibration, DEFAULT_BUDGET, DecisionTimes())
        rule = DecisionRule(enter=limits.enter, exit=limits.exit)
        moments = tuple(find_unusual_moments(rule, scores, bundle.spec.fps, _MIN_MOMENTS))
        facts = _measure_facts(bundle, split, limits, scores, moments)
        report = HoldoutReport(moments, facts, assess_footage(facts), bundle.spec.fps, limits)
        _write_pictures(bundle, engine, split.holdout, report)
    (bundle.path / JSON_NAME).write_text(json.dumps(_as_json(bundle, report), indent=2) + "\n", encoding="utf-8")
    return report


def holdout_lines(report: HoldoutReport) -> Iterator[str]:
    """The report as lines for the screen."""
    events, minutes, threshold = report.facts.events, report.facts.last_tenth_hours * 60, report.thresholds.enter
    yield (
        f"the last tenth of the footage, {minutes:.1f} minutes that were neither learned from nor calibrated on, has "
        f"{events or 'no'} event{'' if events == 1 else 's'} at the threshold {threshold:.3g}; its most unusual moments:"
    )
    for number, moment in enumerate(report.moments[:_MAX_PICTURES], 1):
        yield f"  {number}. {_moment_line(moment, report.fps, threshold)}"
    yield f"pictures with heat maps in {PICTURES_FOLDER}/, all moments in {JSON_NAME}"
    yield f"was the footage enough? {report.sufficiency.text}"


def find_unusual_moments(rule: DecisionRule, scores: Scores, fps: float, at_least: int) -> list[UnusualMoment]:
    """All alerts, highest peak first, then the highest scores elsewhere until there are ``at_least`` moments."""
    alerts = []
    for clip, row in scores.items():
        for event in announced_events(rule, row, fps):
            peak = event.started + int(np.nanargmax(row[event.started : event.ended + 1]))
            alerts.append(UnusualMoment(clip, event.started, event.ended, peak, float(row[peak]), announced=True))
    remaining = {clip: row.copy() for clip, row in scores.items()}
    distance = max(1, round(_MOMENT_DISTANCE_S * fps))
    for moment in alerts:
        _blank(remaining, moment, distance)
    peaks: list[UnusualMoment] = []
    while len(alerts) + len(peaks) < at_least and any(np.isfinite(row).any() for row in remaining.values()):
        clip = max(remaining, key=lambda name: np.nanmax(remaining[name], initial=-np.inf))
        peak = int(np.nanargmax(remaining[clip]))
        peaks.append(UnusualMoment(clip, peak, peak, peak, float(remaining[clip][peak]), announced=False))
        _blank(remaining, peaks[-1], distance)
    return [*sorted(alerts, key=lambda moment: -moment.peak_score), *peaks]


def assess_footage(facts: FootageFacts) -> Sufficiency:
    """Whether the footage was enough; the worst fact decides."""
    graded = sorted((entry for entry in _graded_reasons(facts) if entry[0]), key=lambda entry: -entry[0])
    return Sufficiency(VERDICTS[graded[0][0] if graded else 0], tuple(reason for _, reason in graded))


def loss_ratio(metrics: Mapping[str, Any]) -> float | None:
    """See :attr:`FootageFacts.loss_ratio`; ``metrics``: of the bundle."""
    learned, held_out = metrics["loss_learned"], metrics["loss_held_out"]
    return held_out / learned if held_out is not None and min(learned, held_out) > 0 else None


def clock(seconds: float) -> str:
    """A time from the start of a clip, such as 1:02:03.4."""
    minutes, tenths = divmod(round(seconds * 10), 600)
    return f"{minutes // 60}:{minutes % 60:02d}:{tenths / 10:04.1f}"


def _blank(scores: Mapping[str, NDArray[np.float32]], moment: UnusualMoment, distance: int) -> None:
    scores[moment.clip][max(0, moment.first_frame - distance) : moment.last_frame + distance + 1] = np.nan


def _graded_reasons(facts: FootageFacts) -> Iterator[tuple[int, str]]:
    """The grade of every known fact, see :meth:`Limits.grade`, and the reason that it gives."""
    reason = f"there are {facts.hours * 60:.1f} minutes of footage, and {HOURS.enough * 60:.0f} show more of what is normal"
    yield HOURS.grade(facts.hours), reason
    reason = f"the threshold rests on {facts.calibration_s:.0f} s, and may let through {facts.bound:,.0f} false events a day"
    yield BOUND.grade(facts.bound), reason
    if (hours := facts.last_tenth_hours) == 0.0:
        yield 2, "the last tenth has no frame that can be scored"
    else:
        reason = f"{facts.events} events in the last tenth, {hours * 60:.1f} minutes long, are many if it is normal"
        yield FALSE_EVENTS_PER_HOUR.grade(max(0, facts.events - 1) / hours), reason
    if (ratio := facts.loss_ratio) is not None:
        yield LOSS_RATIO.grade(ratio), f"the loss of held-out footage is {ratio:.2f} times that of training footage"


def _measure_facts(
    bundle: Bundle, split: Split, limits: Thresholds, scores: Scores, moments: Sequence[UnusualMoment]
) -> FootageFacts:
    frames = sum(len(video.frames) for part in (split.train, split.validation, split.holdout) for video in part)
    scored = sum(int(np.isfinite(row).sum()) for row in scores.values())
    frames_per_hour = bundle.spec.fps * 3600
    return FootageFacts(
        hours=frames / frames_per_hour,
        calibration_s=bundle.calibration.observed_s,
        bound=limits.bound,
        last_tenth_hours=scored / frames_per_hour,
        events=sum(moment.announced for moment in moments),
        loss_ratio=loss_ratio(bundle.manifest.metrics),
    )


def _write_pictures(bundle: Bundle, engine: Engine, footage: Sequence[Footage], report: HoldoutReport) -> None:
    """Write the peaks under their heat maps. The clips are scored again, because all heat maps would not fit in memory."""
    folder, moments = bundle.path / PICTURES_FOLDER, report.moments
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.jpg"):
        old.unlink()
    for video in footage:
        numbers = {moment.peak_frame: n for n, moment in enumerate(moments[:_MAX_PICTURES], 1) if moment.clip == video.name}
        for place, _, heatmap in scored_frames(engine, video) if numbers else ():
            if place in numbers:
                frame = video.frames[int(np.searchsorted(video.index, place))]
                picture = overlay(np.asarray(frame), heatmap, report.thresholds)
                (folder / f"{numbers[place]}.jpg").write_bytes(encode_jpeg(picture, _JPEG_QUALITY))
            if place >= max(numbers):
                break


def _as_json(bundle: Bundle, report: HoldoutReport) -> dict[str, Any]:
    return {
        "model_id": bundle.model_id,
        "calibration_id": bundle.calibration.calibration_id,
        "threshold": report.thresholds.enter,
        "fps": report.fps,
        "moments": [
            {
                **asdict(moment),
                **{f"{name}_s": getattr(moment, f"{name}_frame") / report.fps for name in ("first", "last", "peak")},
                "picture": f"{PICTURES_FOLDER}/{number}.jpg" if number <= _MAX_PICTURES else None,
            }
            for number, moment in enumerate(report.moments, 1)
        ],
        "enough": {**asdict(report.sufficiency), "facts": asdict(report.facts)},
    }


def _moment_line(moment: UnusualMoment, fps: float, threshold: float) -> str:
    peak = f"score {moment.peak_score:.3g} at {clock(moment.peak_frame / fps)} (frame {moment.peak_frame})"
    if not moment.announced:
        return f"{moment.clip}: {'too short for an' if moment.peak_score >= threshold else 'no'} event, {peak}"
    return f"{moment.clip}: {clock(moment.first_frame / fps)} to {clock(moment.last_frame / fps)}, {peak}"
