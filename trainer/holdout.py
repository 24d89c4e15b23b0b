"""The report on the last tenth in words.

The moments of some footage that a model finds most unusual. Pure.

Was the footage enough? A verdict from measured facts alone. Pure.

Each fact has two limits: at the first or better it speaks for "enough", at the second or worse for "too little", between them
for "more would help". The worst one decides. The limits are conventions; their reasons stand beside them.

What a new model makes of the last tenth of its footage, which it never saw; and whether the footage was enough.

Beside the bundle's own files come ``unusual.json`` and ``unusual/*.jpg``: the moments with times, scores and heat maps.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import Bundle, Calibration
from deploy.decision import DecisionRule
from deploy.engine import Engine, EngineRequest
from deploy.engines.registry import load_engine
from deploy.image import encode_jpeg
from trainer.calibrate import MIN_FRAMES, calibration_from
from trainer.data.clips import Split
from trainer.data.footage import Footage
from trainer.evaluation.event_metrics import announced_events
from trainer.evaluation.mistakes import overlay
from trainer.evaluation.runner import scored_frames
from trainer.statistics import TAIL_FRAMES

APART_S = 2.0
"""Between a moment below the threshold and any other one."""

Scores = Mapping[str, NDArray[np.float32]]
"""Clip -> one score a frame of its source, float32 (frames,); NaN where there is none."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A stretch of frames of one clip, counted from 0, both ends included."""

    clip: str
    first_frame: int
    last_frame: int
    peak_frame: int
    """The frame with the highest score of the stretch."""
    peak_score: float
    announced: bool
    """Whether the service would have announced it. If not, it is its peak alone."""


def unusual_moments(rule: DecisionRule, scores: Scores, fps: float, at_least: int) -> list[Moment]:
    """The announced events, highest peak first, and then the highest scores elsewhere until there are ``at_least`` moments."""
    announced = [
        _stretch(clip, row, event.started, event.ended)
        for clip, row in scores.items()
        for event in announced_events(rule, row, fps)
    ]
    left = {clip: row.copy() for clip, row in scores.items()}
    apart = max(1, round(APART_S * fps))
    for moment in announced:
        _take_out(left, moment, apart)
    others: list[Moment] = []
    while len(announced) + len(others) < at_least and any(np.isfinite(row).any() for row in left.values()):
        clip = max(left, key=lambda name: np.nanmax(left[name], initial=-np.inf))
        peak = int(np.nanargmax(left[clip]))
        others.append(Moment(clip, peak, peak, peak, float(left[clip][peak]), announced=False))
        _take_out(left, others[-1], apart)
    return [*sorted(announced, key=lambda moment: -moment.peak_score), *others]


def _stretch(clip: str, row: NDArray[np.float32], first: int, last: int) -> Moment:
    peak = first + int(np.nanargmax(row[first : last + 1]))
    return Moment(clip, first, last, peak, float(row[peak]), announced=True)


def _take_out(left: dict[str, NDArray[np.float32]], moment: Moment, apart: int) -> None:
    left[moment.clip][max(0, moment.first_frame - apart) : moment.last_frame + apart + 1] = np.nan


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


JSON_NAME = "unusual.json"
PICTURES_NAME = "unusual"
MOMENTS = 5
"""At least so many are told of, whether the service would have announced them or not."""
MOST_PICTURES = 10
_JPEG_QUALITY = 90


@dataclass(frozen=True, slots=True)
class LastTenth:
    """What was found."""

    moments: tuple[Moment, ...]
    """Announced events first; the first ``MOST_PICTURES`` have pictures, numbered from 1."""
    facts: Facts
    judgement: Judgement
    fps: float


def look_at_last_tenth(bundle: Bundle, split: Split, advance: Callable[[int], None]) -> LastTenth:
    """Score what was set aside, write the report beside the bundle; ``advance`` is told of every scored frame.

    Raises:
        OddsightError: the bundle's default engine cannot be used.
    """
    engine = load_engine(bundle, EngineRequest())
    try:
        calibrated = _scores(engine, split.validation, advance)
        scores = dict(zip((video.name for video in split.holdout), _scores(engine, split.holdout, advance), strict=True))
        rule = DecisionRule(enter=bundle.calibration.enter, exit=bundle.calibration.exit)
        moments = tuple(unusual_moments(rule, scores, bundle.spec.fps, MOMENTS))
        facts = _facts(bundle, split, np.concatenate(calibrated), scores, moments)
        found = LastTenth(moments, facts, judge(facts), bundle.spec.fps)
        _write_pictures(bundle, engine, split.holdout, moments)
    finally:
        engine.close()
    (bundle.path / JSON_NAME).write_text(json.dumps(_report(bundle, found), indent=2) + "\n", encoding="utf-8")
    return found


def threshold_drift(scores: NDArray[np.float32], calibration: Calibration) -> float | None:
    """See :data:`trainer.holdout.THRESHOLD_DRIFT`; ``scores`` are those of the calibration frames in order, float32 (N,)."""
    halves = np.array_split(scores, 2)
    if len(halves[1]) < MIN_FRAMES:
        return None
    first, second = (calibration_from(half).enter for half in halves)
    return abs(first - second) / (calibration.enter - calibration.median)


def loss_ratio(metrics: dict[str, Any]) -> float | None:
    """See :data:`trainer.holdout.LOSS_RATIO`, from a bundle's metrics."""
    learned, held_out = metrics["loss_learned"], metrics["loss_held_out"]
    return held_out / learned if held_out is not None and min(learned, held_out) > 0 else None


def _facts(bundle: Bundle, split: Split, calibrated: NDArray[np.float32], scores: Scores, moments: Sequence[Moment]) -> Facts:
    frames = sum(len(video.frames) for part in (split.train, split.validation, split.holdout) for video in part)
    scored = sum(int(np.isfinite(row).sum()) for row in scores.values())
    frames_an_hour = bundle.spec.fps * 3600
    return Facts(
        hours=frames / frames_an_hour,
        calibration_frames=bundle.calibration.frames,
        threshold_drift=threshold_drift(calibrated[np.isfinite(calibrated)], bundle.calibration),
        last_tenth_hours=scored / frames_an_hour,
        events=sum(moment.announced for moment in moments),
        loss_ratio=loss_ratio(bundle.manifest.metrics),
    )


def _scores(engine: Engine, footage: Iterable[Footage], advance: Callable[[int], None]) -> list[NDArray[np.float32]]:
    """One score a frame of each clip's source, float32 (total,); NaN where there is none."""
    every = []
    for video in footage:
        row = np.full(video.total, np.nan, np.float32)
        for place, score, _ in scored_frames(engine, video):
            row[place] = score
            advance(1)
        every.append(row)
    return every


def _write_pictures(bundle: Bundle, engine: Engine, footage: Sequence[Footage], moments: Sequence[Moment]) -> None:
    """The peaks of the first few moments. The clips are scored again: all their heat maps would be too many to keep."""
    folder = bundle.path / PICTURES_NAME
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.jpg"):
        old.unlink()
    numbers = {(moment.clip, moment.peak_frame): number for number, moment in enumerate(moments[:MOST_PICTURES], 1)}
    for video in footage:
        wanted = {frame for clip, frame in numbers if clip == video.name}
        for place, heatmap in _heatmaps(engine, video, wanted):
            frame = video.frames[int(np.searchsorted(video.index, place))]
            picture = overlay(np.asarray(frame), heatmap, bundle.calibration)
            (folder / f"{numbers[video.name, place]}.jpg").write_bytes(encode_jpeg(picture, _JPEG_QUALITY))


def _heatmaps(engine: Engine, video: Footage, wanted: set[int]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    frames = takewhile(lambda found: found[0] <= max(wanted), scored_frames(engine, video)) if wanted else ()
    return ((place, heatmap) for place, _, heatmap in frames if place in wanted)


def _report(bundle: Bundle, found: LastTenth) -> dict[str, Any]:
    return {
        "model_id": bundle.model_id,
        "calibration_id": bundle.calibration.calibration_id,
        "threshold": bundle.calibration.enter,
        "fps": found.fps,
        "moments": [_moment(number, moment, found.fps) for number, moment in enumerate(found.moments, 1)],
        "enough": {**asdict(found.judgement), "facts": asdict(found.facts)},
    }


def _moment(number: int, moment: Moment, fps: float) -> dict[str, Any]:
    return {
        **asdict(moment),
        "first_s": moment.first_frame / fps,
        "last_s": moment.last_frame / fps,
        "peak_s": moment.peak_frame / fps,
        "picture": f"{PICTURES_NAME}/{number}.jpg" if number <= MOST_PICTURES else None,
    }


def last_tenth_lines(found: LastTenth, threshold: float) -> Iterator[str]:
    """What the screen shows of ``found``, line by line; ``threshold`` in score units."""
    events, minutes = found.facts.events, found.facts.last_tenth_hours * 60
    yield (
        f"the last tenth of the footage, {minutes:.1f} minutes that were neither learned from nor calibrated on, has "
        f"{events or 'no'} event{'' if events == 1 else 's'} at the threshold {threshold:.3g}; its most unusual moments:"
    )
    for number, moment in enumerate(found.moments[:MOST_PICTURES], 1):
        yield f"  {number}. {_moment_last_tenth_text(moment, found.fps, threshold)}"
    yield f"pictures with heat maps in {PICTURES_NAME}/, all moments in {JSON_NAME}"
    yield f"was the footage enough? {found.judgement.text}"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds from the start of a clip, such as 1:02:03.4."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest / 10:04.1f}"


def _moment_last_tenth_text(moment: Moment, fps: float, threshold: float) -> str:
    peak = f"score {moment.peak_score:.3g} at {clock(moment.peak_frame / fps)} (frame {moment.peak_frame})"
    if not moment.announced:
        return f"{moment.clip}: {'too short for an' if moment.peak_score >= threshold else 'no'} event, {peak}"
    return f"{moment.clip}: {clock(moment.first_frame / fps)} to {clock(moment.last_frame / fps)}, {peak}"
