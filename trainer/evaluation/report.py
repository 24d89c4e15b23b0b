"""``evaluate --report``: one HTML file that holds its images and needs no network."""

from base64 import b64encode
from contextlib import closing
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console

from deploy.engine import EngineRequest
from deploy.errors import ConfigError
from deploy.image import encode_jpeg
from deploy.registry import load_engine
from trainer.evaluation.event_metrics import ClipEvents
from trainer.evaluation.metrics import SMOOTHING_FRAMES, fill, frame_roc
from trainer.evaluation.mistakes import Image, colour_scale, mistake_images, worst_false_alarms, worst_misses
from trainer.evaluation.result import Evaluation, figure, headlines, interval, rate

MAX_IMAGES = 10
"""Of misses, and of false alarms."""

_COLOURS = ("#1f5fbf", "#8a8a8a", "#c08a2a", "#2a8a5a")  # of the model, then of the baselines
_TRUTH_COLOUR = "#d9534f"


def prepare_folder(folder: Path) -> None:
    """Make the folder of the report before the evaluation, so that a bad path fails at once. Raises ConfigError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--report must be a folder that can be made, got {folder}: {error.strerror}") from error


def write_report(evaluation: Evaluation, folder: Path, screen: Console) -> Path:
    """Write ``folder/index.html``; the clips of the worst mistakes are scored again for their heat maps.

    Raises:
        OddsightError: the engine or the footage is no longer available.
        ConfigError: the folder cannot be written to.
    """
    model, limits = evaluation.model, evaluation.thresholds
    inputs = (model.output.scores, evaluation.labels, limits.enter, evaluation.fps)
    misses, false_alarms = worst_misses(*inputs)[:MAX_IMAGES], worst_false_alarms(*inputs)[:MAX_IMAGES]
    with (
        screen.status("scoring the worst mistakes again"),
        closing(load_engine(evaluation.bundle, EngineRequest(evaluation.engine))) as engine,
    ):
        images = mistake_images(engine, evaluation.clips, [*misses, *false_alarms], limits)
    mistakes = [*zip([*misses, *false_alarms], map(_jpeg, images), strict=True)]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("trainer.evaluation").joinpath("report.html").read_text(encoding="utf-8"))
    page = template.render(
        figure=figure,
        interval=interval,
        rate=rate,
        smoothing_frames=SMOOTHING_FRAMES,
        evaluation=evaluation,
        headlines=list(headlines(evaluation)),
        roc=_roc(evaluation),
        timelines=_timelines(evaluation),
        misses=mistakes[: len(misses)],
        false_alarms=mistakes[len(misses) :],
        scale=_jpeg(colour_scale(limits)),
    )
    path = folder / "index.html"
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--report must be a folder that can be written to, got {folder}: {error.strerror}") from error
    return path


# --- Charts. No text from disk enters them: matplotlib would read a ``$`` in a clip's name as a formula.


def _roc(evaluation: Evaluation) -> str | None:
    rocs = [frame_roc(d.output.scores, evaluation.labels, d.output.normal.median) for d in evaluation.detectors]
    curves = [(detector.name, roc) for detector, roc in zip(evaluation.detectors, rocs, strict=True) if roc is not None]
    if not curves:
        return None
    figure, axes = _figure(5.6, 5.0)
    for number, (name, rates) in enumerate(curves):
        label, width = ("model", 2.2) if number == 0 else (name, 1.2)
        axes.plot(*rates, label=label, color=_COLOURS[number % len(_COLOURS)], linewidth=width)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=0.8, linestyle=":", label="guessing")
    axes.set(xlabel="normal frames above the threshold", ylabel="anomalous frames above the threshold", aspect="equal")
    axes.legend(loc="lower right", frameon=False)
    return _png(figure)


def _timelines(evaluation: Evaluation) -> dict[str, str]:
    output, enter = evaluation.model.output, evaluation.thresholds.enter
    filled = np.concatenate(list(fill(output.scores, output.normal.median).values()))
    low, high = float(filled.min()), max(enter, float(filled.max()))
    return {
        name: _timeline(row, evaluation.model.clip_events[name], enter, evaluation.fps, (low, high))
        for name, row in output.scores.items()
    }


def _timeline(scores: NDArray[np.float32], events: ClipEvents, threshold: float, fps: float, span: tuple[float, float]) -> str:
    figure, axes = _figure(8.4, 1.9)
    for first, last in events.true:
        axes.axvspan(first / fps, (last + 1) / fps, color=_TRUTH_COLOUR, alpha=0.18, linewidth=0)
    axes.axhline(threshold, color="#444444", linewidth=1.0, linestyle="--")
    axes.plot(np.arange(len(scores)) / fps, scores, color=_COLOURS[0], linewidth=1.3)
    low, high = span
    margin = (high - low) * 0.06 or 1.0
    for event in events.announced:
        axes.plot([event.started / fps, (event.ended + 1) / fps], [high + margin] * 2, color="black", linewidth=3.0)
        axes.plot([event.announced / fps], [high + margin], marker="v", color="black", markersize=8)
    axes.set(xlim=(0, len(scores) / fps), ylim=(low - margin, high + 3 * margin), xlabel="seconds", ylabel="score")
    return _png(figure)


def _figure(width_inches: float, height_inches: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width_inches, height_inches), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _png(figure: Figure) -> str:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return _data_url("png", buffer.getvalue())


def _jpeg(image: Image) -> str:
    return _data_url("jpeg", encode_jpeg(image, quality=92))


def _data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode()}"
