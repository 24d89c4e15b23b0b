"""``evaluate --report``: one HTML file for a person who was not there. It holds its pictures and needs no network."""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from rich.console import Console

from deploy.bundle import Calibration
from deploy.engine import load_engine
from deploy.errors import ConfigError
from deploy.frames import encode_jpeg
from trainer.evaluation.charts import roc_chart, timeline
from trainer.evaluation.pictures import Picture, Shot, scale_picture, shots
from trainer.evaluation.result import Detector, Evaluation
from trainer.evaluation.screen import figure
from trainer.evaluation.words import headlines
from trainer.evaluation.worst import Mistake, worst_false_alarms, worst_misses
from trainer.metrics import fill, frame_roc

PICTURES = 10
"""Of misses, and of false alarms."""
PAGE_NAME = "index.html"
_TEMPLATE_NAME = "report.html"
_JPEG_QUALITY = 92


@dataclass(frozen=True, slots=True)
class Card:
    """A mistake as the page shows it."""

    picture: str
    clip: str
    frame: int
    score: str
    height: str
    """Of the score: 0 is the median of normal scores, 1 the threshold."""
    stretch: str
    wrong: bool


@dataclass(frozen=True, slots=True)
class ClipRow:
    """A clip as the page shows it."""

    name: str
    frames: int
    anomalous: int
    auc: str
    events: str
    chart: str


def prepare_folder(folder: Path) -> None:
    """Make the folder that the report will be written to, before anything takes time.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--report must be a folder that can be made, got {folder}: {error.strerror}") from error


def write_report(evaluation: Evaluation, folder: Path, screen: Console) -> Path:
    """Write ``folder/index.html``; the clips of the worst mistakes are scored again for their heat maps.

    Raises:
        OddsightError: the engine or the footage is no longer there.
        ConfigError: the folder cannot be written to.
    """
    with screen.status("scoring the worst mistakes again"):
        misses, false_alarms = _mistakes(evaluation)
        cards = _cards(evaluation, [*misses, *false_alarms])
    page = _page(evaluation, cards[: len(misses)], cards[len(misses) :])
    path = folder / PAGE_NAME
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--report must be a folder that can be written to, got {folder}: {error.strerror}") from error
    return path


def _page(evaluation: Evaluation, misses: Sequence[Card], false_alarms: Sequence[Card]) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("trainer.evaluation").joinpath(_TEMPLATE_NAME).read_text(encoding="utf-8"))
    return template.render(
        evaluation=evaluation,
        headlines=list(headlines(evaluation)),
        figure=figure,
        roc=_roc(evaluation),
        clips=list(_clip_rows(evaluation)),
        misses=misses,
        false_alarms=false_alarms,
        scale=_jpeg(scale_picture(evaluation.bundle.calibration)),
    )


def _mistakes(evaluation: Evaluation) -> tuple[list[Mistake], list[Mistake]]:
    known = (evaluation.model.scores, evaluation.labels, evaluation.bundle.calibration.enter, evaluation.bundle.spec.fps)
    return worst_misses(*known)[:PICTURES], worst_false_alarms(*known)[:PICTURES]


def _cards(evaluation: Evaluation, mistakes: Sequence[Mistake]) -> list[Card]:
    calibration = evaluation.bundle.calibration
    engine = load_engine(evaluation.bundle, evaluation.engine)
    try:
        return [_card(shot, calibration) for shot in shots(engine, evaluation.clips, mistakes, calibration)]
    finally:
        engine.close()


def _card(shot: Shot, calibration: Calibration) -> Card:
    mistake = shot.mistake
    height = (mistake.score - calibration.median) / (calibration.enter - calibration.median)
    first, last = mistake.first_frame, mistake.last_frame
    return Card(
        picture=_jpeg(shot.picture),
        clip=mistake.clip,
        frame=mistake.frame,
        score=f"{mistake.score:.3g}",
        height=f"{height:.2f}",
        stretch=f"frames {first} to {last}" if last > first else f"frame {first}",
        wrong=mistake.wrong,
    )


def _clip_rows(evaluation: Evaluation) -> Iterator[ClipRow]:
    model, calibration = evaluation.model, evaluation.bundle.calibration
    span = _span(model, calibration)
    for name, labels in evaluation.labels.items():
        events = model.clip_events[name]
        chart = timeline(model.scores[name], events, calibration, evaluation.bundle.spec.fps, span)
        yield ClipRow(
            name=name,
            frames=len(labels),
            anomalous=int(labels.sum()),
            auc=figure(model.streaming.clip_auc.get(name), 3),
            events=f"{events.found} of {len(events.true)} true events found, {events.false} false",
            chart=_data_url("png", chart),
        )


def _span(model: Detector, calibration: Calibration) -> tuple[float, float]:
    filled = fill(model.scores, model.fill_value).values()
    return min(float(row.min()) for row in filled), max(calibration.enter, *(float(row.max()) for row in filled))


def _roc(evaluation: Evaluation) -> str | None:
    names = ["model", *(baseline.name for baseline in evaluation.baselines)]
    curves = [frame_roc(found.scores, evaluation.labels, found.fill_value) for found in evaluation.detectors]
    drawn = [(name, curve) for name, curve in zip(names, curves, strict=True) if curve is not None]
    return _data_url("png", roc_chart(drawn)) if drawn else None


def _jpeg(picture: Picture) -> str:
    return _data_url("jpeg", encode_jpeg(picture, _JPEG_QUALITY))


def _data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode()}"
