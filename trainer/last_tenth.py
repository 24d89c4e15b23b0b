"""What a new model makes of the last tenth of its footage, which it never saw; and whether the footage was enough.

Beside the bundle's own files come ``unusual.json`` and ``unusual/*.jpg``: the moments with times, scores and heat maps.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.bundle import Bundle, Calibration
from deploy.decide import DecisionRule
from deploy.engine import DEFAULT_ENGINE, Engine, load_engine
from deploy.frames import encode_jpeg
from trainer.calibrate import MIN_FRAMES, calibration_from
from trainer.data import Split
from trainer.enough import Facts, Judgement, judge
from trainer.footage import Footage
from trainer.moments import Moment, Scores, unusual_moments
from trainer.overlay import overlay
from trainer.scoring import scored_frames

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
    engine = load_engine(bundle, DEFAULT_ENGINE)
    try:
        calibrated = _scores(engine, split.held_out, advance)
        scores = dict(zip((video.name for video in split.set_aside), _scores(engine, split.set_aside, advance), strict=True))
        rule = DecisionRule(enter=bundle.calibration.enter, exit=bundle.calibration.exit)
        moments = tuple(unusual_moments(rule, scores, bundle.spec.fps, MOMENTS))
        facts = _facts(bundle, split, np.concatenate(calibrated), scores, moments)
        found = LastTenth(moments, facts, judge(facts), bundle.spec.fps)
        _write_pictures(bundle, engine, split.set_aside, moments)
    finally:
        engine.close()
    (bundle.path / JSON_NAME).write_text(json.dumps(_report(bundle, found), indent=2) + "\n", encoding="utf-8")
    return found


def threshold_drift(scores: NDArray[np.float32], calibration: Calibration) -> float | None:
    """See :data:`trainer.enough.THRESHOLD_DRIFT`; ``scores`` are those of the calibration frames in order, float32 (N,)."""
    halves = np.array_split(scores, 2)
    if len(halves[1]) < MIN_FRAMES:
        return None
    first, second = (calibration_from(half).enter for half in halves)
    return abs(first - second) / (calibration.enter - calibration.median)


def loss_ratio(metrics: dict[str, Any]) -> float | None:
    """See :data:`trainer.enough.LOSS_RATIO`, from a bundle's metrics."""
    learned, held_out = metrics["loss_learned"], metrics["loss_held_out"]
    return held_out / learned if held_out is not None and min(learned, held_out) > 0 else None


def _facts(bundle: Bundle, split: Split, calibrated: NDArray[np.float32], scores: Scores, moments: Sequence[Moment]) -> Facts:
    frames = sum(len(video.frames) for part in (split.fit, split.held_out, split.set_aside) for video in part)
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
